"""The active part of a billing period as an exact fraction, in the four ways sellers choose."""

from datetime import date, datetime, timedelta
from typing import Final

from engine.period import Period, local_date
from plans.model import LastDay, Proration

_MICROSECOND: Final = timedelta(microseconds=1)
_SECOND: Final = timedelta(seconds=1)


def fraction(
    *,
    proration: Proration,
    last_day: LastDay,
    period: Period,
    active: Period,
    timezone: str,
    ends_by_cancellation: bool,
    starts_by_change: bool = False,
) -> tuple[int, int]:
    """Numerator and denominator of the share of `period` that `active` takes, not reduced.

    `period` is the whole billing period, the part before a subscription's start too; `active`
    lies inside it. `starts_by_change` matters for `none` alone: what a change begins counts from
    the next boundary, while a subscription's first stub pays the whole period.
    """
    if active.start >= active.end:
        return 0, 1
    if active.start <= period.start and active.end >= period.end:
        return 1, 1
    match proration:
        case Proration.NONE:
            return (0, 1) if starts_by_change and active.start > period.start else (1, 1)
        case Proration.SECOND:
            return _elapsed(period, active)
        case Proration.DAY:
            whole = _dates(period, timezone)
            used = _dates(active, timezone)
            counted = (used[1] - used[0]).days
            if ends_by_cancellation and (last_day is LastDay.INCLUDE or counted == 0):
                counted += 1
            days = (whole[1] - whole[0]).days
            return (min(counted, days), days) if days > 0 else _elapsed(period, active)
        case Proration.THIRTY_360:
            first, last = (_thirty_360(day) for day in _dates(period, timezone))
            start, end = (_thirty_360(day) for day in _dates(active, timezone))
            return (end - start, last - first) if last > first else _elapsed(period, active)


def _elapsed(period: Period, active: Period) -> tuple[int, int]:
    part, whole = active.end - active.start, period.end - period.start
    unit = _MICROSECOND if part % _SECOND or whole % _SECOND else _SECOND
    return part // unit, whole // unit


def _dates(period: Period, timezone: str) -> tuple[date, date]:
    return _date(period.start, timezone), _date(period.end, timezone)


def _date(at: datetime, timezone: str) -> date:
    return local_date(at=at, timezone=timezone)


def _thirty_360(day: date) -> int:
    """A count of days in which every month has thirty; the 31st counts as the 30th."""
    return (day.year * 12 + day.month) * 30 + min(day.day, 30)
