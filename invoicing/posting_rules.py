"""Which accounts a document moves. Pure; every entry balances by construction and is checked."""

from collections.abc import Mapping, Sequence

import msgspec

from engine.journal import (
    ACCOUNTS_RECEIVABLE,
    CUSTOMER_BALANCE,
    PREPAID_CREDITS,
    REFUNDS_PAYABLE,
    TAX_PAYABLE,
    Posting,
    imbalance_minor,
)
from invoicing.assembly import Draft


def invoice_postings(*, draft: Draft, document: str, lines: Sequence[str]) -> list[Posting]:
    """An issued invoice: debit receivables the total; credit contract balances the net, and tax."""
    customer = draft.customer.id
    postings = [
        Posting(
            account=ACCOUNTS_RECEIVABLE,
            amount_minor=draft.total_minor,
            customer=customer,
            document=document,
        )
    ]
    postings.extend(_earned_side(draft=draft, document=document, lines=lines))
    return _checked(postings)


def credit_note_postings(
    *,
    draft: Draft,
    document: str,
    lines: Sequence[str],
    applied_minor: int,
    refunded_minor: int = 0,
) -> list[Posting]:
    """A credit note: debit contract balances and tax; credit receivables as far as open.

    Of the rest credit `refunded_minor` to refunds payable and what is left to the balance.
    """
    customer = draft.customer.id
    postings = list(_earned_side(draft=draft, document=document, lines=lines))
    parts = {
        ACCOUNTS_RECEIVABLE: applied_minor,
        REFUNDS_PAYABLE: refunded_minor,
        CUSTOMER_BALANCE: -draft.total_minor - applied_minor - refunded_minor,
    }
    for account, amount in parts.items():
        if amount:
            postings.append(
                Posting(account=account, amount_minor=-amount, customer=customer, document=document)
            )
    return _checked(postings)


def balance_postings(*, draft: Draft, document: str, amount_minor: int) -> list[Posting]:
    """Customer balance used by an invoice: debit the balance, credit receivables."""
    customer = draft.customer.id
    return _checked(
        [
            Posting(
                account=CUSTOMER_BALANCE,
                amount_minor=amount_minor,
                customer=customer,
                document=document,
            ),
            Posting(
                account=ACCOUNTS_RECEIVABLE,
                amount_minor=-amount_minor,
                customer=customer,
                document=document,
            ),
        ]
    )


def void_postings(
    *, issued: Sequence[Posting], due_minor: int, prepaid: Mapping[str, int]
) -> list[Posting]:
    """A void: the issue of the invoice the other way round.

    Receivables go down by what is still due; what grants (ids) paid of the total is prepaid credit
    again, and what else settled it is customer balance.
    """
    mirrored: list[Posting] = []
    for posting in issued:
        amounts = {posting.account: -posting.amount_minor}
        if posting.account == ACCOUNTS_RECEIVABLE:
            settled = posting.amount_minor - due_minor - sum(prepaid.values())
            amounts = {ACCOUNTS_RECEIVABLE: -due_minor, CUSTOMER_BALANCE: -settled}
        mirrored.extend(
            msgspec.structs.replace(posting, account=account, amount_minor=amount)
            for account, amount in amounts.items()
            if amount or account == posting.account
        )
    mirrored.extend(
        Posting(
            account=PREPAID_CREDITS,
            amount_minor=-amount,
            customer=issued[0].customer,
            document=issued[0].document,
            contract=grant,
        )
        for grant, amount in prepaid.items()
    )
    return _checked(mirrored)


def prepaid_postings(*, draft: Draft, document: str) -> list[Posting]:
    """Prepaid credit that pays an invoice: debit each grant's balance, credit receivables."""
    customer = draft.customer.id
    by_grant: dict[str, int] = {}
    for draw in draft.draws:
        if draw.kind == "prepaid":
            by_grant[draw.grant] = by_grant.get(draw.grant, 0) + draw.amount_minor
    postings = [
        Posting(
            account=PREPAID_CREDITS,
            amount_minor=amount,
            customer=customer,
            document=document,
            contract=grant,
        )
        for grant, amount in by_grant.items()
    ]
    paid = sum(by_grant.values())
    postings.append(
        Posting(
            account=ACCOUNTS_RECEIVABLE,
            amount_minor=-paid,
            customer=customer,
            document=document,
        )
    )
    return _checked(postings)


def _earned_side(*, draft: Draft, document: str, lines: Sequence[str]) -> list[Posting]:
    """The net of each line on its contract, and the tax of each jurisdiction."""
    customer = draft.customer.id
    postings = [
        Posting(
            account=line.account,
            amount_minor=-line.net_minor,
            customer=customer,
            document=document,
            contract=line.contract or document,
            line=identity,
        )
        for line, identity in zip(draft.lines, lines, strict=True)
    ]
    by_jurisdiction: dict[str, int] = {}
    for tax in draft.taxes:
        known = by_jurisdiction.get(tax.jurisdiction, 0)
        by_jurisdiction[tax.jurisdiction] = known + tax.amount_minor
    postings.extend(
        Posting(
            account=TAX_PAYABLE,
            amount_minor=-amount,
            customer=customer,
            document=document,
            dimension=jurisdiction,
        )
        for jurisdiction, amount in sorted(by_jurisdiction.items())
        if amount
    )
    return postings


def _checked(postings: list[Posting]) -> list[Posting]:
    assert imbalance_minor(postings=postings) == 0, "a posting rule must balance"
    return postings
