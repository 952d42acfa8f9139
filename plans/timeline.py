"""The timeline of a subscription: price intervals, calendars, and when things fall due.

Pure. A change of a subscription is a new set of intervals; money is derived from them elsewhere.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind, FieldError, invalid_field
from engine.period import BillingPeriod, Calendar, Period, at_wall_time, period_holding, zone
from plans.agreement import (
    Agreement,
    CancelDraft,
    PriceInterval,
    Refund,
    SubscriptionDraft,
    SubscriptionStatus,
)
from plans.model import Alignment, Plan
from plans.prices import Bill, Kind, bill_of
from plans.spending import threshold_faults

QUANTITY_DIGITS: Final = 9
INSTANT: Final = timedelta(microseconds=1)
NOW: Final = "now"
PERIOD_END: Final = "period_end"
"""What `effective` may say instead of an instant."""


class Opening(msgspec.Struct, frozen=True, kw_only=True):
    """When a new subscription runs and how its periods lie."""

    starts_at: datetime
    ends_at: datetime | None
    trial_ends_at: datetime | None
    anchor_at: datetime
    anchor_day: int | None
    alignment: Alignment
    timezone: str
    intervals: tuple[PriceInterval, ...] = ()


def calendar_of(*, agreement: Agreement | Opening, stretch: PriceInterval) -> Calendar:
    """How the billing periods of one price interval lie."""
    own = stretch.anchor
    return Calendar(
        unit=stretch.interval.unit,
        count=stretch.interval.count,
        alignment=agreement.alignment if own is None else own.alignment,
        anchor_at=agreement.anchor_at if own is None else own.at,
        anchor_day=agreement.anchor_day if own is None else own.day,
        timezone=agreement.timezone,
    )


def open_subscription(
    *, draft: SubscriptionDraft, plan: Plan, timezone: str, now: datetime
) -> Opening:
    """When the subscription runs and where its periods lie; the intervals are laid out later.

    A trial moves the default anchor to its end. Raises `invalid_body` with every field at fault.
    """
    starts_at = draft.starts_at or now
    alignment = draft.alignment or plan.alignment
    errors = _faults(draft=draft, plan=plan, starts_at=starts_at, alignment=alignment)
    if errors:
        raise BillingError("invalid_body", errors[0].detail, errors=tuple(errors))
    zone(timezone)
    days = plan.trial_days if draft.trial_days is None else draft.trial_days
    trial_ends_at = _days_later(starts_at, days, timezone) if days else None
    anchor = draft.anchor
    default = starts_at if anchor is not None else trial_ends_at or starts_at
    return Opening(
        starts_at=starts_at,
        ends_at=draft.ends_at,
        trial_ends_at=trial_ends_at,
        anchor_at=anchor.at if anchor is not None and anchor.at is not None else default,
        anchor_day=None if anchor is None else anchor.day,
        alignment=alignment,
        timezone=timezone,
    )


def _days_later(at: datetime, days: int, timezone: str) -> datetime:
    """The same wall time so many days later."""
    wall = at.astimezone(zone(timezone)).replace(tzinfo=None)
    return at_wall_time(wall=wall + timedelta(days=days), timezone=timezone)


def quantity_faults(
    *, quantities: Mapping[str, str], plan: Plan, pointer: str = "", with_one_time: bool = True
) -> list[FieldError]:
    """Quantities of prices that the plan lacks, that are measured, or that are too fine."""
    errors: list[FieldError] = []
    kinds = {price.key: price.kind for price in plan.prices}
    for key, quantity in quantities.items():
        where = f"{pointer}/quantities/{pointer_part(key)}"
        if key not in kinds:
            detail = f"plan {plan.key!r} has no price {key!r}"
            errors.append(FieldError(pointer=where, code="unknown_price", detail=detail))
        elif kinds[key] is Kind.USAGE:
            detail = "a usage price takes its quantity from a meter"
            errors.append(FieldError(pointer=where, code="contradictory", detail=detail))
        elif kinds[key] is Kind.ONE_TIME and not with_one_time:
            detail = "a one-time price is charged once, when it begins"
            errors.append(FieldError(pointer=where, code="contradictory", detail=detail))
        elif _too_fine(quantity):
            detail = "a quantity has at most 15 whole and 9 fractional digits"
            errors.append(FieldError(pointer=where, code="invalid_decimal", detail=detail))
    return errors


def pointer_part(key: str) -> str:
    """A key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


