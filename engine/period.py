"""Billing periods: half-open stretches between boundaries counted from an anchor.

A boundary is a local wall time made into an instant. The nth one is always counted from the
anchor, never from its neighbour, so a month's end that was clipped comes back: 31 January,
28 February, 31 March.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from engine.errors import BillingError


class IntervalUnit(StrEnum):
    """The unit of a billing interval."""

    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Alignment(StrEnum):
    """Where period boundaries lie: at the anchor's day, or at the calendar's."""

    ANNIVERSARY = "anniversary"
    CALENDAR = "calendar"


class Period(msgspec.Struct, frozen=True, gc=False):
    """[start, end) between two instants in UTC."""

    start: datetime
    end: datetime


class Calendar(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How boundaries are found: interval, alignment, anchor and the timezone of wall times.

    `anchor_day` replaces the anchor by local midnight of that day in the anchor's local month;
    `calendar` alignment looks at neither, but at the calendar of the timezone.
    """

    unit: IntervalUnit
    count: int
    alignment: Alignment
    anchor_at: datetime
    anchor_day: int | None
    timezone: str


class BillingPeriod(msgspec.Struct, frozen=True, gc=False):
    """The whole period [start, end) before it is clipped to a subscription's life."""

    index: int
    start: datetime
    end: datetime


_MONTHS: Final[dict[IntervalUnit, int]] = {
    IntervalUnit.MONTH: 1,
    IntervalUnit.QUARTER: 3,
    IntervalUnit.YEAR: 12,
}
_DAYS: Final[dict[IntervalUnit, int]] = {IntervalUnit.DAY: 1, IntervalUnit.WEEK: 7}
_UTC_NAMES: Final = frozenset({"UTC", "Etc/UTC"})


def zone(timezone: str) -> tzinfo:
    """The IANA timezone of that name; `unknown_timezone` when there is none."""
    if timezone in _UTC_NAMES:
        return UTC
    try:
        return ZoneInfo(timezone)  # cached by zoneinfo itself
    except (KeyError, ValueError, OSError):
        message = f"{timezone[:80]!r} is not an IANA timezone"
        raise BillingError("unknown_timezone", message) from None


def at_wall_time(*, wall: datetime, timezone: str) -> datetime:
    """The UTC instant of a naive local `wall` time.

    A skipped wall time moves forward by the length of the gap, a repeated one takes the first:
    both are what fold 0 means.
    """
    zone_info = zone(timezone)
    if zone_info is UTC:
        return wall.replace(tzinfo=UTC)
    return wall.replace(tzinfo=zone_info, fold=0).astimezone(UTC)


def local_date(*, at: datetime, timezone: str) -> date:
    """The calendar date of the instant where the customer is."""
    return at.astimezone(zone(timezone)).date()


def local_midnight(*, on: date, timezone: str) -> datetime:
    """The instant at which the local date begins."""
    return at_wall_time(wall=datetime.combine(on, time.min), timezone=timezone)


class _Count(msgspec.Struct, frozen=True):
    """A calendar made ready for counting: boundary 0 as a wall time, and the step."""

    zone: tzinfo
    wall: datetime
    day: int
    months: int
    days: int
    anchor_at: datetime | None


def _count(calendar: Calendar) -> _Count:
    zone_info = zone(calendar.timezone)
    wall = calendar.anchor_at.astimezone(zone_info).replace(tzinfo=None)
    months = _MONTHS.get(calendar.unit, 0) * calendar.count
    days = _DAYS.get(calendar.unit, 0) * calendar.count
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if calendar.alignment is Alignment.CALENDAR:
        return _Count(zone_info, _calendar_start(calendar.unit, midnight), 1, months, days, None)
    if calendar.anchor_day is not None:
        first = midnight.replace(day=min(calendar.anchor_day, _last_day(wall.year, wall.month)))
        return _Count(zone_info, first, calendar.anchor_day, months, days, None)
    # an hour told twice must not move an anchor that is an instant, so it is kept
    anchor_at = calendar.anchor_at.astimezone(UTC)
    return _Count(zone_info, wall, wall.day, months, days, anchor_at)


