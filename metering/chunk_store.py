"""SQL of folding: batches' columns into chunks, chunks into larger runs, meters made later."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from metering.chunks import Chunk, ChunkRange, Entries
from metering.columns import MeterColumns, decode_quantities, has_values, kept_dimensions
from metering.dimensions import Combinations
from metering.intake import micros_of
from metering.store import SubjectNumbers, at_micros, decode_unknown
from plans.model import LateUsage, Meter

_ALONE: Final = """
SELECT pg_try_advisory_xact_lock(hashtextextended('fold ' || current_seller(), 0))
"""
_CLOSE_INBOX: Final = """
SELECT pg_advisory_xact_lock(hashtextextended('inbox ' || current_seller(), 0))
"""
_WAITING: Final = """
SELECT DISTINCT batch FROM (
  SELECT batch FROM event_measures WHERE seller = current_seller() LIMIT $1) m
"""
# A batch that lacks a meter is measured for it first; one of a backfill waits until that is closed.
_READY: Final = """
SELECT b.batch, b.received_at, b.events, coalesce(x.backfill, '') AS backfill
FROM event_batches b
  LEFT JOIN backfill_batches x ON x.seller = b.seller AND x.batch = b.batch
WHERE b.seller = current_seller() AND b.batch = ANY($1::bigint[]) AND b.meters @> $2::integer[]
  AND (x.batch IS NULL OR EXISTS (SELECT FROM backfills f
    WHERE f.seller = x.seller AND f.id = x.backfill AND f.status = 'closed'))
ORDER BY b.batch
"""
_TAKE_MEASURES: Final = """
DELETE FROM event_measures
WHERE seller = current_seller() AND meter = ANY($1::integer[]) AND batch = ANY($2::bigint[])
RETURNING meter, batch, events, digits, wide, customers, times, quantities, unknown, groups, codes
"""
_VOIDS: Final = """
SELECT batch, position FROM event_void_positions
WHERE seller = current_seller() AND meter = $1 ORDER BY batch, position
"""
_INSERT_CHUNK: Final = """
INSERT INTO event_chunks (meter, level, backfill, month, events, first_at, last_at, first_customer,
  last_customer, low_micros, high_micros, digits, wide, customers, times, batches, positions,
  quantities, unknown, groups, codes, received)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
  $21, $22)
"""
_TAKE_INBOX: Final = """
DELETE FROM event_inbox
WHERE seller = current_seller() AND batch = ANY($1::bigint[]) AND NOT again AND customers IS NULL
RETURNING batch
"""
_ARRIVED: Final = "INSERT INTO event_inbox (batch, customers, times) VALUES ($1, $2, $3)"
_CROWDED: Final = """
SELECT meter, backfill, month, level FROM event_chunks
WHERE seller = current_seller() GROUP BY meter, backfill, month, level HAVING count(*) >= $1
ORDER BY level, meter, month, backfill
"""
_RANGES: Final = """
SELECT chunk, events, first_customer, low_micros, last_customer, high_micros FROM event_chunks
WHERE seller = current_seller() AND meter = $1 AND backfill = $2 AND month = $3 AND level = $4
"""
_TAKE_CHUNKS: Final = """
DELETE FROM event_chunks WHERE seller = current_seller() AND chunk = ANY($1::bigint[])
RETURNING events, digits, wide, customers, times, batches, positions, quantities, unknown, groups,
  codes, received
"""
_LACKING: Final = """
WITH RECURSIVE kinds AS (
  (SELECT meters FROM event_batches WHERE seller = current_seller() ORDER BY meters LIMIT 1)
  UNION ALL
  SELECT (SELECT b.meters FROM event_batches b
    WHERE b.seller = current_seller() AND b.meters > k.meters ORDER BY b.meters LIMIT 1)
  FROM kinds k WHERE k.meters IS NOT NULL
)
SELECT b.batch FROM kinds k
  JOIN event_batches b ON b.seller = current_seller() AND b.meters = k.meters
