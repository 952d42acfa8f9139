"""The event store, as it is measured: chunks, batches that wait to be folded, raw batches."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.aggregation import Block
from metering.chunks import taken_back
from metering.columns import MeterColumns, decode_quantities, has_values, kept_dimensions
from metering.dimensions import Combinations
from metering.event_stores import event_store_of, required
from metering.intake import micros_of
from metering.read_event_store import Commits, read_blocks
from metering.store import (
    SubjectNumbers,
    at_micros,
    columns_of_events,
    customers_of,
    decode_payload,
    pages,
    weigh_columns,
    weigh_payload,
)
from plans.model import LateUsage, Meter

_Ints = NDArray[np.int64]

# One statement, so that one look at the tables finds an event in exactly one of them. The voids of
# what is in chunks come with the first of these.
_TEMPLATE: Final = """
WITH RECURSIVE kinds AS (
  (SELECT meters FROM event_batches WHERE seller = current_seller() ORDER BY meters LIMIT 1)
  UNION ALL
  SELECT (SELECT b.meters FROM event_batches b
    WHERE b.seller = current_seller() AND b.meters > k.meters ORDER BY b.meters LIMIT 1)
  FROM kinds k WHERE k.meters IS NOT NULL
), counted AS (
  SELECT seller, id FROM backfills WHERE seller = current_seller() AND status = 'closed'
)
SELECT 'chunk' AS kind, CAST(0 AS bigint) AS batch, events, digits, wide, customers, times,
  quantities, unknown,
  CASE WHEN $4 THEN groups ELSE '' END AS groups, CASE WHEN $4 THEN codes ELSE '' END AS codes,
  CAST(NULL AS integer[]) AS voided, CAST(NULL AS timestamptz) AS received_at, batches,
  CASE WHEN EXISTS (SELECT FROM event_void_positions v
    WHERE v.seller = current_seller() AND v.meter = $1) THEN positions END AS positions,
  received,
  CASE WHEN row_number() OVER () = 1 THEN ARRAY(SELECT v.batch FROM event_void_positions v
    WHERE v.seller = current_seller() AND v.meter = $1 ORDER BY v.batch, v.position)
  END AS void_batches,
  CASE WHEN row_number() OVER () = 1 THEN ARRAY(SELECT v.position FROM event_void_positions v
    WHERE v.seller = current_seller() AND v.meter = $1 ORDER BY v.batch, v.position)
  END AS void_positions,
  CAST(NULL AS bytea) AS payload{of_chunk}
FROM event_chunks c
WHERE seller = current_seller() AND meter = $1 AND first_at < $2 AND last_at >= $3
  AND ((last_customer >= $6 AND first_customer <= $7) OR last_customer = 0)
  AND (backfill = '' OR backfill IN (SELECT id FROM counted))
UNION ALL
SELECT 'batch', batch, events, digits, wide, customers, times, quantities, unknown,
  CASE WHEN $4 THEN groups ELSE '' END, CASE WHEN $4 THEN codes ELSE '' END,
  ARRAY(SELECT v.position FROM event_void_positions v
    WHERE v.seller = m.seller AND v.meter = m.meter AND v.batch = m.batch),
  CASE WHEN $5 THEN (SELECT b.received_at FROM event_batches b
    WHERE b.seller = m.seller AND b.batch = m.batch) END,
  NULL, NULL, NULL, NULL, NULL, NULL{of_batch}
FROM event_measures m
WHERE seller = current_seller() AND meter = $1 AND first_at < $2 AND last_at >= $3
  AND NOT EXISTS (SELECT FROM backfill_batches x
    WHERE x.seller = m.seller AND x.batch = m.batch AND x.backfill NOT IN (SELECT id FROM counted))
UNION ALL
SELECT 'payload', batch, events, CAST(0 AS smallint), false, NULL, NULL, NULL, NULL, NULL, NULL,
  ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch),
  received_at, NULL, NULL, NULL, NULL, NULL, payload{of_payload}
FROM kinds k JOIN event_batches b ON b.seller = current_seller() AND b.meters = k.meters
WHERE NOT k.meters @> ARRAY[$1::integer] AND first_at < $2 AND last_at >= $3
  AND NOT EXISTS (SELECT FROM backfill_batches x
    WHERE x.seller = b.seller AND x.batch = b.batch AND x.backfill NOT IN (SELECT id FROM counted))
