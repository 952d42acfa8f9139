"""Billing periods: half-open stretches between boundaries counted from an anchor.

A boundary is a local wall time made into an instant. The nth one is always counted from the
anchor, never from its neighbour, so a month's end that was clipped comes back: 31 January,
28 February, 31 March.
"""

from calendar import monthrange
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
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


class Period(msgspec.Struct, frozen=True):
    """[start, end) between two instants in UTC."""

    start: datetime
    end: datetime


class Calendar(msgspec.Struct, frozen=True, kw_only=True):
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


class BillingPeriod(msgspec.Struct, frozen=True):
    """The whole period [start, end) before it is clipped to a subscription's life."""

    index: int
    start: datetime
    end: datetime


_MONTHS: Final = {IntervalUnit.MONTH: 1, IntervalUnit.QUARTER: 3, IntervalUnit.YEAR: 12}
_DAYS: Final = {IntervalUnit.DAY: 1, IntervalUnit.WEEK: 7}
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


def _anchor_wall(calendar: Calendar) -> tuple[datetime, int]:
    """Local wall time of boundary 0, and the day of the month that later months aim for."""
    wall = calendar.anchor_at.astimezone(zone(calendar.timezone)).replace(tzinfo=None)
    if calendar.alignment is Alignment.CALENDAR:
        midnight = datetime.combine(wall.date(), time.min)
        match calendar.unit:
            case IntervalUnit.DAY:
                return midnight, midnight.day
            case IntervalUnit.WEEK:
                return midnight - timedelta(days=midnight.weekday()), 1
            case IntervalUnit.MONTH:
                return midnight.replace(day=1), 1
            case IntervalUnit.QUARTER:
                return midnight.replace(day=1, month=1 + (wall.month - 1) // 3 * 3), 1
            case IntervalUnit.YEAR:
                return midnight.replace(day=1, month=1), 1
    if calendar.anchor_day is not None:
        midnight = datetime.combine(wall.date(), time.min)
        last = monthrange(wall.year, wall.month)[1]
        return midnight.replace(day=min(calendar.anchor_day, last)), calendar.anchor_day
    return wall, wall.day


def _wall_boundary(calendar: Calendar, wall: datetime, day: int, index: int) -> datetime:
    """The instant of boundary `index`, counted from the anchor's wall time."""
    if index == 0 and calendar.alignment is not Alignment.CALENDAR and calendar.anchor_day is None:
        return calendar.anchor_at.astimezone(UTC)  # an hour told twice must not move the anchor
    try:
        if calendar.unit in _DAYS:
            shifted = wall + timedelta(days=index * calendar.count * _DAYS[calendar.unit])
        else:
            months = wall.year * 12 + wall.month - 1 + index * calendar.count * _months(calendar)
            year, month = divmod(months, 12)
            last = monthrange(year, month + 1)[1]
            shifted = wall.replace(year=year, month=month + 1, day=min(day, last))
        return at_wall_time(wall=shifted, timezone=calendar.timezone)
    except (OverflowError, ValueError):
        message = f"boundary {index} lies outside the years 1 to 9999"
        raise BillingError("time_out_of_range", message) from None


def _months(calendar: Calendar) -> int:
    return _MONTHS[calendar.unit]


def _guess_index(calendar: Calendar, wall: datetime, at: datetime) -> int:
    """An index whose boundary is near `at`; the caller steps to the exact one."""
    local = at.astimezone(zone(calendar.timezone)).replace(tzinfo=None)
    if calendar.unit in _DAYS:
        return (local.date() - wall.date()).days // (calendar.count * _DAYS[calendar.unit])
    months = (local.year - wall.year) * 12 + local.month - wall.month
    return months // (calendar.count * _months(calendar))


def boundary(*, calendar: Calendar, index: int) -> datetime:
    """The instant of the boundary `index`; 0 is the anchor's, negative ones lie before it."""
    wall, day = _anchor_wall(calendar)
    return _wall_boundary(calendar, wall, day, index)


def period_holding(*, calendar: Calendar, at: datetime) -> BillingPeriod:
    """The whole billing period that holds the instant."""
    wall, day = _anchor_wall(calendar)
    index = _guess_index(calendar, wall, at)
    start = _wall_boundary(calendar, wall, day, index)
    while start > at:
        index -= 1
        start = _wall_boundary(calendar, wall, day, index)
    end = _wall_boundary(calendar, wall, day, index + 1)
    while end <= at:
        index, start = index + 1, end
        end = _wall_boundary(calendar, wall, day, index + 1)
    return BillingPeriod(index, start, end)


def first_period(*, calendar: Calendar, start: datetime) -> BillingPeriod:
    """The whole period that a subscription starting at `start` begins in.

    What is billed of it runs from `start` to its end, the first boundary after `start`.
    """
    return period_holding(calendar=calendar, at=start)


def billing_periods(*, calendar: Calendar, start: datetime, end: datetime) -> list[BillingPeriod]:
    """All whole periods that overlap [start, end), in order; those left empty are dropped."""
    if start >= end:
        return []
    wall, day = _anchor_wall(calendar)
    period = period_holding(calendar=calendar, at=start)
    periods = [period]
    index, opens = period.index + 1, period.end
    while opens < end:
        closes = _wall_boundary(calendar, wall, day, index + 1)
        if opens < closes:
            periods.append(BillingPeriod(index, opens, closes))
        index, opens = index + 1, closes
    return periods