WHERE NOT k.meters @> $1::integer[] AND k.meters <> ARRAY[0] LIMIT $2
"""
_HOLD: Final = """
SELECT batch, meters, payload FROM event_batches
WHERE seller = current_seller() AND batch = ANY($1::bigint[]) ORDER BY batch FOR UPDATE
"""
_MEASURED: Final = """
UPDATE event_batches SET meters = $2 WHERE seller = current_seller() AND batch = $1
"""
_VOIDED: Final = """
SELECT ordinal FROM event_voids WHERE seller = current_seller() AND batch = $1
"""
_INSERT_VOID: Final = """
INSERT INTO event_void_positions (meter, batch, ordinal, position) VALUES ($1, $2, $3, $4)
"""
_INSERT_MEASURE: Final = """
INSERT INTO event_measures (meter, batch, events, first_at, last_at, digits, wide, customers, times,
  quantities, unknown, groups, codes)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""


class Pile(msgspec.Struct, frozen=True, kw_only=True):
    """Chunks that may be merged: of one meter, backfill (or none), month and level."""

    meter: int
    backfill: str
    month: int
    level: int


async def hold_alone(raw: Any) -> bool:
    """Whether nobody else folds for the seller until the transaction ends."""
    return bool(await raw.fetchval(_ALONE))


async def waiting_batches(raw: Any, *, rows: int, meters: Sequence[int]) -> list[Any]:
    """Batches that can be folded (batch, received_at, events, backfill), out of so many rows."""
    found = [row["batch"] for row in await raw.fetch(_WAITING, rows)]
    return list(await raw.fetch(_READY, found, list(meters))) if found else []


async def take_measures(raw: Any, *, meters: Sequence[int], batches: Sequence[int]) -> list[Any]:
    """The columns of the batches, which leave their table with this transaction."""
    return list(await raw.fetch(_TAKE_MEASURES, list(meters), list(batches)))


async def find_voids(raw: Any, *, meter: int) -> tuple[list[int], list[int]]:
    """(batches, positions) of the entries of a meter that were taken back."""
    rows = await raw.fetch(_VOIDS, meter)
    return [row["batch"] for row in rows], [row["position"] for row in rows]


async def fold_inbox(raw: Any, *, batches: Sequence[int]) -> frozenset[int]:
    """Take the batches off the inbox but those that were corrected; which were there.

    Sweeps wait for this transaction from here on.
    """
    await raw.execute(_CLOSE_INBOX)
    return frozenset(row["batch"] for row in await raw.fetch(_TAKE_INBOX, list(batches)))


async def insert_arrived(raw: Any, *, batch: int, customers: bytes, times: bytes) -> None:
    """Put customers and the earliest time of each into the inbox, for batches that left it."""
    await raw.execute(_ARRIVED, batch, customers, times)


async def crowded_piles(raw: Any, *, chunks: int) -> list[Pile]:
    """The piles of at least so many chunks, the lowest level first."""
    return [msgspec.convert(dict(row), Pile) for row in await raw.fetch(_CROWDED, chunks)]


async def chunk_ranges(raw: Any, *, pile: Pile) -> list[ChunkRange]:
    """Where the chunks of a pile lie."""
    rows = await raw.fetch(_RANGES, pile.meter, pile.backfill, pile.month, pile.level)
    return [
        ChunkRange(
            chunk=row["chunk"],
            events=row["events"],
            first=(row["first_customer"], row["low_micros"]),
            last=(row["last_customer"], row["high_micros"]),
        )
        for row in rows
    ]


async def take_chunks(raw: Any, *, chunks: Sequence[int]) -> list[Any]:
    """The columns of chunks, which leave their table with this transaction."""
    return list(await raw.fetch(_TAKE_CHUNKS, list(chunks)))


async def insert_chunks(raw: Any, *, pile: Pile, chunks: Iterable[Chunk]) -> int:
    """Write chunks of a pile, each in the month of its own; give how many."""
    rows = [
        (
            pile.meter,
            pile.level,
            pile.backfill,
            each.month,
            each.events,
            at_micros(each.first_micros),
            at_micros(each.last_micros),
            each.first[0],
            each.last[0],
            each.first[1],
            each.last[1],
            each.digits,
            each.wide,
            each.customers,
            each.times,
            each.batches,
            each.positions,
            each.quantities,
            each.unknown,
            each.groups,
            each.codes,
            each.received,
        )
        for each in chunks
    ]
    await raw.executemany(_INSERT_CHUNK, rows)
    return len(rows)


async def lacking_batches(raw: Any, *, meters: Sequence[int], limit: int) -> list[int]:
    """Batches that were stored by who did not know all the meters."""
    return [row["batch"] for row in await raw.fetch(_LACKING, list(meters), limit)]


