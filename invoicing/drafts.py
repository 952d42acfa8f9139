"""What is done to a draft by hand: the bodies, and the lines they make. Pure."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from engine.errors import BillingError, FieldError
from engine.money import (
    DecimalText,
    Rounding,
    currency_digits,
    parse_amount,
    parse_scaled,
    round_ratio,
)
from invoicing.assembly import Draft, summed
from invoicing.lines import Line
from invoicing.model import LineItem, Reason
from plans.shape import Body, Key, Name, ShortText

AMOUNT_MAX_MINOR: Final = 10**15
QUANTITY_DIGITS: Final = 9
UNIT_DIGITS: Final = 12


class FinalizeDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/{id}/finalize`; `reason` goes to the audit log."""

    reason: ShortText | None = None


class DraftEdit(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/{id}/lines`: a line more on a draft, and why.

    With `key` it is a line of its own; with `line` (id) what makes that line come to what is said.
    Either `amount`, or `quantity` units at `unit_amount`, in major units; below zero it gives back.
    """

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    key: Key | None = None
    line: ShortText | None = None
    name: Name | None = None
    amount: DecimalText | None = None
    quantity: DecimalText | None = None
    unit_amount: DecimalText | None = None
    tax_rates: Annotated[tuple[Key, ...], msgspec.Meta(max_length=20)] = ()


class WaitingEdit(msgspec.Struct, frozen=True, kw_only=True):
    """A line by hand that no posted document has yet; `billed_at` is that of its draft.

    `adjusts` is the place of the line that it brings to another amount.
    """

    id: str
    customer: str
    billed_at: datetime
    currency: str
    invoice_group: str
    key: str
    name: str | None
    amount_minor: int
    quantity: str | None
    unit_amount: str | None
    tax_rates: tuple[str, ...] = ()
    adjusts: str | None = None


def edit_errors(edit: DraftEdit, *, currency: str) -> list[FieldError]:
    """What is wrong with the body by itself."""
    if (edit.key is None) == (edit.line is None):
        detail = "either `key` for a line of its own, or the `line` to adjust"
        return [FieldError(pointer="/key", code="invalid", detail=detail)]
    by_unit = edit.quantity is not None and edit.unit_amount is not None
    halved = (edit.quantity is None) != (edit.unit_amount is None)
    if halved or by_unit == (edit.amount is not None):
        detail = "either `amount`, or `quantity` and `unit_amount`"
        return [FieldError(pointer="/amount", code="invalid", detail=detail)]
    try:
        minor = amount_of(edit, currency=currency, rounding=Rounding.HALF_UP)
    except BillingError as error:
        return [FieldError(pointer="/amount", code="invalid", detail=error.detail)]
    if abs(minor) < AMOUNT_MAX_MINOR:
        return []
    return [FieldError(pointer="/amount", code="invalid", detail="the amount is too large")]


def amount_of(edit: DraftEdit, *, currency: str, rounding: Rounding) -> int:
    """What is said, in minor units; quantity times unit amount is rounded once.

    Error: `invalid_decimal` where a figure is finer than it may be.
    """
    if edit.quantity is None or edit.unit_amount is None:
        return parse_amount(edit.amount or "0", currency=currency)
    quantity = parse_scaled(edit.quantity, digits=QUANTITY_DIGITS)
    unit = parse_scaled(edit.unit_amount, digits=UNIT_DIGITS)
    exact = quantity * unit * 10 ** currency_digits(currency)
    return round_ratio(exact, 10 ** (QUANTITY_DIGITS + UNIT_DIGITS), rounding=rounding)


def place_of(line: LineItem) -> str:
    """What a line of a draft is known by when the draft is derived again."""
    told = (line.price, line.subscription, line.group, line.period)
    return msgspec.json.encode(told).decode()


def adjustment(
    *,
    line: LineItem,
    said_minor: int,
    earlier_minor: int,
    currency: str,
    rounding: Rounding,
) -> int:
    """What must come beside a line, net of its reductions, for it to come to what is said.

    `said_minor` is before reductions, as the line's own amount is: its discount goes down and up
    with it, and promotional credit pays no more than is left. `earlier_minor` is what earlier
    adjustments of the line came to. All in the sign of the document.
    """
    amount, discount, promotional = (
        parse_amount(text, currency=currency)
        for text in (line.amount, line.discount, line.promotional)
    )
    net = amount - discount
    wanted = said_minor
    if discount and amount:
        wanted = round_ratio(said_minor * net, amount, rounding=rounding)
    if promotional > 0:
        wanted = max(wanted - promotional, min(wanted, 0))
    return wanted - (net - promotional) - earlier_minor


def with_edits(drafts: Sequence[Draft], edits: Sequence[WaitingEdit]) -> list[Draft]:
    """Each edit on the first draft of its customer, currency and group, from its instant on.

    Such lines carry no charge key: they are posted once and never derived.
    """
    left = list(edits)
    found: list[Draft] = []
    for draft in drafts:
        mine = [edit for edit in left if _belongs(edit, draft)]
        if not mine:
            found.append(draft)
            continue
        left = [edit for edit in left if edit not in mine]
        lines = (*draft.lines, *(_line(edit) for edit in mine))
        names = tuple(edit.id for edit in mine)
        found.append(summed(msgspec.structs.replace(draft, lines=lines, edits=names)))
    return found


def _belongs(edit: WaitingEdit, draft: Draft) -> bool:
    wanted = (edit.customer, edit.currency, edit.invoice_group)
    return (
        wanted == (draft.customer.id, draft.currency, draft.group)
        and edit.billed_at <= draft.billed_at
    )


def _line(edit: WaitingEdit) -> Line:
    quantity = edit.quantity
    return Line(
        key=edit.key,
        contract="",
        amount_minor=edit.amount_minor,
        quantity_nanos=None if quantity is None else parse_scaled(quantity, digits=QUANTITY_DIGITS),
        period=None,
        reason=Reason.CORRECTION,
        tax_rates=edit.tax_rates,
        name=edit.name,
        unit_amount=edit.unit_amount,
    )
