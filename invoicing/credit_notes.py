"""Credit notes by hand: what a body says, how much of a line is left to credit, the lines. Pure.

The amount of a line is in the terms of the line that it credits: less discount and promotional
credit, before a tax that is added, with a tax that is inside.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from engine.errors import BillingError, FieldError
from engine.journal import CONTRACT_BALANCE, PREPAID_CREDITS
from engine.money import UnsignedText, format_amount, parse_amount
from engine.period import Period
from invoicing.difference import StandingLine
from invoicing.lines import Line
from invoicing.model import Reason
from plans.shape import Body, ShortText

MOST_LINES: Final = 1_000


class CreditReason(StrEnum):
    """Why something is credited by hand; how it is earned back depends on it."""

    BILLING_ERROR = "billing_error"
    PRICE_CONCESSION = "price_concession"
    GOODWILL = "goodwill"
    UNUSED_SERVICE = "unused_service"
    CANCELLATION = "cancellation"
    SERVICE_CREDIT = "service_credit"


class Settlement(StrEnum):
    """What becomes of the part that reduces nothing open: balance, or money."""

    CREDIT = "credit"
    REFUND = "refund"


class CreditedLine(Body, frozen=True, kw_only=True):
    """`amount` (major units) to credit of a `line` (id) of the invoice."""

    line: ShortText
    amount: UnsignedText


class CreditNoteDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/credit_notes`: credit lines of an `invoice` (id or number), issued at once."""

    invoice: ShortText
    lines: Annotated[tuple[CreditedLine, ...], msgspec.Meta(min_length=1, max_length=MOST_LINES)]
    reason: CreditReason
    settle: Settlement = Settlement.CREDIT
    memo: ShortText | None = None


class CreditNoteVoid(Body, frozen=True, kw_only=True):
    """`POST /v1/credit_notes/{id}/void`; `reason` goes to the audit log."""

    reason: ShortText | None = None


class Creditable(msgspec.Struct, frozen=True, kw_only=True):
    """A posted line of an invoice, and what stands of it.

    `adjusted` are the lines that count for its charge key, itself among them, and all credits by
    hand of them. `contract` and `account` are where the books have it; `customer` (id) is whom
    a line by hand is about where another one pays.
    """

    id: str
    key: str
    name: str | None
    subscription: str | None
    customer: str | None
    group: str
    period: Period | None
    taxable_minor: int
    contract: str
    account: str
    adjusted: tuple[StandingLine, ...]

    @property
    def rest_minor(self) -> int:
        """What may still be credited: no more than is left of the line, and of its key."""
        credited = sum(each.amount_minor for each in self.adjusted if each.credit_of == self.id)
        of_key = sum(each.taxable_minor for each in self.adjusted)
        return max(min(self.taxable_minor + credited, of_key), 0)


def credit_errors(
    draft: CreditNoteDraft, *, currency: str, lines: Mapping[str, Creditable]
) -> list[FieldError]:
    """Everything that is wrong with the lines; `lines` are those of the invoice by id."""
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, asked in enumerate(draft.lines):
        wrong = _line_error(asked, lines.get(asked.line), is_repeated=asked.line in seen)
        wrong = wrong or _amount_error(asked, lines[asked.line], currency=currency)
        seen.add(asked.line)
        if wrong is not None:
            field, code, detail = wrong
            pointer = f"/lines/{index}/{field}"
            errors.append(FieldError(pointer=pointer, code=code, detail=detail))
    return errors


def _line_error(
    asked: CreditedLine, found: Creditable | None, *, is_repeated: bool
) -> tuple[str, str, str] | None:
    """(field, code, detail) of a line that cannot be credited at all."""
    if found is None:
        return "line", "unknown_line", f"the invoice has no line {asked.line!r}"
    if is_repeated:
        return "line", "duplicate", f"{asked.line!r} is named twice"
    if found.account == PREPAID_CREDITS:
        return "line", "sells_credit", "the line sold credit: void the credit grant instead"
    if found.taxable_minor <= 0:
        return "line", "nothing_to_credit", "nothing was charged by the line"
    return None


def _amount_error(
    asked: CreditedLine, found: Creditable, *, currency: str
) -> tuple[str, str, str] | None:
    try:
        minor = parse_amount(asked.amount, currency=currency)
    except BillingError as error:
        return "amount", "invalid", error.detail
    if minor <= 0:
        return "amount", "invalid", "a credit is more than zero"
    if minor > found.rest_minor:
        left = format_amount(found.rest_minor, currency=currency)
        return "amount", "overcredited", f"{left} of the line is left to credit"
    return None


def credit_lines(
    draft: CreditNoteDraft, *, currency: str, lines: Mapping[str, Creditable]
) -> tuple[Line, ...]:
    """The lines of the credit note, before tax, in the order of the body."""
    return tuple(
        Line(
            key=found.key,
            contract=found.contract,
            amount_minor=-parse_amount(asked.amount, currency=currency),
            quantity_nanos=None,
            period=found.period,
            reason=Reason.CORRECTION,
            subscription=found.subscription,
            customer=found.customer,
            group=found.group,
            adjusts=found.id,
            adjusted=found.adjusted,
            reductions=(0, 0),
            account=CONTRACT_BALANCE,
            name=found.name,
        )
        for asked, found in ((each, lines[each.line]) for each in draft.lines)
    )
