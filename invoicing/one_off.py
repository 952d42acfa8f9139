"""Invoices written by hand: what a body says, and the lines it makes. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

import msgspec

from engine.delivered import RevenueMethod
from engine.errors import BillingError, FieldError
from engine.money import (
    CurrencyCode,
    Rounding,
    UnsignedText,
    currency_digits,
    is_currency,
    parse_amount,
    parse_scaled,
    round_ratio,
)
from engine.period import Period
from invoicing.lines import Line
from invoicing.model import Reason
from plans.shape import Body, DaysText, Key, Name, ShortText
from plans.tax_rates import TaxRate, unknown_rates

AMOUNT_MAX_MINOR: Final = 10**15
MOST_LINES: Final = 1_000
QUANTITY_DIGITS: Final = 9
UNIT_DIGITS: Final = 12


class Revenue(Body, frozen=True, kw_only=True):
    """How a line written by hand is earned; kept with it. `days` belongs to `over_days`."""

    method: RevenueMethod
    days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] | None = None


class OneOffLine(Body, frozen=True, kw_only=True):
    """One line: either its `amount`, or `quantity` units at `unit_amount`; major units."""

    key: Key
    name: Name | None = None
    amount: UnsignedText | None = None
    quantity: UnsignedText | None = None
    unit_amount: UnsignedText | None = None
    tax_rates: Annotated[tuple[Key, ...], msgspec.Meta(max_length=20)] = ()
    period: tuple[datetime, datetime] | None = None
    revenue: Revenue | None = None


class OneOffDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices`: an invoice written by hand, issued at once.

    Without `currency` it is in the customer's, else the seller's; without `due_at` and
    `net_terms_days` it is due by the customer's terms, else the seller's. A `cancellable` one is in
    the books from the first of a payment, the start of a line's period and `cancellable_until`.
    """

    customer: ShortText
    lines: Annotated[tuple[OneOffLine, ...], msgspec.Meta(min_length=1, max_length=MOST_LINES)]
    currency: CurrencyCode | None = None
    due_at: datetime | None = None
    net_terms_days: DaysText | None = None
    po_number: ShortText | None = None
    cancellable: bool = False
    cancellable_until: datetime | None = None


def one_off_errors(
    draft: OneOffDraft, *, currency: str, now: datetime, rates: Mapping[str, TaxRate]
) -> list[FieldError]:
    """Everything that is wrong with the body; `rates` are the tax rates in use by their key."""
    if not is_currency(currency):
        detail = f"{currency!r} is not an ISO 4217 currency"
        return [FieldError(pointer="/currency", code="unknown_currency", detail=detail)]
    errors: list[FieldError] = []
    if draft.due_at is not None and draft.net_terms_days is not None:
        detail = "either `due_at` or `net_terms_days`"
        errors.append(FieldError(pointer="/due_at", code="invalid", detail=detail))
    if draft.due_at is not None and draft.due_at < now:
        detail = "it would be due before it is issued"
        errors.append(FieldError(pointer="/due_at", code="invalid", detail=detail))
    errors += _cancelling_errors(draft)
    for index, line in enumerate(draft.lines):
        here = f"/lines/{index}"
        errors += _amount_errors(line, here, currency)
        errors += unknown_rates(named=line.tax_rates, known=rates, pointer=f"{here}/tax_rates")
        if line.period is not None and not line.period[0] < line.period[1]:
            detail = "a period ends after it starts"
            errors.append(FieldError(pointer=f"{here}/period", code="invalid", detail=detail))
        revenue = line.revenue
        if revenue is not None and (revenue.days is None) == (revenue.method == "over_days"):
            detail = "`days` belongs to the method `over_days`, which needs it"
            errors.append(FieldError(pointer=f"{here}/revenue", code="invalid", detail=detail))
    return errors


def enter_by(draft: OneOffDraft) -> datetime | None:
    """When a cancellable invoice is in the books even unpaid; None for one that is at once."""
    if not draft.cancellable:
        return None
    starts = [line.period[0] for line in draft.lines if line.period is not None]
    until = draft.cancellable_until
    return min(starts if until is None else [*starts, until])


def _cancelling_errors(draft: OneOffDraft) -> list[FieldError]:
    if draft.cancellable_until is not None and not draft.cancellable:
        detail = "only a `cancellable` invoice can be cancelled until then"
        return [FieldError(pointer="/cancellable_until", code="invalid", detail=detail)]
    dated = draft.cancellable_until is not None or any(line.period for line in draft.lines)
    if draft.cancellable and not dated:
        detail = "when the service begins: a line has a `period`, or `cancellable_until` is given"
        return [FieldError(pointer="/cancellable", code="invalid", detail=detail)]
    return []


def _amount_errors(line: OneOffLine, here: str, currency: str) -> list[FieldError]:
    by_unit = line.quantity is not None and line.unit_amount is not None
    if by_unit == (line.amount is not None) or (line.quantity is None) != (
        line.unit_amount is None
    ):
        detail = "a line has either `amount`, or `quantity` and `unit_amount`"
        return [FieldError(pointer=f"{here}/amount", code="invalid", detail=detail)]
    try:
        minor = amount_of(line, currency=currency, rounding=Rounding.HALF_UP)
    except BillingError as error:
        name = "quantity" if by_unit else "amount"
        return [FieldError(pointer=f"{here}/{name}", code="invalid", detail=error.detail)]
    if minor < AMOUNT_MAX_MINOR:
        return []
    return [FieldError(pointer=f"{here}/amount", code="invalid", detail="the amount is too large")]


def amount_of(line: OneOffLine, *, currency: str, rounding: Rounding) -> int:
    """The line's amount in minor units; quantity times unit amount is rounded once.

    Error: `invalid_decimal` where the amount is finer than the currency, or a quantity than nine
    digits.
    """
    if line.quantity is None or line.unit_amount is None:
        return parse_amount(line.amount or "0", currency=currency)
    quantity = parse_scaled(line.quantity, digits=QUANTITY_DIGITS)
    unit = parse_scaled(line.unit_amount, digits=UNIT_DIGITS)
    exact = quantity * unit * 10 ** currency_digits(currency)
    return round_ratio(exact, 10 ** (QUANTITY_DIGITS + UNIT_DIGITS), rounding=rounding)


def one_off_lines(
    draft: OneOffDraft, *, currency: str, rounding: Rounding, customer: str | None = None
) -> tuple[Line, ...]:
    """The lines of the invoice, before tax. They belong to no contract but the document's own.

    `customer` (id) is whom they are about, where another one pays.
    """
    return tuple(
        Line(
            key=line.key,
            contract="",
            amount_minor=amount_of(line, currency=currency, rounding=rounding),
            quantity_nanos=None
            if line.quantity is None
            else parse_scaled(line.quantity, digits=QUANTITY_DIGITS),
            period=None if line.period is None else Period(*line.period),
            reason=Reason.INITIAL,
            tax_rates=line.tax_rates,
            name=line.name,
            customer=customer,
            unit_amount=line.unit_amount,
            revenue=None if line.revenue is None else msgspec.json.encode(line.revenue).decode(),
        )
        for line in draft.lines
    )
