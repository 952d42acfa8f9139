"""Coupons: what is taken off the documents of the subscriptions that have them. Pure."""

from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated

import msgspec

from engine.errors import BillingError, FieldError
from engine.money import CurrencyCode, UnsignedText, is_currency, parse_amount
from plans.shape import Body, Key, Name, PositiveCount, Record, ShortText


class Duration(StrEnum):
    """For how many documents a coupon holds: those on which it took something count."""

    ONCE = "once"
    PERIODS = "periods"
    FOREVER = "forever"


class CouponScope(Body, frozen=True, kw_only=True):
    """The prices, by their keys, whose lines a coupon reduces."""

    prices: Annotated[tuple[Key, ...], msgspec.Meta(min_length=1, max_length=100)]


class CouponDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/coupons`: a percentage, or an amount in a currency (the seller's by default)."""

    key: Key
    name: Name | None = None
    percent_off: UnsignedText | None = None
    amount_off: UnsignedText | None = None
    currency: CurrencyCode | None = None
    duration: Duration = Duration.ONCE
    periods: PositiveCount | None = None
    applies_to: CouponScope | None = None


class Coupon(Record, frozen=True, kw_only=True):
    """A coupon; it never changes, it can be archived."""

    id: str
    key: str
    name: str | None
    percent_off: str | None
    amount_off: str | None
    currency: str | None
    duration: Duration
    periods: int | None
    applies_to: CouponScope | None
    archived_at: datetime | None
    created_at: datetime


class CouponGift(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions/{id}/coupons`: give the subscription a coupon from now on."""

    coupon: ShortText


class AppliedCoupon(Record, frozen=True, kw_only=True):
    """A coupon that a subscription has; `documents` counts those on which it took something."""

    id: str
    coupon: str
    subscription: str
    applied_at: datetime
    removed_at: datetime | None
    documents: int


def coupon_errors(draft: CouponDraft, *, currency: str) -> list[FieldError]:
    """Exactly one of percentage and amount, each within bounds; periods only where they count."""
    errors: list[FieldError] = []
    if (draft.percent_off is None) == (draft.amount_off is None):
        detail = "a coupon takes off either `percent_off` or `amount_off`"
        errors.append(FieldError(pointer="/percent_off", code="invalid", detail=detail))
    if draft.percent_off is not None and not 0 < Fraction(draft.percent_off) <= 100:
        detail = f"{draft.percent_off} is not above 0 and at most 100"
        errors.append(FieldError(pointer="/percent_off", code="invalid", detail=detail))
    if draft.amount_off is None and draft.currency is not None:
        detail = "only an amount has a currency"
        errors.append(FieldError(pointer="/currency", code="invalid", detail=detail))
    elif draft.amount_off is not None:
        errors += _amount_errors(draft.amount_off, draft.currency or currency)
    if (draft.duration is Duration.PERIODS) != (draft.periods is not None):
        detail = "`periods` belongs to the duration `periods`, which needs it"
        errors.append(FieldError(pointer="/periods", code="invalid", detail=detail))
    return errors


def _amount_errors(amount: str, currency: str) -> list[FieldError]:
    if not is_currency(currency):
        detail = f"{currency!r} is not an ISO 4217 currency"
        return [FieldError(pointer="/currency", code="unknown_currency", detail=detail)]
    try:
        minor = parse_amount(amount, currency=currency)
    except BillingError as error:
        return [FieldError(pointer="/amount_off", code="invalid", detail=error.detail)]
    if minor > 0:
        return []
    return [FieldError(pointer="/amount_off", code="invalid", detail="nothing would be taken off")]
