"""How fast a billing run goes, and when it should be through. Pure."""

from datetime import datetime, timedelta
from fractions import Fraction

import msgspec

MICROS = 1_000_000


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """`customers_per_second` as decimal text with one digit; None before anything was done."""

    customers_per_second: str | None = None
    estimated_finish_at: datetime | None = None


def customers_per_second(*, done: int, worked_micros: int) -> Fraction | None:
    """The mean rate over the time that was worked; None before anything was done."""
    return Fraction(done * MICROS, worked_micros) if done and worked_micros else None


def seconds_left(*, done: int, total: int, rate: Fraction) -> Fraction:
    """How long the rest takes at that rate."""
    return max(total - done, 0) / rate


def pace(
    *,
    done: int,
    total: int | None,
    worked_micros: int,
    progress_at: datetime | None,
    is_running: bool,
) -> Pace:
    """The mean rate over the time that was worked, and what it foretells for the rest."""
    rate = customers_per_second(done=done, worked_micros=worked_micros)
    if rate is None:
        return Pace()
    tenths = rate * 10 // 1
    finish_at = None
    if is_running and total is not None and progress_at is not None:
        left = seconds_left(done=done, total=total, rate=rate) * MICROS // 1
        finish_at = progress_at + timedelta(microseconds=left)
    return Pace(customers_per_second=f"{tenths // 10}.{tenths % 10}", estimated_finish_at=finish_at)
