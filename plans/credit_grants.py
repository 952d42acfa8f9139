"""Credit grants: what a customer may use up instead of paying. Pure."""

from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Literal

import msgspec

from engine.errors import BillingError, FieldError
from engine.money import CurrencyCode, UnsignedText, is_currency, parse_amount
from plans.prices import Interval
from plans.shape import Body, DaysText, Key, Record, ShortText

Keys = Annotated[tuple[Key, ...], msgspec.Meta(max_length=100)]


class CreditKind(StrEnum):
    """Promotional credit is given and lowers the taxed amount; prepaid credit is bought."""

    PROMOTIONAL = "promotional"
    PREPAID = "prepaid"


class CreditStatus(StrEnum):
    """Where a grant is in its life."""

    PENDING = "pending"
    ACTIVE = "active"
    EXHAUSTED = "exhausted"
    EXPIRED = "expired"
    VOIDED = "voided"


class CreditScope(Body, frozen=True, kw_only=True):
    """What a grant pays: lines of these prices or of these meters, by their keys."""

    prices: Keys = ()
    meters: Keys = ()


class CreditPurchase(Body, frozen=True, kw_only=True):
    """What the grant is sold for; it can be used at once or when its invoice is paid."""

    amount: UnsignedText
    net_terms_days: DaysText | None = None
    available: Literal["on_issue", "on_payment"] = "on_issue"


class TopUp(Body, frozen=True, kw_only=True):
    """When less than `below` will be left, credit is added: up to `to`, or by `amount`."""

    below: UnsignedText
    to: UnsignedText | None = None
    amount: UnsignedText | None = None


class CreditGrantDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/credit_grants`.

    The currency is the customer's, else the seller's. `recurring` gives the full amount anew at
    each interval, until `expires_at` if that is given; of what is left at the end
    `rollover_fraction` becomes a new grant.
    """

    key: Key
    customer: ShortText
    amount: UnsignedText
    kind: CreditKind
    currency: CurrencyCode | None = None
    priority: Annotated[int, msgspec.Meta(ge=0, le=100)] = 50
    effective_at: datetime | None = None
    expires_at: datetime | None = None
    scope: CreditScope | None = None
    rollover_fraction: UnsignedText = "0"
    recurring: Interval | None = None
    top_up: TopUp | None = None
    purchase: CreditPurchase | None = None


class CreditVoid(Body, frozen=True, kw_only=True):
    """`POST /v1/credit_grants/{key}/void`: what becomes of what is left of bought credit.

    `credit` makes it customer balance, `forfeit` keeps the money. Given credit is forfeited.
    """

    settle: Literal["credit", "forfeit"] = "credit"


class CreditGrant(Record, frozen=True, kw_only=True):
    """A grant and what became of it: amount = remaining + drawn + expired + voided + rolled over.

    `rolled_from`, `renews` and `tops_up` are the keys of the grants that it follows.
    """

    id: str
    key: str
    customer: str
    currency: str
    kind: CreditKind
    status: CreditStatus
    amount: str
    remaining: str
    drawn: str
    expired: str
    voided: str
    rolled_over: str
    rolled_from: str | None
    renews: str | None
    tops_up: str | None
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    scope: CreditScope | None
    rollover_fraction: str
    recurring: Interval | None
    top_up: TopUp | None
    purchase_amount: str | None
    invoice: str | None
    ended_at: datetime | None
    created_at: datetime


def credit_errors(
    draft: CreditGrantDraft, *, currency: str, effective_at: datetime
) -> list[FieldError]:
    """Amounts that fit the currency, an end after the beginning, and options that go together."""
    if not is_currency(currency):
        detail = f"{currency!r} is not an ISO 4217 currency"
        return [FieldError(pointer="/currency", code="unknown_currency", detail=detail)]
    errors = _amount(draft.amount, "/amount", currency, least=1)
    if draft.expires_at is not None and draft.expires_at <= effective_at:
        detail = "a grant must end after it begins"
        errors.append(FieldError(pointer="/expires_at", code="out_of_order", detail=detail))
    if Fraction(draft.rollover_fraction) > 1:
        detail = "no more can roll over than is left: the fraction is at most 1"
        errors.append(FieldError(pointer="/rollover_fraction", code="invalid", detail=detail))
    if draft.purchase is not None:
        if draft.kind is not CreditKind.PREPAID:
            detail = "only prepaid credit is sold"
            errors.append(FieldError(pointer="/purchase", code="invalid", detail=detail))
        errors += _amount(draft.purchase.amount, "/purchase/amount", currency, least=0)
    if draft.top_up is not None:
        errors += _top_up_errors(draft.top_up, currency)
        if draft.recurring is not None:
            detail = "a grant that recurs is not topped up"
            errors.append(FieldError(pointer="/top_up", code="invalid", detail=detail))
    return errors


def _top_up_errors(top_up: TopUp, currency: str) -> list[FieldError]:
    errors = _amount(top_up.below, "/top_up/below", currency, least=0)
    if (top_up.to is None) == (top_up.amount is None):
        detail = "credit is added either up to `to` or by `amount`"
        errors.append(FieldError(pointer="/top_up", code="invalid", detail=detail))
        return errors
    if top_up.amount is not None:
        return errors + _amount(top_up.amount, "/top_up/amount", currency, least=1)
    assert top_up.to is not None
    errors += _amount(top_up.to, "/top_up/to", currency, least=1)
    if not errors and Fraction(top_up.to) < Fraction(top_up.below):
        detail = "`to` is not less than `below`"
        errors.append(FieldError(pointer="/top_up/to", code="invalid", detail=detail))
    return errors


def _amount(amount: str, pointer: str, currency: str, *, least: int) -> list[FieldError]:
    try:
        minor = parse_amount(amount, currency=currency)
    except BillingError as error:
        return [FieldError(pointer=pointer, code="invalid", detail=error.detail)]
    if least <= minor < 10**15:
        return []
    detail = f"{amount} is out of range"
    return [FieldError(pointer=pointer, code="invalid", detail=detail)]