def _faults(
    *, draft: SubscriptionDraft, plan: Plan, starts_at: datetime, alignment: Alignment
) -> list[FieldError]:
    errors = quantity_faults(quantities=draft.quantities, plan=plan)
    errors += threshold_faults(thresholds=draft.spend_thresholds, currency=plan.currency)
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
    errors += alignment_faults(plan=plan, alignment=alignment, pointer="/alignment")
    earlier = starts_at
    for index, phase in enumerate(draft.phases):
        if phase.starts_at <= earlier or (draft.ends_at and phase.starts_at >= draft.ends_at):
            detail = "phases follow each other after the start and before the end"
            where = f"/phases/{index}/starts_at"
            errors.append(FieldError(pointer=where, code="out_of_order", detail=detail))
        earlier = phase.starts_at
    return errors


def alignment_faults(*, plan: Plan, alignment: Alignment, pointer: str) -> list[FieldError]:
    """Intervals of several units on a calendar that has only its own."""
    counts = [plan.interval.count, *(p.interval.count for p in plan.prices if p.interval)]
    if alignment is Alignment.CALENDAR and max(counts) > 1:
        detail = "calendar alignment takes intervals of one unit"
        return [FieldError(pointer=pointer, code="contradictory", detail=detail)]
    return []


def _too_fine(quantity: str) -> bool:
    whole, _, fraction = quantity.partition(".")
    return len(whole.lstrip("0")) > 15 or len(fraction.rstrip("0")) > QUANTITY_DIGITS


def next_due_at(*, agreement: Agreement | Opening, after: datetime | None) -> datetime | None:
    """The first instant later than `after` at which something may fall due; None when it is over.

    Due instants are the start, a trial's end, a phase's start, every period boundary of every
    price, and the end. A change inside a period is none: what it moves waits.
    """
    found = agreement.ends_at
    if found is not None and after is not None and found <= after:
        return None
    for stretch in agreement.intervals:
        due = _next_of_interval(agreement, stretch, after)
        if due is not None and (found is None or due < found):
            found = due
    return found


def _next_of_interval(
    agreement: Agreement | Opening, stretch: PriceInterval, after: datetime | None
) -> datetime | None:
    end_at = stretch.end_at
    if end_at is not None and (end_at <= stretch.start_at or (after and after >= end_at)):
        return None
    upcoming = after is None or after < stretch.start_at
    if upcoming and stretch.start_is_due:
        return stretch.start_at
    if stretch.price.kind is Kind.ONE_TIME:
        return None
    at = stretch.start_at if after is None or upcoming else after
    period = period_holding(calendar=calendar_of(agreement=agreement, stretch=stretch), at=at)
    if upcoming and period.start == stretch.start_at:
        return stretch.start_at
    if end_at is None or period.end <= end_at:
        return period.end
    return end_at if stretch.closed_at is None else None


def next_change_at(*, agreement: Agreement, after: datetime | None) -> datetime | None:
    """The first instant later than `after` at which a change opens or closes an interval."""
    instants = [
        instant
        for stretch in agreement.intervals
        for instant in (
            None if stretch.start_is_due else stretch.start_at,
            None if stretch.closed_at is None else stretch.end_at,
        )
        if instant is not None and (after is None or instant > after)
    ]
    return min(instants, default=None)


def change_instant(*, agreement: Agreement, effective: str, now: datetime) -> datetime:
    """When a change takes effect: now, the end of the period running, or an instant.

    Raises `subscription_over` when nothing is left to change by then, `invalid_body` for an
    instant before the start.
    """
    instant = _effective(agreement, effective, now)
    if instant < agreement.starts_at:
        if effective == NOW:
            return agreement.starts_at
        detail = "a change cannot take effect before the subscription starts"
        raise invalid_field(pointer="/effective", code="out_of_order", detail=detail)
    if agreement.ends_at is not None and instant >= agreement.ends_at:
        message = f"subscription {agreement.key!r} ends at {agreement.ends_at:%Y-%m-%d}"
        raise BillingError("subscription_over", message, kind=ErrorKind.CONFLICT)
    return instant


def turn_instant(*, agreement: Agreement, effective: str, now: datetime) -> datetime:
    """When a pause or a resume takes effect: as a change, but only while the subscription runs.

    Raises `not_active` before its start and from its end on, `invalid_body` for what is no instant.
    """
    instant = _effective(agreement, effective, now)
    over = agreement.ends_at is not None and agreement.ends_at <= instant
    if instant < agreement.starts_at or over:
        message = f"subscription {agreement.key!r} does not run at {instant:%Y-%m-%d}"
        raise BillingError("not_active", message, kind=ErrorKind.CONFLICT)
    return instant


