"""How much of a line is delivered by an instant, as an exact share. Pure.

Earning revenue and writing off what is not paid ask the same question. Days are calendar days of
the seller's timezone: the first counts, the last does not.
"""

from datetime import datetime
from enum import StrEnum
from fractions import Fraction

import msgspec

from engine.period import local_date


class RevenueMethod(StrEnum):
    """How a line is earned."""

    RATABLE_DAILY = "ratable_daily"
    RATABLE_SECOND = "ratable_second"
    USAGE = "usage"
    POINT_IN_TIME = "point_in_time"
    OVER_DAYS = "over_days"


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """When a line is delivered: its period, or from its issue on where it has none.

    `ends_at` is None without a period; `days` belongs to `over_days`.
    """

    method: RevenueMethod
    begins_at: datetime
    ends_at: datetime | None = None
    days: int | None = None


def share_delivered(*, delivery: Delivery, at: datetime, timezone: str) -> Fraction:
    """The part delivered before `at`, from 0 to 1; `timezone` is the seller's.

    Usage that was billed was used. What lasts less than a day, by days, is delivered at once.
    """
    if delivery.method is RevenueMethod.USAGE:
        return Fraction(1)
    passed, whole = _measured(delivery, at, timezone)
    if whole <= 0:
        return Fraction(int(delivery.begins_at < at))
    return Fraction(min(max(passed, 0), whole), whole)


def _measured(delivery: Delivery, at: datetime, timezone: str) -> tuple[int, int]:
    """What has passed and the whole of it, in days or microseconds; 0 for a point in time."""
    begins_at, ends_at = delivery.begins_at, delivery.ends_at
    if delivery.method is RevenueMethod.RATABLE_SECOND and ends_at is not None:
        return _micros(begins_at, at), _micros(begins_at, ends_at)
    first = local_date(at=begins_at, timezone=timezone)
    passed = (local_date(at=at, timezone=timezone) - first).days
    if delivery.method is RevenueMethod.OVER_DAYS:
        return passed, delivery.days or 0
    if delivery.method is RevenueMethod.RATABLE_DAILY and ends_at is not None:
        return passed, (local_date(at=ends_at, timezone=timezone) - first).days
    return 0, 0


def _micros(start: datetime, end: datetime) -> int:
    passed = end - start
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
