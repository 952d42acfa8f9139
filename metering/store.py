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
from metering.aggregation import Block
from metering.columns import (
    MeterColumns,
    decode_quantities,
    has_values,
    kept_dimensions,
    measure_columns,
)
from metering.dimensions import Combinations
from metering.intake import EPOCH, micros_of, read_data
from metering.model import StoredEvent
from plans.model import LateUsage, Meter

FETCH_BYTES: Final = 4_000_000
_FETCH_ROWS: Final = 2_000
_FIRST_ROWS: Final = 16
_EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LATEST: Final = datetime(9999, 12, 31, tzinfo=UTC)
_payload: Final = msgspec.json.Decoder(list[StoredEvent])
_unknown: Final = msgspec.json.Decoder(list[tuple[int, str]])
_Ints = NDArray[np.int64]

_MEASURES: Final = """
SELECT batch, events, digits, wide, customers, times, quantities, unknown,
  CASE WHEN $4 THEN groups ELSE '' END AS groups, CASE WHEN $4 THEN codes ELSE '' END AS codes,
  ARRAY(SELECT v.position FROM event_void_positions v
    WHERE v.seller = m.seller AND v.meter = m.meter AND v.batch = m.batch) AS voided,
  CASE WHEN $5 THEN (SELECT b.received_at FROM event_batches b
    WHERE b.seller = m.seller AND b.batch = m.batch) END AS received_at
FROM event_measures m
WHERE seller = current_seller() AND meter = $1 AND first_at < $2 AND last_at >= $3
  AND NOT EXISTS (SELECT FROM backfill_batches x
    JOIN backfills f ON f.seller = x.seller AND f.id = x.backfill
    WHERE x.seller = m.seller AND x.batch = m.batch AND f.status <> 'closed')
"""
_UNMEASURED: Final = """
SELECT batch, payload, received_at, ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch) AS voided
FROM event_batches b
WHERE seller = current_seller() AND NOT meters @> ARRAY[$1::integer]
  AND first_at < $2 AND last_at >= $3
  AND NOT EXISTS (SELECT FROM backfill_batches x
    JOIN backfills f ON f.seller = x.seller AND f.id = x.backfill
    WHERE x.seller = b.seller AND x.batch = b.batch AND f.status <> 'closed')
"""
_INBOX_MEASURES: Final = """
SELECT customers, times, unknown FROM event_measures
WHERE seller = current_seller() AND batch = ANY($1::bigint[])
"""
_INBOX_UNMEASURED: Final = """
SELECT payload FROM event_batches
WHERE seller = current_seller() AND batch = ANY($1::bigint[])
  AND NOT meters @> ARRAY(SELECT number FROM meters WHERE seller = current_seller())
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


_TAKE_INBOX: Final = text("DELETE FROM event_inbox WHERE seller = current_seller() RETURNING batch")
_READ_INBOX: Final = text("SELECT batch FROM event_inbox WHERE seller = current_seller()")


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


def _weigh_columns(row: Any) -> int:
    return len(row["customers"]) + len(row["times"]) + len(row["unknown"]) + 64


def weigh_payload(row: Any) -> int:
    """About how many bytes a row with a payload takes once its events are decoded."""
    return 4 * len(row["payload"]) + 64


async def _customers(parts: Sequence[tuple[bytes, bytes]], subjects: SubjectNumbers) -> _Ints:
    """The customers columns of (customers, unknown) pairs, today's numbers filled in."""
    joined = np.frombuffer(b"".join(each for each, _ in parts), dtype="<i8").astype(np.int64)
    start, strangers = 0, list[tuple[int, str]]()
    for column, unknown in parts:
        if unknown:
            strangers.extend((start + place, who) for place, who in _unknown.decode(unknown))
        start += len(column) // 8
    if strangers:
        numbers = await subjects.find(who for _, who in strangers)
        joined[[place for place, _ in strangers]] = [numbers[who] for _, who in strangers]
    return joined


def _left(block: Block, voided: Sequence[int]) -> Block:
    """The block without the events at the positions that were taken back."""
    if not voided:
        return block
    kept = np.ones(len(block.customer), dtype=np.bool_)
    kept[list(voided)] = False
    return Block(
        customer=block.customer[kept],
        time_micros=block.time_micros[kept],
        batch=block.batch[kept],
        quantity=None if block.quantity is None else block.quantity[kept],
        digits=block.digits,
        combination=None if block.combination is None else block.combination[kept],
        member=None if block.member is None else block.member[kept],
        received_micros=None if block.received_micros is None else block.received_micros[kept],
    )


def _received(block: Block, rows: Sequence[Any], meter: Meter) -> Block:
    """The block with when its events were received, where the meter asks for that."""
    if meter.late_usage is LateUsage.ADJUST:
        return block
    received = [micros_of(row["received_at"]) for row in rows]
    told = np.repeat(np.array(received, dtype=np.int64), [row["events"] for row in rows])
    return msgspec.structs.replace(block, received_micros=told)


def _voided(rows: Sequence[Any]) -> list[int]:
    """The positions taken back in the columns of rows that are joined end to end."""
    found: list[int] = []
    start = 0
    for row in rows:
        found.extend(start + position for position in row["voided"])
        start += row["events"]
    return found


