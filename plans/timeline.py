"""The timeline of a subscription: price intervals, calendars, and when things fall due.

Pure. A change of a subscription is a new set of intervals; money is derived from them elsewhere.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind, FieldError, invalid_field
from engine.ids import new_id
from engine.money import format_plain, parse_scaled
from engine.period import BillingPeriod, Calendar, Period, period_holding, zone
from plans.agreement import (
    Agreement,
    CancelDraft,
    PriceInterval,
    Refund,
    SubscriptionDraft,
    SubscriptionStatus,
)
from plans.model import Alignment, Plan
from plans.prices import Interval, Kind

QUANTITY_DIGITS: Final = 9
INSTANT: Final = timedelta(microseconds=1)


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """What a new subscription agrees on: when it runs, how its periods lie, and its intervals."""

    starts_at: datetime
    ends_at: datetime | None
    anchor_at: datetime
    anchor_day: int | None
    alignment: Alignment
    timezone: str
    intervals: tuple[PriceInterval, ...]


def calendar_of(*, agreement: Agreement | Opening, interval: Interval) -> Calendar:
    """How the billing periods of one price lie."""
    return Calendar(
        unit=interval.unit,
        count=interval.count,
        alignment=agreement.alignment,
        anchor_at=agreement.anchor_at,
        anchor_day=agreement.anchor_day,
        timezone=agreement.timezone,
    )


def open_subscription(
    *,
    draft: SubscriptionDraft,
    plan: Plan,
    price_ids: dict[str, str],
    timezone: str,
    now: datetime,
    wall_now: datetime,
) -> Opening:
    """Open one interval per price of the plan from the start on.

    Raises `invalid_body` with every field at fault.
    """
    starts_at = draft.starts_at or now
    alignment = draft.alignment or plan.alignment
    errors = _faults(draft=draft, plan=plan, starts_at=starts_at, alignment=alignment)
    if errors:
        raise BillingError("invalid_body", errors[0].detail, errors=tuple(errors))
    zone(timezone)
    intervals: list[PriceInterval] = []
    for number, price in enumerate(plan.prices, start=1):
        quantity = draft.quantities.get(price.key) or price.quantity or "1"
        scaled = parse_scaled(quantity, digits=QUANTITY_DIGITS)
        intervals.append(
            PriceInterval(
                id=new_id(prefix="pri", now=wall_now),
                number=number,
                price_id=price_ids[price.key],
                price=price,
                interval=price.interval or plan.interval,
                quantity=format_plain(scaled, digits=QUANTITY_DIGITS),
                start_at=starts_at,
                end_at=draft.ends_at,
            )
        )
    anchor = draft.anchor
    return Opening(
        starts_at=starts_at,
        ends_at=draft.ends_at,
        anchor_at=anchor.at if anchor is not None and anchor.at is not None else starts_at,
        anchor_day=None if anchor is None else anchor.day,
        alignment=alignment,
        timezone=timezone,
        intervals=tuple(intervals),
    )


def _faults(
    *, draft: SubscriptionDraft, plan: Plan, starts_at: datetime, alignment: Alignment
) -> list[FieldError]:
    errors: list[FieldError] = []
    kinds = {price.key: price.kind for price in plan.prices}
    for key, quantity in draft.quantities.items():
        pointer = f"/quantities/{key.replace('~', '~0').replace('/', '~1')}"
        if key not in kinds:
            detail = f"plan {plan.key!r} has no price {key!r}"
            errors.append(FieldError(pointer=pointer, code="unknown_price", detail=detail))
        elif kinds[key] is Kind.USAGE:
            detail = "a usage price takes its quantity from a meter"
            errors.append(FieldError(pointer=pointer, code="contradictory", detail=detail))
        elif _too_fine(quantity):
            detail = "a quantity has at most 15 whole and 9 fractional digits"
            errors.append(FieldError(pointer=pointer, code="invalid_decimal", detail=detail))
    if draft.ends_at is not None and draft.ends_at <= starts_at:
        detail = "ends_at must lie after the start"
        errors.append(FieldError(pointer="/ends_at", code="out_of_order", detail=detail))
    anchor = draft.anchor
    if anchor is not None and (anchor.at is None) == (anchor.day is None):
        detail = "an anchor is either an instant (at) or a day of the month (day)"
        errors.append(FieldError(pointer="/anchor", code="contradictory", detail=detail))
    if anchor is not None and alignment is Alignment.CALENDAR:
        detail = "calendar alignment has its own boundaries"
        errors.append(FieldError(pointer="/anchor", code="contradictory", detail=detail))
    counts = [plan.interval.count, *(p.interval.count for p in plan.prices if p.interval)]
    if alignment is Alignment.CALENDAR and max(counts) > 1:
        detail = "calendar alignment takes intervals of one unit"
        errors.append(FieldError(pointer="/alignment", code="contradictory", detail=detail))
    return errors


def _too_fine(quantity: str) -> bool:
    whole, _, fraction = quantity.partition(".")
    return len(whole.lstrip("0")) > 15 or len(fraction.rstrip("0")) > QUANTITY_DIGITS


def next_due_at(*, agreement: Agreement | Opening, after: datetime | None) -> datetime | None:
    """The first instant later than `after` at which something may fall due; None when it is over.

    Due instants are the start, every period boundary of every price, and the end.
    """
    found: datetime | None = None
    for stretch in agreement.intervals:
        due = _next_of_interval(agreement, stretch, after)
        if due is not None and (found is None or due < found):
            found = due
    return found


def _next_of_interval(
    agreement: Agreement | Opening, stretch: PriceInterval, after: datetime | None
) -> datetime | None:
    if after is None or after < stretch.start_at:
        return stretch.start_at
    if stretch.end_at is not None and after >= stretch.end_at:
        return None
    if stretch.price.kind is Kind.ONE_TIME:
        return stretch.end_at
    calendar = calendar_of(agreement=agreement, interval=stretch.interval)
    end = period_holding(calendar=calendar, at=after).end
    return end if stretch.end_at is None else min(end, stretch.end_at)


def cancellation_instant(*, agreement: Agreement, draft: CancelDraft, now: datetime) -> datetime:
    """When a cancellation takes effect: now, the end of the period running, or an instant.

    Raises `already_cancelled` when the subscription is over by then or cancelled for no later,
    `invalid_body` for an instant before the start or one that is no instant.
    """
    if agreement.ends_at is not None and agreement.ends_at <= now:
        message = f"subscription {agreement.key!r} is over since {agreement.ends_at:%Y-%m-%d}"
        raise BillingError("already_cancelled", message, kind=ErrorKind.CONFLICT)
    if draft.effective == "now":
        effective = now
    elif draft.effective == "period_end":
        longest = max(agreement.intervals, key=lambda stretch: _period_end(agreement, stretch, now))
        effective = _period_end(agreement, longest, now)
    else:
        effective = _instant(draft.effective)
    if effective < agreement.starts_at:
        if draft.effective == "now":
            return agreement.starts_at
        detail = "a cancellation cannot take effect before the subscription starts"
        raise invalid_field(pointer="/effective", code="out_of_order", detail=detail)
    if agreement.ends_at is None or effective < agreement.ends_at:
        return effective
    if agreement.cancelled_at is not None:
        message = f"subscription {agreement.key!r} is cancelled for {agreement.ends_at:%Y-%m-%d}"
        raise BillingError("already_cancelled", message, kind=ErrorKind.CONFLICT)
    return agreement.ends_at


def _period_end(agreement: Agreement, stretch: PriceInterval, now: datetime) -> datetime:
    calendar = calendar_of(agreement=agreement, interval=stretch.interval)
    return period_holding(calendar=calendar, at=max(now, agreement.starts_at)).end


def _instant(text: str) -> datetime:
    try:
        instant = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        instant = None
    if instant is None or instant.tzinfo is None or not 1970 <= instant.year <= 2999:
        detail = "effective is 'now', 'period_end' or an RFC 3339 instant in the years 1970–2999"
        raise invalid_field(pointer="/effective", code="invalid", detail=detail)
    return instant


def cancel_intervals(
    *, intervals: tuple[PriceInterval, ...], effective: datetime, refund: Refund
) -> tuple[PriceInterval, ...]:
    """Close every interval at `effective`; one that begins later closes where it begins."""
    closed: list[PriceInterval] = []
    for stretch in intervals:
        if stretch.end_at is not None and stretch.end_at <= effective:
            closed.append(stretch)
            continue
        closed.append(
            msgspec.structs.replace(
                stretch,
                end_at=max(stretch.start_at, effective),
                end_is_cancellation=True,
                credit_unused=refund is Refund.CREDIT,
                agreed_end_at=stretch.end_at,
            )
        )
    return tuple(closed)


def period_starting(
    *, agreement: Agreement, stretch: PriceInterval, start: datetime
) -> BillingPeriod | Period:
    """The billing period of a charge key; a one-time price has a moment."""
    if stretch.price.kind is Kind.ONE_TIME:
        return Period(start, start)
    calendar = calendar_of(agreement=agreement, interval=stretch.interval)
    return period_holding(calendar=calendar, at=start)


def status_at(
    *,
    starts_at: datetime,
    ends_at: datetime | None,
    cancelled_at: datetime | None,
    now: datetime,
) -> SubscriptionStatus:
    """Where a subscription with these instants is in its life.

    One that was cancelled for its start or before is over although it never began.
    """
    if cancelled_at is not None and ends_at is not None and ends_at <= starts_at:
        return SubscriptionStatus.CANCELLED
    if now < starts_at:
        return SubscriptionStatus.SCHEDULED
    if ends_at is None or now < ends_at:
        return SubscriptionStatus.ACTIVE
    return SubscriptionStatus.ENDED if cancelled_at is None else SubscriptionStatus.CANCELLED