async def hold_batches(raw: Any, *, batches: Sequence[int]) -> list[Any]:
    """(batch, meters, payload), held against corrections until the transaction ends."""
    return list(await raw.fetch(_HOLD, list(batches)))


async def find_voided(raw: Any, *, batch: int) -> frozenset[int]:
    """The ordinals of a batch's events that were taken back."""
    return frozenset(row["ordinal"] for row in await raw.fetch(_VOIDED, batch))


async def insert_measures(
    raw: Any,
    *,
    batch: int,
    meters: Sequence[int],
    measures: Sequence[MeterColumns],
    voids: Sequence[tuple[int, int, int]],
) -> None:
    """Measure a batch for more meters: now it has `meters`.

    `voids` are (meter, ordinal, position) of events that were taken back before.
    """
    await raw.execute(_MEASURED, batch, sorted(meters))
    rows = [
        (
            each.meter,
            batch,
            each.events,
            at_micros(each.first_micros),
            at_micros(each.last_micros),
            each.digits,
            each.wide,
            each.customers,
            each.times,
            each.quantities,
            each.unknown,
            each.groups,
            each.codes,
        )
        for each in measures
    ]
    await raw.executemany(_INSERT_MEASURE, rows)
    taken = [(meter, batch, ordinal, position) for meter, ordinal, position in voids]
    await raw.executemany(_INSERT_VOID, taken)


class EntryReader:
    """Reads rows of one meter as entries that number the same texts and subjects."""

    def __init__(self, *, meter: Meter, subjects: SubjectNumbers) -> None:
        """Strangers that are customers by now are told by their numbers."""
        self._meter = meter
        self._known = subjects
        kept = kept_dimensions(meter)
        self._combinations = Combinations(kept=kept, wanted=kept) if kept else None
        self._subjects: dict[str, int] = {}

    async def read(self, row: Any, *, received_micros: int = 0) -> Entries:
        """The entries of one batch, or of a chunk, which tells their batches itself."""
        events: int = row["events"]
        customer = np.frombuffer(row["customers"], dtype="<i8").astype(np.int64)
        stranger = np.full(events, -1, dtype=np.int64)
        if row["unknown"]:
            unknown = decode_unknown(row["unknown"])
            numbers = await self._known.find(who for _, who in unknown)
            for place, who in unknown:
                customer[place] = numbers[who]
                if not numbers[who]:
                    stranger[place] = self._subjects.setdefault(who, len(self._subjects))
        code = None
        if self._combinations is not None:
            code = self._combinations.number(
                groups=row["groups"], codes=row["codes"], events=events
            )
        quantity = None
        if has_values(self._meter):
            quantity = decode_quantities(quantities=row["quantities"], wide=row["wide"])
        batch, position, received = _origin(row, events, received_micros)
        late = self._meter.late_usage is LateUsage.IGNORE
        return Entries(
            customer=customer,
            time_micros=np.frombuffer(row["times"], dtype="<i8").astype(np.int64),
            batch=batch,
            position=position,
            stranger=stranger,
            subjects=(),
            quantity=quantity,
            digits=row["digits"],
            code=code,
            texts=(),
            received_micros=received if late else None,
        )

    def named(self, entries: Entries) -> Entries:
        """The entries with the texts and subjects that all readings met."""
        texts = [] if self._combinations is None else self._combinations.texts()
        return msgspec.structs.replace(entries, texts=texts, subjects=list(self._subjects))


def _origin(row: Any, events: int, received_micros: int) -> tuple[Any, Any, Any]:
    """(batches, positions, received) of the entries of a row."""
    if "batches" not in row.keys():  # noqa: SIM118 a row is searched by its values
        batch = np.full(events, row["batch"], dtype=np.int64)
        return batch, np.arange(events), np.full(events, received_micros, dtype=np.int64)
    return (
        np.frombuffer(row["batches"], dtype="<i8").astype(np.int64),
        np.frombuffer(row["positions"], dtype="<i4").astype(np.int64),
        np.frombuffer(row["received"], dtype="<i8").astype(np.int64),
    )


def micros_received(row: Any) -> int:
    """When a batch came, in microseconds."""
    return micros_of(row["received_at"])
