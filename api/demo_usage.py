"""What the demo bills: made-up requests, or the rows of a file dealt to made-up customers."""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import msgspec

from api.importing import Columns, derived_event_id, read_rows, read_time, written
from engine.errors import BillingError

EVENT_TYPE: Final = "request"
GENERATED_VALUES: Final = ("input_tokens", "output_tokens")
_NUMBER: Final = re.compile(r"^\d{1,15}(\.\d{1,9})?\Z", re.ASCII)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Events that can be read again and again, and what they add up to."""

    values: tuple[str, ...]
    events: Callable[[], Iterator[Mapping[str, Any]]]
    count: int
    first_at: datetime
    last_at: datetime
    totals: Mapping[str, Decimal]
    """The exact sum of each value over all events."""
    refused: int
    """Rows of the file that are no events."""
    determined_by: bytes | None = None
    """What the same events follow from: the same for the same file billed in the same way."""

    def months(self) -> list[tuple[datetime, datetime]]:
        """The calendar months (UTC) from the first event to the last."""
        months = [month_of(self.first_at)]
        while months[-1][1] <= self.last_at:
            months.append(month_of(months[-1][1]))
        return months


def month_of(at: datetime) -> tuple[datetime, datetime]:
    """The calendar month in UTC that holds the instant."""
    start = datetime(at.year, at.month, 1, tzinfo=UTC)
    return start, datetime(at.year + at.month // 12, at.month % 12 + 1, 1, tzinfo=UTC)


def made_up(*, customers: Sequence[str], count: int, start: datetime, seed: int) -> Usage:
    """`count` requests of the month that begins at `start`, the same ones for the same seed."""
    first, end = month_of(start)
    span = (end - first) // timedelta(microseconds=1)

    def events() -> Iterator[Mapping[str, Any]]:
        numbers = random.Random(seed)  # noqa: S311 made-up usage is no secret
        for number in range(1, count + 1):
            at = first + timedelta(microseconds=numbers.randrange(span))
            data = {
                "input_tokens": numbers.randrange(1, 8_000),
                "output_tokens": numbers.randrange(1, 900),
            }
            yield {
                "id": derived_event_id(at=at, number=number, fields={"seed": str(seed)}),
                "type": EVENT_TYPE,
                "subject": customers[(number - 1) % len(customers)],
                "time": written(at),
                "data": data,
            }

    return _summed(events=events, values=GENERATED_VALUES, refused=lambda: 0)


def from_file(
    *, path: Path, time_column: str | None, values: tuple[str, ...], customers: Sequence[str]
) -> Usage:
    """The rows of a CSV, dealt to the customers in turn; ids follow from the rows.

    Errors: `unreadable_file`, and `no_usage` when no row is an event.
    """
    columns = Columns(
        time=time_column, values=values, event_type=EVENT_TYPE, subjects=tuple(customers)
    )
    refused = 0

    def events() -> Iterator[Mapping[str, Any]]:
        nonlocal refused
        refused = 0
        for row in read_rows(path=path, kind="events", columns=columns):
            data = {} if row.body is None else row.body["data"]
            if (
                row.body is None
                or "time" not in row.body
                or not all(_NUMBER.match(data.get(name, "")) for name in values)
            ):
                refused += 1
                continue
            yield row.body

    usage = _summed(events=events, values=values, refused=lambda: refused)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A list of lists as JSON: no two ways to bill read alike.
    chosen = [digest, time_column or "time", values, customers]
    return msgspec.structs.replace(usage, determined_by=msgspec.json.encode(chosen))


def _summed(
    *,
    events: Callable[[], Iterator[Mapping[str, Any]]],
    values: tuple[str, ...],
    refused: Callable[[], int],
) -> Usage:
    totals = dict.fromkeys(values, Decimal(0))
    count, times = 0, list[datetime]()
    for event in events():
        count += 1
        times = _widened(times, read_time(event["time"], name="time"))
        for name in values:
            totals[name] += Decimal(event["data"][name])
    if not times:
        raise BillingError(
            "no_usage", f"No row has a time and numbers in {', '.join(values)}: nothing to bill."
        )
    return Usage(
        values=values,
        events=events,
        count=count,
        first_at=times[0],
        last_at=times[-1],
        totals=totals,
        refused=refused(),
    )


def _widened(times: list[datetime], at: datetime) -> list[datetime]:
    return [min([*times, at]), max([*times, at])]


def in_month(
    events: Iterable[Mapping[str, Any]], *, start: datetime, end: datetime
) -> Iterator[Mapping[str, Any]]:
    """The events with a time in [start, end)."""
    first, last = written(start), written(end)
    # RFC 3339 in UTC with a `Z` sorts as text up to the fraction, which a month's bounds lack.
    return (event for event in events if first[:19] <= event["time"][:19] < last[:19])
