"""Payments by hand: what a body says, which invoices it settles, and which accounts it moves. Pure.

Money named for invoices goes there and what is left of it becomes customer balance; money that
nothing was named for goes to the oldest due invoice first; money that finds none, or is told to
find none, is unapplied cash.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from engine.errors import BillingError, FieldError
from engine.journal import (
    ACCOUNTS_RECEIVABLE,
    CASH,
    CUSTOMER_BALANCE,
    REFUNDS_PAYABLE,
    UNAPPLIED_CASH,
    Posting,
    imbalance_minor,
)
from engine.money import (
    CurrencyCode,
    UnsignedText,
    format_amount,
    is_currency,
    parse_amount,
)
from invoicing.losses import Loss, given_back, loss_postings
from invoicing.model import InvoiceStatus
from plans.shape import Body, Record, ShortText

AMOUNT_MAX_MINOR = 10**15


class PaymentMethod(StrEnum):
    """How the money came."""

    MANUAL = "manual"
    BANK = "bank"


class PaymentStatus(StrEnum):
    """What became of a payment."""

    SUCCEEDED = "succeeded"
    RETURNED = "returned"


class AllocationDraft(Body, frozen=True, kw_only=True):
    """`amount` of a payment for an invoice (id or number)."""

    invoice: ShortText
    amount: UnsignedText


Allocations = Annotated[tuple[AllocationDraft, ...], msgspec.Meta(max_length=1_000)]


class PaymentDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/payments`: money that came in by hand or by bank, in major units.

    Without `allocations` the oldest due invoice is paid first; an empty list pays none.
    """

    customer: ShortText
    amount: UnsignedText
    currency: CurrencyCode
    method: PaymentMethod
    reference: ShortText | None = None
    allocations: Allocations | None = None


class AllocateDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/payments/{id}/allocate`: what of the unapplied money goes where.

    Without `allocations` the oldest due invoice is paid first.
    """

    allocations: Allocations | None = None


class Allocation(Record, frozen=True, kw_only=True):
    """What a payment paid of an invoice, named by its id."""

    invoice: str
    amount: str


class Payment(Record, frozen=True, kw_only=True):
    """Money that came in. `invoice` is the one it paid, None for none or several.

    `credited` became customer balance, `unapplied` waits to be matched, `refunded` was or will be
    given back. Of one that was returned nothing is left; `return_code` is what the bank said.
    """

    id: str
    customer: str
    currency: str
    amount: str
    method: PaymentMethod
    status: PaymentStatus
    reference: str | None
    invoice: str | None
    allocations: tuple[Allocation, ...]
    credited: str
    unapplied: str
    refunded: str
    attempted_at: datetime
    returned_at: datetime | None = None
    return_code: str | None = None


class Payable(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice that can take money, locked. `losses` of one that was written off."""

    id: str
    number: str
    customer: str
    currency: str
    status: InvoiceStatus
    amount_due_minor: int
    version: int
    losses: tuple[Loss, ...] = ()


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What of the money one invoice takes."""

    invoice: Payable
    amount_minor: int


def amount_errors(amount: str, *, currency: str, pointer: str = "/amount") -> list[FieldError]:
    """An amount of money is above zero and no finer than its currency."""
    if not is_currency(currency):
        detail = f"{currency!r} is not an ISO 4217 currency"
        return [FieldError(pointer="/currency", code="unknown_currency", detail=detail)]
    try:
        minor = parse_amount(amount, currency=currency)
    except BillingError as error:
        return [FieldError(pointer=pointer, code="invalid", detail=error.detail)]
    if 0 < minor < AMOUNT_MAX_MINOR:
        return []
    return [FieldError(pointer=pointer, code="invalid", detail="no such amount can move")]


def allocate_oldest(*, amount_minor: int, payable: Sequence[Payable]) -> list[Part]:
    """The money over the invoices in their order, each as far as it is open."""
    parts: list[Part] = []
    for invoice in payable:
        part = min(amount_minor, invoice.amount_due_minor)
        if part > 0:
            parts.append(Part(invoice=invoice, amount_minor=part))
            amount_minor -= part
    return parts


def named_parts(
    *,
    allocations: Sequence[AllocationDraft],
    amount_minor: int,
    currency: str,
    customer: str,
    payable: Mapping[str, Payable],
) -> tuple[list[Part], list[FieldError]]:
    """What each named invoice takes, and everything that is wrong with it.

    `payable` by id and by number. An invoice takes money of its own customer and currency while
    it is open or written off, never more than is due, and no more than there is.
    """
    parts: list[Part] = []
    errors: list[FieldError] = []
    for index, each in enumerate(allocations):
        here = f"/allocations/{index}"
        found = payable.get(each.invoice)
        wrong = _refusal(found, each, currency=currency, customer=customer)
        if wrong is None and found is not None and any(part.invoice is found for part in parts):
            wrong = ("invoice", "duplicate", f"{each.invoice!r} is named twice")
        if wrong is not None or found is None:
            name, code, detail = wrong or ("invoice", "not_found", f"no invoice {each.invoice!r}")
            errors.append(FieldError(pointer=f"{here}/{name}", code=code, detail=detail))
            continue
        minor = parse_amount(each.amount, currency=currency)
        parts.append(Part(invoice=found, amount_minor=minor))
    given = sum(part.amount_minor for part in parts)
    if given > amount_minor:
        told = format_amount(given, currency=currency)
        detail = f"{told} is allocated of {format_amount(amount_minor, currency=currency)}"
        errors.append(FieldError(pointer="/allocations", code="overallocated", detail=detail))
    return parts, errors


def _refusal(
    found: Payable | None, each: AllocationDraft, *, currency: str, customer: str
) -> tuple[str, str, str] | None:
    """(field, code, detail) of what is wrong with one allocation."""
    if found is None or found.customer != customer:
        return "invoice", "unknown_invoice", f"the customer has no invoice {each.invoice!r}"
    if found.currency != currency:
        return "invoice", "currency_mismatch", f"{each.invoice!r} is in {found.currency}"
    if found.status not in {InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE}:
        return "invoice", "invoice_not_open", f"{each.invoice!r} is {found.status.value}"
    wrong = amount_errors(each.amount, currency=currency)
    if wrong:
        return "amount", wrong[0].code, wrong[0].detail
    if parse_amount(each.amount, currency=currency) > found.amount_due_minor:
        due = format_amount(found.amount_due_minor, currency=currency)
        return "amount", "overallocated", f"{due} is due of {each.invoice!r}"
    return None


def receipt_postings(
    *,
    payment: str,
    customer: str,
    amount_minor: int,
    parts: Sequence[Part],
    credited_minor: int,
    unapplied_minor: int,
) -> list[Posting]:
    """A receipt: debit cash; credit what it pays, the customer's balance and unapplied cash."""
    rest = {CUSTOMER_BALANCE: -credited_minor, UNAPPLIED_CASH: -unapplied_minor}
    postings = [
        Posting(account=account, amount_minor=amount, customer=customer, document=payment)
        for account, amount in ({CASH: amount_minor} | rest).items()
        if amount
    ]
    return _checked(postings + _paid_side(parts, customer))


def allocation_postings(*, payment: str, customer: str, parts: Sequence[Part]) -> list[Posting]:
    """Unapplied cash finds its invoices: debit it, credit what it pays."""
    taken = sum(part.amount_minor for part in parts)
    debit = Posting(account=UNAPPLIED_CASH, amount_minor=taken, customer=customer, document=payment)
    return _checked([debit, *_paid_side(parts, customer)])


def put_back_postings(
    *, refund: str, payment: str, customer: str, parts: Sequence[Part], unapplied_minor: int
) -> list[Posting]:
    """A refund that does not go: debit what was owed, credit what it pays again and what waits."""
    waits = Posting(
        account=UNAPPLIED_CASH, amount_minor=-unapplied_minor, customer=customer, document=payment
    )
    given = _paid_side(parts, customer) + ([waits] if unapplied_minor else [])
    debit = Posting(
        account=REFUNDS_PAYABLE,
        amount_minor=-imbalance_minor(postings=given),
        customer=customer,
        document=refund,
    )
    return _checked([debit, *given])


def _paid_side(parts: Sequence[Part], customer: str) -> list[Posting]:
    postings: list[Posting] = []
    for part in parts:
        if part.invoice.status is InvoiceStatus.UNCOLLECTIBLE:
            undone = given_back(
                losses=part.invoice.losses, amount_minor=part.amount_minor, loss_first=True
            )
            postings += loss_postings(
                losses=undone, customer=customer, invoice=part.invoice.id, sign=-1
            )
        else:
            postings.append(
                Posting(
                    account=ACCOUNTS_RECEIVABLE,
                    amount_minor=-part.amount_minor,
                    customer=customer,
                    document=part.invoice.id,
                )
            )
    return postings


def _checked(postings: list[Posting]) -> list[Posting]:
    assert imbalance_minor(postings=postings) == 0, "a posting rule must balance"
    return postings
