"""Stretches of time for which usage is shown: hours, days, months where the customer is."""

from datetime import date, datetime, timedelta
from typing import Final

from engine.errors import BillingError, invalid_field
from engine.period import Period, local_date, local_midnight
from metering.model import UsageWindow

MOST_WINDOWS: Final = 2_000
_HOUR: Final = timedelta(hours=1)


def _first_of_next(on: date) -> date:
    return date(on.year + on.month // 12, on.month % 12 + 1, 1)


def cut(*, start: datetime, end: datetime, window: UsageWindow, timezone: str) -> list[Period]:
    """[start, end) cut at local midnights; the first and the last window may be partial.

    Hours are elapsed hours counted from each local midnight. Errors: `invalid_body` when the end
    is not after the start, `too_many_windows`.
    """
    if end <= start:
        detail = "the end lies after the start"
        raise invalid_field(pointer="/to", code="invalid", detail=detail)
    day = local_date(at=start, timezone=timezone)
    if window is UsageWindow.MONTH:
        day = day.replace(day=1)
    periods: list[Period] = []
    while (opens := local_midnight(on=day, timezone=timezone)) < end:
        day = _first_of_next(day) if window is UsageWindow.MONTH else day + timedelta(days=1)
        closes = local_midnight(on=day, timezone=timezone)
        step = _HOUR if window is UsageWindow.HOUR else closes - opens
        while opens < closes:
            first, last = max(opens, start), min(opens + step, closes, end)
            if first < last:
                periods.append(Period(first, last))
            opens += step
        if len(periods) > MOST_WINDOWS:
            detail = f"an answer holds at most {MOST_WINDOWS} windows: ask for less, or coarser"
            raise BillingError("too_many_windows", detail)
    return periods


def whole_windows(
    *, first: datetime, last: datetime, window: UsageWindow, timezone: str
) -> list[Period]:
    """The days or months, whole, from the one that holds `first` to the one that holds `last`."""
    day = local_date(at=first, timezone=timezone)
    if window is UsageWindow.MONTH:
        day = day.replace(day=1)
    periods: list[Period] = []
    while (opens := local_midnight(on=day, timezone=timezone)) <= last:
        day = _first_of_next(day) if window is UsageWindow.MONTH else day + timedelta(days=1)
        closes = local_midnight(on=day, timezone=timezone)
        if opens < closes:
            periods.append(Period(opens, closes))
    return periods


def closes_at(
    *, active_end: datetime, period_end: datetime, cancelled_at: datetime | None
) -> datetime:
    """From when on usage of a billing period is late: its end, or where the price ended in it.

    What came before a back-dated cancellation was known came in time.
    """
    if cancelled_at is None or active_end >= period_end:
        return active_end
    return max(active_end, min(period_end, cancelled_at))