async def _block(
    columns: Sequence[tuple[int, MeterColumns]],
    *,
    meter: Meter,
    subjects: SubjectNumbers,
    combinations: Combinations | None,
    members: Combinations | None,
) -> Block:
    """(batch, columns) of the same digits and width, as one block."""
    first = columns[0][1]
    counting = not has_values(meter)
    return Block(
        customer=await _customers(
            [(each.customers, each.unknown) for _, each in columns], subjects
        ),
        time_micros=np.frombuffer(b"".join(each.times for _, each in columns), dtype="<i8"),
        batch=np.repeat([batch for batch, _ in columns], [each.events for _, each in columns]),
        quantity=None
        if counting
        else decode_quantities(
            quantities=b"".join(each.quantities for _, each in columns), wide=first.wide
        ),
        digits=first.digits,
        combination=_numbered(columns, combinations),
        member=_numbered(columns, members),
    )


def _numbered(
    columns: Sequence[tuple[int, MeterColumns]], combinations: Combinations | None
) -> _Ints | None:
    """Each event's combination, numbered there; None where nobody asks."""
    if combinations is None:
        return None
    return np.concatenate(
        [
            combinations.number(groups=each.groups, codes=each.codes, events=each.events)
            for _, each in columns
        ]
    )


def _columns_of_row(row: Any, meter: int) -> tuple[int, MeterColumns]:
    columns = MeterColumns(
        meter=meter,
        events=row["events"],
        first_micros=0,
        last_micros=0,
        digits=row["digits"],
        wide=row["wide"],
        customers=row["customers"],
        times=row["times"],
        quantities=row["quantities"],
        unknown=row["unknown"],
        groups=row["groups"],
        codes=row["codes"],
    )
    return row["batch"], columns


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


async def stream_blocks(
    *,
    connection: AsyncConnection,
    meter: Meter,
    start_micros: int,
    end_micros: int,
    subjects: SubjectNumbers,
    combinations: Combinations | None = None,
) -> AsyncIterator[Block]:
    """All events of a meter in batches that reach into [start, end), a few megabytes at a time.

    A batch stored while the meter was not known to who stored it is measured from its payload.
    With `combinations` the blocks tell each event's, numbered there. What was taken back is left
    out; a meter that ignores late usage is told when each event was received.
    """
    raw = await driver(connection)
    bounds = (meter.number, at_micros(end_micros), at_micros(start_micros))
    texts = kept_dimensions(meter)
    members = None
    if meter.unique_by is not None:
        members = Combinations(kept=texts, wanted=(meter.unique_by,))
    kept = bool(texts) and (combinations is not None or members is not None)
    late = meter.late_usage is LateUsage.IGNORE
    async for rows in pages(raw, _MEASURES, *bounds, kept, late, weigh=_weigh_columns):
        groups: dict[tuple[int, bool], list[Any]] = {}
        for row in rows:
            groups.setdefault((row["digits"], row["wide"]), []).append(row)
        for group in groups.values():
            block = await _block(
                [_columns_of_row(row, meter.number) for row in group],
                meter=meter,
                subjects=subjects,
                combinations=combinations,
                members=members,
            )
            yield _left(_received(block, group, meter), _voided(group))
    async for rows in pages(raw, _UNMEASURED, *bounds, weigh=weigh_payload):
        for row in rows:
            voided = frozenset[int](row["voided"])
            events = [
                each
                for ordinal, each in enumerate(decode_payload(row["payload"]))
                if ordinal not in voided
            ]
            columns = columns_of_events(events, meter)
            if columns is not None:
                block = await _block(
                    [(row["batch"], columns)],
                    meter=meter,
                    subjects=subjects,
                    combinations=combinations,
                    members=members,
                )
                one = {"events": columns.events, "received_at": row["received_at"]}
                yield _received(block, [one], meter)


async def stream_inbox(
    *, connection: AsyncConnection, take: bool
) -> AsyncIterator[tuple[_Ints, _Ints]]:
    """(customer numbers, times) of the events in every batch of the inbox, by the page.

    With `take` the batches leave the inbox.
    """
    raw = await driver(connection)
    subjects = SubjectNumbers(connection=connection)
    taken = await connection.execute(_TAKE_INBOX if take else _READ_INBOX)
    batches = [row.batch for row in taken]
    if not batches:
        return
    async for rows in pages(raw, _INBOX_MEASURES, batches, weigh=_weigh_columns):
        customers = await _customers([(row["customers"], row["unknown"]) for row in rows], subjects)
        times = np.frombuffer(b"".join(row["times"] for row in rows), dtype="<i8")
        known = np.flatnonzero(customers)
        yield customers[known], times[known]
    async for rows in pages(raw, _INBOX_UNMEASURED, batches, weigh=weigh_payload):
        for row in rows:
            events = decode_payload(row["payload"])
            numbers = await subjects.find(each.subject for each in events)
            customers = np.array([numbers[each.subject] for each in events], dtype=np.int64)
            times = np.array([micros_of(each.time) for each in events], dtype=np.int64)
            known = np.flatnonzero(customers)
            yield customers[known], times[known]
