"""Billing periods: half-open stretches between boundaries counted from an anchor."""

from datetime import datetime
from enum import StrEnum

import msgspec


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
