"""The event store, as it is read: measured columns, raw batches, the inbox, who a subject is."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.columns import (
    MeterColumns,
    measure_columns,
)
from metering.event_stores import event_store_of, required
from metering.intake import EPOCH, micros_of, read_data
from metering.model import StoredEvent
from plans.model import Meter

FETCH_BYTES: Final = 2_000_000
_FETCH_ROWS: Final = 2_000
_FIRST_ROWS: Final = 16
_EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)
_BEYOND: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
_payload: Final = msgspec.json.Decoder(list[StoredEvent])
_unknown: Final = msgspec.json.Decoder(list[tuple[int, str]])
_Ints = NDArray[np.int64]

_INBOX_MEASURES: Final = """
SELECT customers, times, unknown FROM event_measures
WHERE seller = current_seller() AND batch = ANY($1::bigint[]) AND first_at < $2
"""
# What was corrected after it was folded: of a reversed backfill the chunks, else the batch itself.
_INBOX_UNMEASURED: Final = """
SELECT batch, payload FROM event_batches b
WHERE seller = current_seller() AND first_at < $3 AND (
  (batch = ANY($1::bigint[])
    AND NOT meters @> ARRAY(SELECT number FROM meters WHERE seller = current_seller()))
  OR (batch = ANY($2::bigint[])
    AND NOT EXISTS (SELECT FROM backfill_batches x
      JOIN backfills f ON f.seller = x.seller AND f.id = x.backfill
      WHERE x.seller = b.seller AND x.batch = b.batch AND f.status = 'reversed')))
"""
_INBOX_REVERSED: Final = """
SELECT customers, times, unknown FROM event_chunks
WHERE seller = current_seller() AND first_at < $2 AND backfill IN (
  SELECT f.id FROM backfill_batches x
  JOIN backfills f ON f.seller = x.seller AND f.id = x.backfill
  WHERE x.seller = current_seller() AND x.batch = ANY($1::bigint[]) AND f.status = 'reversed')
"""
_SUBJECTS: Final = """
SELECT id AS subject, number, 0 AS rank FROM customers
WHERE seller = current_seller() AND id = ANY($1::text[])
UNION ALL
SELECT key, number, 1 FROM customers WHERE seller = current_seller() AND key = ANY($1::text[])
ORDER BY rank
"""
_METERS: Final = """
SELECT id, number, key, name, event_type, aggregation, value, unique_by, percentile, carry_over,
  filters, group_by, rounding, late_usage, created_at
FROM meters WHERE seller = current_seller() ORDER BY number
"""


_TAKE_INBOX: Final = text("""
DELETE FROM event_inbox WHERE seller = current_seller() RETURNING batch, again, customers, times
""")
_READ_INBOX: Final = text("""
SELECT batch, again, customers, times FROM event_inbox WHERE seller = current_seller()
""")
_ANY_INBOX: Final = text("SELECT EXISTS (SELECT FROM event_inbox WHERE seller = current_seller())")
# Nothing is folded between what a sweep finds in the inbox and what it reads of it.
_HOLD_INBOX: Final = text("""
SELECT CASE WHEN current_setting('transaction_isolation') = 'read committed'
  THEN pg_advisory_xact_lock_shared(hashtextextended('inbox ' || current_seller(), 0)) END
""")


def in_utc(at: datetime) -> datetime:
    """The same instant, told in UTC."""
    return at.astimezone(UTC)


def at_micros(micros: int) -> datetime:
    """The instant, held within the years a timestamp column takes."""
    try:
        return min(max(EPOCH + timedelta(microseconds=micros), _EARLIEST), _LATEST)
    except OverflowError:
        return _LATEST if micros > 0 else _EARLIEST


def decode_payload(payload: bytes) -> list[StoredEvent]:
    """The events of a batch, by ordinal."""
    return _payload.decode(payload)


def decode_unknown(unknown: bytes) -> list[tuple[int, str]]:
    """(position, subject) of the events whose subject was no customer."""
    return _unknown.decode(unknown)


async def find_subjects(raw: Any, *, subjects: Iterable[str]) -> dict[str, int]:
    """The customer numbers of subjects: a customer's key, else its id. Strangers are left out."""
    wanted = list(subjects)
    rows = await raw.fetch(_SUBJECTS, wanted) if wanted else []
    return {row["subject"]: row["number"] for row in rows}


async def load_meters(raw: Any) -> tuple[Meter, ...]:
    """All meters of the transaction's seller."""
    return tuple(msgspec.convert(dict(row.items()), Meter) for row in await raw.fetch(_METERS))


class SubjectNumbers:
    """Customer numbers of subjects, asked once within a transaction; 0 is a stranger."""

    def __init__(self, *, connection: AsyncConnection) -> None:
        """Remembers as long as it lives, so give it one transaction."""
        self._connection = connection
        self._known: dict[str, int] = {}

    async def find(self, subjects: Iterable[str]) -> dict[str, int]:
        """The numbers known so far; every one of `subjects` is among them."""
        missing = set(subjects).difference(self._known)
        if missing:
            found = await find_subjects(await driver(self._connection), subjects=missing)
            self._known.update(dict.fromkeys(missing, 0))
            self._known.update(found)
        return self._known