def _calendar_start(unit: IntervalUnit, midnight: datetime) -> datetime:
    """The calendar's own boundary at or before the local date."""
    match unit:
        case IntervalUnit.DAY:
            return midnight
        case IntervalUnit.WEEK:
            return midnight - timedelta(days=midnight.weekday())
        case IntervalUnit.MONTH:
            return midnight.replace(day=1)
        case IntervalUnit.QUARTER:
            return midnight.replace(day=1, month=1 + (midnight.month - 1) // 3 * 3)
        case IntervalUnit.YEAR:
            return midnight.replace(day=1, month=1)


def _last_day(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def _at_index(count: _Count, index: int) -> datetime:
    """The instant of boundary `index`."""
    if index == 0 and count.anchor_at is not None:
        return count.anchor_at
    wall = count.wall
    try:
        if count.days:
            shifted = wall + timedelta(days=index * count.days)
        else:
            year, month = divmod(wall.year * 12 + wall.month - 1 + index * count.months, 12)
            day = count.day if count.day < 29 else min(count.day, _last_day(year, month + 1))
            shifted = wall.replace(year=year, month=month + 1, day=day)
        if count.zone is UTC:
            return shifted.replace(tzinfo=UTC)
        return shifted.replace(tzinfo=count.zone, fold=0).astimezone(UTC)
    except (OverflowError, ValueError):
        message = f"boundary {index} lies outside the years 1 to 9999"
        raise BillingError("time_out_of_range", message) from None


def _holding(count: _Count, at: datetime) -> BillingPeriod:
    local = at.astimezone(count.zone)
    if count.days:
        index = (local.date() - count.wall.date()).days // count.days
    else:
        months = (local.year - count.wall.year) * 12 + local.month - count.wall.month
        index = months // count.months
    start = _at_index(count, index)
    end = start if start > at else _at_index(count, index + 1)
    while start > at:
        index, end = index - 1, start
        start = _at_index(count, index)
    while end <= at:
        index, start = index + 1, end
        end = _at_index(count, index + 1)
    return BillingPeriod(index, start, end)


def boundary(*, calendar: Calendar, index: int) -> datetime:
    """The instant of the boundary `index`; 0 is the anchor's, negative ones lie before it."""
    return _at_index(_count(calendar), index)


def period_holding(*, calendar: Calendar, at: datetime) -> BillingPeriod:
    """The whole billing period that holds the instant."""
    return _holding_of(calendar, at)


def first_period(*, calendar: Calendar, start: datetime) -> BillingPeriod:
    """The whole period that a subscription starting at `start` begins in.

    What is billed of it runs from `start` to its end, the first boundary after `start`.
    """
    return period_holding(calendar=calendar, at=start)


def billing_periods(*, calendar: Calendar, start: datetime, end: datetime) -> list[BillingPeriod]:
    """All whole periods that overlap [start, end), in order; those left empty are dropped."""
    return list(_periods(calendar, start, end)) if start < end else []


# Many subscriptions share an anchor, and all prices of one do: the same questions come again.
@lru_cache(maxsize=4096)
def _holding_of(calendar: Calendar, at: datetime) -> BillingPeriod:
    return _holding(_count(calendar), at)


@lru_cache(maxsize=4096)
def _periods(calendar: Calendar, start: datetime, end: datetime) -> tuple[BillingPeriod, ...]:
    count = _count(calendar)
    period = _holding(count, start)
    periods = [period]
    index, opens = period.index + 1, period.end
    while opens < end:
        closes = _at_index(count, index + 1)
        if opens < closes:
            periods.append(BillingPeriod(index, opens, closes))
        index, opens = index + 1, closes
    return tuple(periods)