def _effective(agreement: Agreement, effective: str, now: datetime) -> datetime:
    if effective == NOW:
        return now
    if effective != PERIOD_END:
        return read_instant(text=effective)
    at = max(now, agreement.starts_at)
    running = [
        stretch
        for stretch in agreement.intervals
        if stretch.start_at <= at and (stretch.end_at is None or at < stretch.end_at)
    ]
    return max(_period_end(agreement, each, now) for each in running or agreement.intervals)


def cancellation_instant(*, agreement: Agreement, draft: CancelDraft, now: datetime) -> datetime:
    """When a cancellation takes effect: now, the end of the period running, or an instant.

    Raises `already_cancelled` when the subscription is over by then or cancelled for no later,
    `invalid_body` for an instant before the start or one that is no instant.
    """
    if agreement.ends_at is not None and agreement.ends_at <= now:
        message = f"subscription {agreement.key!r} is over since {agreement.ends_at:%Y-%m-%d}"
        raise BillingError("already_cancelled", message, kind=ErrorKind.CONFLICT)
    effective = _effective(agreement, draft.effective, now)
    if effective < agreement.starts_at:
        if draft.effective == NOW:
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
    calendar = calendar_of(agreement=agreement, stretch=stretch)
    return period_holding(calendar=calendar, at=max(now, agreement.starts_at)).end


def read_instant(*, text: str) -> datetime:
    """The instant that `effective` names. Raises `invalid_body` when it is none."""
    try:
        instant = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        instant = None
    if instant is None or instant.tzinfo is None or not 1970 <= instant.year <= 2999:
        detail = "effective is 'now', 'period_end' or an RFC 3339 instant in the years 1970–2999"
        raise invalid_field(pointer="/effective", code="invalid", detail=detail)
    return instant


def raised_before(
    *, agreement: Agreement, stretch: PriceInterval, now: datetime
) -> tuple[datetime, datetime | None]:
    """When an end of the interval was first recorded, and up to where it was charged before.

    An end of the period running that is to come leaves standing what was charged before it was
    known; one that has come, or that was known when the period was charged, does not.
    """
    asked_at = agreement.cancelled_at if stretch.end_is_cancellation else stretch.closed_at
    has_come = stretch.end_at is not None and stretch.end_at <= now
    if asked_at is not None and not has_come and bill_of(stretch.price) is Bill.IN_ADVANCE:
        at = max(now, stretch.start_at)
        period = period_holding(calendar=calendar_of(agreement=agreement, stretch=stretch), at=at)
        if max(period.start, stretch.start_at) <= asked_at:
            return asked_at, stretch.agreed_end_at
    return now, stretch.end_at


def cancel_intervals(
    *, agreement: Agreement, effective: datetime, refund: Refund, now: datetime
) -> tuple[PriceInterval, ...]:
    """Close every interval at `effective`; one that begins later closes where it begins."""
    closed: list[PriceInterval] = []
    for stretch in agreement.intervals:
        if stretch.end_at is not None and stretch.end_at <= effective:
            closed.append(stretch)
            continue
        closed.append(
            msgspec.structs.replace(
                stretch,
                end_at=max(stretch.start_at, effective),
                end_is_cancellation=True,
                credit_unused=refund is not Refund.NONE,
                agreed_end_at=raised_before(agreement=agreement, stretch=stretch, now=now)[1],
                closed_at=None,
            )
        )
    return tuple(closed)


def period_starting(
    *, agreement: Agreement, stretch: PriceInterval, start: datetime
) -> BillingPeriod | Period:
    """The billing period of a charge key; a one-time price has a moment."""
    if stretch.price.kind is Kind.ONE_TIME:
        return Period(start, start)
    calendar = calendar_of(agreement=agreement, stretch=stretch)
    return period_holding(calendar=calendar, at=start)


def status_at(
    *,
    starts_at: datetime,
    ends_at: datetime | None,
    cancelled_at: datetime | None,
    paused_at: datetime | None,
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
        return SubscriptionStatus.ACTIVE if paused_at is None else SubscriptionStatus.PAUSED
    return SubscriptionStatus.ENDED if cancelled_at is None else SubscriptionStatus.CANCELLED
