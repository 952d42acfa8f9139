"""The stretch of time an export is asked for: days of the seller's calendar, or instants."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from engine.errors import invalid_field
from engine.period import local_date, local_midnight
from invoicing.export_table import Bounds

_EARLIEST_YEAR: Final = 1970
_LATEST_YEAR: Final = 2999


def bounds_of(*, start: str | None, end: str | None, timezone: str) -> Bounds:
    """[start, end) of two texts, each a day (its local midnight) or an RFC 3339 instant.

    Errors: `invalid_body` at `/from` or `/to`: neither of the two, or an end before the start.
    """
    start_at = None if start is None else _instant(start, timezone=timezone, pointer="/from")
    end_at = None if end is None else _instant(end, timezone=timezone, pointer="/to")
    if start_at is not None and end_at is not None and end_at < start_at:
        raise invalid_field(pointer="/to", code="invalid", detail="the end is before the start")
    return Bounds(
        start_at=start_at,
        end_at=end_at,
        start_on=None if start_at is None else _first_day(start_at, timezone=timezone),
        end_on=None if end_at is None else _first_day(end_at, timezone=timezone),
    )


def _instant(text: str, *, timezone: str, pointer: str) -> datetime:
    try:
        # A plus sign that nobody escaped arrives as a space.
        at = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        at = None
    is_day = at is not None and "T" not in text.upper() and at.time() == time(0)
    if at is None or (at.tzinfo is None and not is_day):
        detail = "say a day, such as 2026-01-31, or an instant with its offset from UTC"
        raise invalid_field(pointer=pointer, code="invalid", detail=detail)
    if not _EARLIEST_YEAR <= at.year <= _LATEST_YEAR:
        detail = f"the year must lie in {_EARLIEST_YEAR}–{_LATEST_YEAR}"
        raise invalid_field(pointer=pointer, code="invalid", detail=detail)
    if at.tzinfo is None:
        return local_midnight(on=at.date(), timezone=timezone).astimezone(UTC)
    return at.astimezone(UTC)


def _first_day(at: datetime, *, timezone: str) -> date:
    """The first local day that begins at `at` or later."""
    day = local_date(at=at, timezone=timezone)
    begun = local_midnight(on=day, timezone=timezone) < at
    return day + timedelta(days=1) if begun else day