async def pages(
    raw: Any, statement: str, *arguments: object, weigh: Callable[[Any], int]
) -> AsyncIterator[list[Any]]:
    """Rows by the page, each of about FETCH_BYTES."""
    cursor = await raw.cursor(statement, *arguments)
    count = _FIRST_ROWS
    while rows := await cursor.fetch(count):
        yield rows
        size = sum(map(weigh, rows))
        count = min(max(count * FETCH_BYTES // max(size, 1), 1), 4 * count, _FETCH_ROWS)


def weigh_columns(row: Any) -> int:
    """About how many bytes a row of columns takes."""
    return len(row["customers"]) + len(row["times"]) + len(row["unknown"]) + 64


def weigh_payload(row: Any) -> int:
    """About how many bytes a row with a payload takes once its events are decoded."""
    return 4 * len(row["payload"] or b"") + 64


async def customers_of(parts: Sequence[tuple[bytes, bytes]], *, subjects: SubjectNumbers) -> _Ints:
    """The customers columns of (customers, unknown) pairs, today's numbers filled in.

    Not to be written to.
    """
    joined: _Ints = np.frombuffer(b"".join(each for each, _ in parts), dtype="<i8")
    start, strangers = 0, list[tuple[int, str]]()
    for column, unknown in parts:
        if unknown:
            strangers.extend((start + place, who) for place, who in _unknown.decode(unknown))
        start += len(column) // 8
    if strangers:
        numbers = await subjects.find(who for _, who in strangers)
        joined = joined.copy()
        joined[[place for place, _ in strangers]] = [numbers[who] for _, who in strangers]
    return joined


def columns_of_events(events: Sequence[StoredEvent], meter: Meter) -> MeterColumns | None:
    """What the meter measures of events whose customers are still to be found."""
    if not events:
        return None
    return measure_columns(
        meter=meter,
        types=[each.type for each in events],
        subjects=[each.subject for each in events],
        datas=read_data(events),
        customers=np.zeros(len(events), dtype=np.int64),
        times=np.array([micros_of(each.time) for each in events], dtype=np.int64),
    )


async def is_inbox_empty(*, connection: AsyncConnection) -> bool:
    """Whether every batch of the seller was looked at."""
    return not (await connection.execute(_ANY_INBOX)).scalar_one()


async def events_of(
    rows: Sequence[Any], *, connection: AsyncConnection
) -> dict[int, list[StoredEvent]]:
    """The events of rows of `event_batches`, wherever they lie. Errors: `event_store_missing`."""
    found = {row["batch"]: decode_payload(row["payload"]) for row in rows if row["payload"]}
    lacking = [row["batch"] for row in rows if row["payload"] is None]
    if lacking:
        store = required(event_store_of(connection))
        seller = await seller_of(await driver(connection))
        found |= await store.load(seller=seller, batches=lacking)
    return found


async def seller_of(raw: Any) -> int:
    """The seller that the transaction named."""
    seller: int = await raw.fetchval("SELECT current_seller()")
    return seller


async def take_inbox(*, connection: AsyncConnection, take: bool = True) -> Sequence[Any]:
    """What waits in the inbox, and leaves it with `take`. Nothing is folded meanwhile."""
    await connection.execute(_HOLD_INBOX)
    return (await connection.execute(_TAKE_INBOX if take else _READ_INBOX)).all()


async def stream_inbox(
    *, connection: AsyncConnection, taken: Sequence[Any], before: datetime | None = None
) -> AsyncIterator[tuple[_Ints, _Ints]]:
    """(customer numbers, times) of the events in every batch `taken` off the inbox, by the page.

    With `before` those of that instant and later are left out, and batches of nothing else are not
    read.
    """
    raw = await driver(connection)
    subjects = SubjectNumbers(connection=connection)
    until = None if before is None else micros_of(before)
    for row in taken:
        if row.customers is not None:
            yield _early(
                np.frombuffer(row.customers, dtype="<i8"),
                np.frombuffer(row.times, dtype="<i8"),
                until,
            )
    batches = [row.batch for row in taken if row.customers is None or row.again]
    again = [row.batch for row in taken if row.again]
    if not batches:
        return
    first = before or _BEYOND
    for statement, among in ((_INBOX_MEASURES, batches), (_INBOX_REVERSED, again)):
        async for rows in pages(raw, statement, among, first, weigh=weigh_columns):
            parts = [(row["customers"], row["unknown"]) for row in rows]
            customers = await customers_of(parts, subjects=subjects)
            times = np.frombuffer(b"".join(row["times"] for row in rows), dtype="<i8")
            yield _early(customers, times, until)
    async for rows in pages(raw, _INBOX_UNMEASURED, batches, again, first, weigh=weigh_payload):
        for events in (await events_of(rows, connection=connection)).values():
            numbers = await subjects.find(each.subject for each in events)
            customers = np.array([numbers[each.subject] for each in events], dtype=np.int64)
            times = np.array([micros_of(each.time) for each in events], dtype=np.int64)
            yield _early(customers, times, until)


def _early(customers: _Ints, times: _Ints, until: int | None) -> tuple[_Ints, _Ints]:
    """The entries of known customers, from before an instant if one is given."""
    wanted = customers != 0
    if until is not None:
        wanted &= times < until
    if bool(wanted.all()):
        return customers, times
    return customers[wanted], times[wanted]