"""

_BLOCKS: Final = _TEMPLATE.format(of_chunk="", of_batch="", of_payload="")
_BOUNDED: Final = _TEMPLATE.format(
    of_chunk=", first_at, last_at, first_customer, last_customer, low_micros, high_micros",
    of_batch=", first_at, last_at, NULL, NULL, NULL, NULL",
    of_payload=", NULL, NULL, NULL, NULL, NULL, NULL",
)


class _Reading(msgspec.Struct, kw_only=True):
    """What is asked of a meter's entries, and which of those in chunks were taken back."""

    meter: Meter
    customers: tuple[int, int]
    subjects: SubjectNumbers
    combinations: Combinations | None
    members: Combinations | None
    void_batches: Sequence[int] = ()
    void_positions: Sequence[int] = ()

    def leave_out(self, rows: Sequence[Any]) -> None:
        """Note what was taken back, once the rows tell it."""
        for row in rows:
            if row["void_batches"]:
                self.void_batches = row["void_batches"]
                self.void_positions = row["void_positions"]

    async def of_columns(self, columns: Sequence[tuple[int, MeterColumns]]) -> Block:
        """(batch, columns) of the same digits and width, as one block."""
        first = columns[0][1]
        quantity = None
        if has_values(self.meter):
            joined = b"".join(each.quantities for _, each in columns)
            quantity = decode_quantities(quantities=joined, wide=first.wide)
        return Block(
            customer=await customers_of(
                [(each.customers, each.unknown) for _, each in columns], subjects=self.subjects
            ),
            time_micros=np.frombuffer(b"".join(each.times for _, each in columns), dtype="<i8"),
            batch=np.repeat([batch for batch, _ in columns], [each.events for _, each in columns]),
            quantity=quantity,
            digits=first.digits,
            combination=_numbered(columns, self.combinations),
            member=_numbered(columns, self.members),
        )

    async def of_batches(self, rows: Sequence[Any]) -> Block:
        """Batches that wait to be folded."""
        columns = [(row["batch"], _columns(row, self.meter.number)) for row in rows]
        block = _received(await self.of_columns(columns), rows, self.meter)
        voided: list[int] = []
        start = 0
        for row in rows:
            voided.extend(start + position for position in row["voided"])
            start += row["events"]
        return _left(block, voided)

    async def of_chunks(self, rows: Sequence[Any]) -> Block:
        """What chunks hold of the customers asked for."""
        columns: list[tuple[int, MeterColumns]] = []
        batches: list[bytes] = []
        positions: list[bytes] = []
        received: list[bytes] = []
        for row in rows:
            begin, stop = self._place(row)
            columns.append((0, _columns(row, self.meter.number, begin=begin, stop=stop)))
            batches.append(row["batches"][8 * begin : 8 * stop])
            positions.append((row["positions"] or b"")[4 * begin : 4 * stop])
            received.append(row["received"][8 * begin : 8 * stop])
        block = await self.of_columns(columns)
        batch = np.frombuffer(b"".join(batches), dtype="<i8")
        block = msgspec.structs.replace(block, batch=batch)
        if self.meter.late_usage is LateUsage.IGNORE:
            told = np.frombuffer(b"".join(received), dtype="<i8")
            block = msgspec.structs.replace(block, received_micros=told)
        if not self.void_batches:
            return block
        voided = taken_back(
            batch=batch,
            position=np.frombuffer(b"".join(positions), dtype="<i4").astype(np.int64),
            void_batches=self.void_batches,
            void_positions=self.void_positions,
        )
        return _left(block, voided.tolist())

    def _place(self, row: Any) -> tuple[int, int]:
        """Where the entries of the customers asked for lie in a chunk; strangers may be any."""
        if row["unknown"]:
            return 0, row["events"]
        lowest, highest = self.customers
        column = np.frombuffer(row["customers"], dtype="<i8")
        begin = int(np.searchsorted(column, lowest, side="left"))
        return begin, int(np.searchsorted(column, highest, side="right"))

    def elsewhere(
        self, connection: AsyncConnection, commits: Commits, span: tuple[int, int]
    ) -> AsyncGenerator[Block, None]:
        """Commits whose events lie in another store."""
        return read_blocks(
            store=required(event_store_of(connection)),
            connection=connection,
            meter=self.meter,
            span=span,
            customers=self.customers,
            commits=commits,
            subjects=self.subjects,
            combinations=self.combinations,
            members=self.members,
        )

    async def of_payload(self, row: Any) -> Block | None:
        """A batch that was stored while the meter was not known to who stored it."""
        voided = frozenset[int](row["voided"])
        events = [
            each
            for ordinal, each in enumerate(decode_payload(row["payload"]))
            if ordinal not in voided
        ]
        columns = columns_of_events(events, self.meter)
        if columns is None:
            return None
        one = {"events": columns.events, "received_at": row["received_at"]}
        return _received(await self.of_columns([(row["batch"], columns)]), [one], self.meter)


