"""How fast a billing run goes, and when it should be through. Pure."""

from datetime import datetime, timedelta

import msgspec

MICROS = 1_000_000


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """`customers_per_second` as decimal text with one digit; None before anything was done."""

    customers_per_second: str | None = None
    estimated_finish_at: datetime | None = None


def pace(
    *,
    done: int,
    total: int | None,
    worked_micros: int,
    progress_at: datetime | None,
    is_running: bool,
) -> Pace:
    """The mean rate over the time that was worked, and what it foretells for the rest."""
    if not done or not worked_micros:
        return Pace()
    tenths = done * 10 * MICROS // worked_micros
    finish_at = None
    if is_running and total is not None and progress_at is not None:
        left = timedelta(microseconds=max(total - done, 0) * worked_micros // done)
        finish_at = progress_at + left
    return Pace(customers_per_second=f"{tenths // 10}.{tenths % 10}", estimated_finish_at=finish_at)
