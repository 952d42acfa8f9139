"""Money that goes back: what a body says, what a payment loses, which accounts move. Pure.

A refund is owed from its decision on and gone when it is confirmed. Of a payment what waits goes
first, then what it paid, the last first: an invoice that it paid is open again.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum

import msgspec

from engine.journal import (
    ACCOUNTS_RECEIVABLE,
    CASH,
    CUSTOMER_BALANCE,
    REFUNDS_PAYABLE,
    UNAPPLIED_CASH,
    Posting,
    imbalance_minor,
)
from engine.money import CurrencyCode, UnsignedText
from invoicing.losses import write_off_postings
from invoicing.payments import Part
from plans.shape import Body, Record, ShortText


class RefundSource(StrEnum):
    """What a refund pays back."""

    CREDIT_NOTE = "credit_note"
    CUSTOMER_BALANCE = "customer_balance"
    PAYMENT = "payment"


class RefundStatus(StrEnum):
    """Where a refund is: owed, paid out, or not to be paid after all."""

    PENDING = "pending"
    SUCCEEDED = "succeeded"
    VOID = "void"


class RefundDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/refunds`: of a `payment`, or of a `customer`'s balance in a currency.

    Without `amount` it is all that is left. `invoice` (id or number) limits that of a payment to
    what it paid of it. A `confirmed` one is paid out already; others wait to be confirmed.
    """

    payment: ShortText | None = None
    customer: ShortText | None = None
    currency: CurrencyCode | None = None
    invoice: ShortText | None = None
    amount: UnsignedText | None = None
    reference: ShortText | None = None
    reason: ShortText | None = None
    confirmed: bool = False


class RefundStep(Body, frozen=True, kw_only=True):
    """`POST /v1/refunds/{id}/confirm` and `/cancel`; `reason` goes to the audit log."""

    reason: ShortText | None = None


class ReturnDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/payments/{id}/return`: the bank took the money back; `code` is what it said."""

    code: ShortText | None = None
    reason: ShortText | None = None


class Refund(Record, frozen=True, kw_only=True):
    """Money owed back, or paid back. `credit_note` and `payment` are ids."""

    id: str
    customer: str
    currency: str
    amount: str
    source: RefundSource
    credit_note: str | None
    payment: str | None
    reference: str | None
    status: RefundStatus
    created_at: datetime
    confirmed_at: datetime | None


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What is taken back of a payment: of what waits, and of the invoices that it paid."""

    unapplied_minor: int
    parts: tuple[Part, ...]

    @property
    def amount_minor(self) -> int:
        """All of it."""
        return self.unapplied_minor + sum([part.amount_minor for part in self.parts])


class RefundingNote(msgspec.Struct, frozen=True, kw_only=True):
    """What a credit note pays back as money, and the invoices (ids) that it is about."""

    amount_minor: int
    invoices: tuple[str, ...]


def free_money(
    *, paid: Mapping[str, int], notes: Sequence[RefundingNote], wanted: Collection[str]
) -> dict[str, int]:
    """What is left of the money that paid each of the invoices `wanted` when notes paid theirs.

    `paid` by invoice (id). A note takes of the money of the invoices it is about, of those that
    are not wanted first, so that nothing is kept back twice.
    """
    free = {invoice: paid.get(invoice, 0) for invoice in (*wanted, *paid)}
    for note in notes:
        left = note.amount_minor
        for invoice in sorted(note.invoices, key=lambda each: each in wanted):
            taken = min(left, max(free.get(invoice, 0), 0))
            if taken:
                free[invoice] -= taken
                left -= taken
    return {invoice: max(free[invoice], 0) for invoice in wanted}


def take_back(*, amount_minor: int, unapplied_minor: int, paid: Sequence[Part]) -> Taken:
    """`amount_minor` of what waits, then of what was paid in that order."""
    unapplied = min(amount_minor, unapplied_minor)
    left = amount_minor - unapplied
    parts: list[Part] = []
    for part in paid:
        taken = min(left, part.amount_minor)
        if taken > 0:
            parts.append(Part(invoice=part.invoice, amount_minor=taken))
            left -= taken
    return Taken(unapplied_minor=unapplied, parts=tuple(parts))


def reopening_postings(*, parts: Sequence[Part], customer: str) -> list[Posting]:
    """What is left of the write-offs of invoices that are open again, undone."""
    return [
        posting
        for part in parts
        if part.invoice.losses
        for posting in write_off_postings(
            losses=part.invoice.losses, customer=customer, invoice=part.invoice.id, sign=-1
        )
    ]


def taken_postings(
    *,
    taken: Taken,
    payment: str,
    customer: str,
    source: str,
    to_account: str,
    credited_minor: int = 0,
) -> list[Posting]:
    """A payment is taken back: debit what it paid, what waits and what it made balance.

    Credit `to_account`: refunds payable for a refund, cash for a payment that was returned.
    `source` is the id of the one or the other.
    """
    postings = [
        Posting(
            account=ACCOUNTS_RECEIVABLE,
            amount_minor=part.amount_minor,
            customer=customer,
            document=part.invoice.id,
        )
        for part in taken.parts
    ]
    rest = {UNAPPLIED_CASH: taken.unapplied_minor, CUSTOMER_BALANCE: credited_minor}
    postings += [
        Posting(account=account, amount_minor=amount, customer=customer, document=payment)
        for account, amount in rest.items()
        if amount
    ]
    return [*postings, _other_side(postings, to_account, customer, source)]


def refund_postings(*, refund: str, customer: str, amount_minor: int, back: bool) -> list[Posting]:
    """A balance is owed as money: debit it, credit refunds payable; `back` is the other way."""
    sign = -1 if back else 1
    debit = Posting(
        account=CUSTOMER_BALANCE,
        amount_minor=sign * amount_minor,
        customer=customer,
        document=refund,
    )
    return [debit, _other_side([debit], REFUNDS_PAYABLE, customer, refund)]


def confirmed_postings(*, refund: str, customer: str, amount_minor: int) -> list[Posting]:
    """A refund is paid out: debit refunds payable, credit cash."""
    debit = Posting(
        account=REFUNDS_PAYABLE, amount_minor=amount_minor, customer=customer, document=refund
    )
    return [debit, _other_side([debit], CASH, customer, refund)]


def _other_side(postings: Sequence[Posting], account: str, customer: str, document: str) -> Posting:
    return Posting(
        account=account,
        amount_minor=-imbalance_minor(postings=postings),
        customer=customer,
        document=document,
    )