def _columns(row: Any, meter: int, *, begin: int = 0, stop: int | None = None) -> MeterColumns:
    """The columns of a row, or a stretch of them."""
    end = row["events"] if stop is None else stop
    width = 16 if row["wide"] else 8
    return MeterColumns(
        meter=meter,
        events=end - begin,
        first_micros=0,
        last_micros=0,
        digits=row["digits"],
        wide=row["wide"],
        customers=row["customers"][8 * begin : 8 * end],
        times=row["times"][8 * begin : 8 * end],
        quantities=row["quantities"][width * begin : width * end],
        unknown=row["unknown"],
        groups=row["groups"],
        codes=row["codes"][4 * begin : 4 * end],
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


def _weigh(row: Any) -> int:
    return weigh_payload(row) if row["kind"] == "payload" else weigh_columns(row)


async def stream_blocks(
    *,
    connection: AsyncConnection,
    meter: Meter,
    start_micros: int,
    end_micros: int,
    customers: tuple[int, int],
    subjects: SubjectNumbers,
    combinations: Combinations | None = None,
    everywhere: bool = True,
    look: Callable[[str, Sequence[Any]], None] | None = None,
) -> AsyncGenerator[Block, None]:
    """The events of a meter in [start, end) and others, a few megabytes at a time.

    None is missing of the customers between the two numbers, both included. A batch stored while
    the meter was not known to who stored it is measured from its payload. With `combinations` the
    blocks tell each event's, numbered there. What was taken back is left out; a meter that ignores
    late usage is told when each event was received. Unless `everywhere`, events that lie outside
    PostgreSQL are left out. `look` is shown the rows of a kind (`chunk`, `batch`, `payload`), which
    then say where they lie.
    """
    raw = await driver(connection)
    texts = kept_dimensions(meter)
    members = None
    if meter.unique_by is not None:
        members = Combinations(kept=texts, wanted=(meter.unique_by,))
    kept = bool(texts) and (combinations is not None or members is not None)
    reading = _Reading(
        meter=meter,
        customers=customers,
        subjects=subjects,
        combinations=combinations,
        members=members,
    )
    commits = Commits()
    bounds = (meter.number, at_micros(end_micros), at_micros(start_micros))
    asked = (*bounds, kept, meter.late_usage is LateUsage.IGNORE, *customers)
    statement = _BLOCKS if look is None else _BOUNDED
    async for rows in pages(raw, statement, *asked, weigh=_weigh):
        reading.leave_out(rows)
        for kind, group in _alike(rows):
            if look is not None:
                look(kind, group)
            if kind == "payload":
                for row in group:
                    if row["payload"] is None:
                        commits.add(row)
                        continue
                    block = await reading.of_payload(row)
                    if block is not None:
                        yield block
            elif kind == "chunk":
                yield await reading.of_chunks(group)
            else:
                yield await reading.of_batches(group)
    if commits.received and everywhere:
        found = reading.elsewhere(connection, commits, (start_micros, end_micros))
        async with aclosing(found) as blocks:
            async for block in blocks:
                yield block


def _alike(rows: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """(kind, rows) of the same kind, digits and width, in the order in which they came."""
    groups: dict[tuple[str, int, bool], list[Any]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["digits"], row["wide"]), []).append(row)
    return [(kind, group) for (kind, _, _), group in groups.items()]
