"""The event store, as it is written: one batch a commit, its keys, its measured columns.

These functions take the bare driver connection of a committer, which begins and ends its own
transactions: a round trip saved is what small groups are made of.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.columns import encode_copy
from engine.db import become_loader, begin
from metering.columns import MeterColumns
from metering.identity import StoredKey
from metering.model import StoredEvent
from metering.store import at_micros, decode_payload, find_subjects, load_meters
from plans.model import Meter

_KEY_COLUMNS: Final = ["stream", "key", "batch", "ordinal", "digest"]
_NUMBERS: Final = "SELECT nextval('event_batch_numbers') FROM generate_series(1, 32)"
_FIND_KEYS: Final = """
SELECT w.place, k.batch, k.ordinal, k.digest
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS w (stream, key, place)
JOIN event_keys k ON k.seller = current_seller() AND k.stream = w.stream AND k.key = w.key
"""
_PAYLOADS: Final = """
SELECT batch, payload FROM event_batches
WHERE seller = current_seller() AND batch = ANY($1::bigint[])
"""
_MAKE_STREAMS: Final = """
INSERT INTO event_streams (source, form) SELECT * FROM unnest($1::text[], $2::text[])
ON CONFLICT DO NOTHING
"""
_FIND_STREAMS: Final = """
SELECT s.source, s.form, s.stream FROM event_streams s
JOIN unnest($1::text[], $2::text[]) AS w (source, form) USING (source, form)
WHERE s.seller = current_seller()
"""
_OPEN_BACKFILL: Final = """
SELECT id FROM backfills
WHERE seller = current_seller() AND key = $1 AND status = 'open' FOR SHARE
"""
_JOIN_BACKFILL: Final = "INSERT INTO backfill_batches (batch, backfill) VALUES ($1, $2)"
_WRITE: Final = """
WITH batch AS (
  INSERT INTO event_batches (batch, received_at, events, first_at, last_at, meters, payload)
  VALUES ($1, $2, $3, $4, $5, $6, $7)
), measured AS (
  INSERT INTO event_measures (batch, meter, events, first_at, last_at, digits, wide, customers,
    times, quantities, unknown, groups, codes)
  SELECT $1, * FROM unnest($8::integer[], $9::integer[], $10::timestamptz[], $11::timestamptz[],
    $12::smallint[], $13::boolean[], $14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[],
    $18::bytea[], $19::bytea[])
)
INSERT INTO event_inbox (batch) VALUES ($1)
"""

LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
AGAIN: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


class KeysTakenError(Exception):
    """Another commit holds one of the keys; nothing of the group was written."""


class BatchRow(msgspec.Struct, frozen=True, kw_only=True):
    """One commit's events; `keys` are the rows of `event_keys` in COPY format, sorted by key."""

    batch: int
    received_at: datetime
    events: int
    first_micros: int
    last_micros: int
    meters: Sequence[int]
    payload: bytes
    keys: bytes


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a committer asked the database for: streams by (source, form), customers, meters."""

    streams: dict[tuple[str, str], int]
    customers: dict[str, int]
    meters: tuple[Meter, ...] | None


async def take_batch_numbers(raw: Any) -> list[int]:
    """Fresh batch numbers, greatest first; those never used leave a gap, which is no harm."""
    return [row[0] for row in reversed(await raw.fetch(_NUMBERS))]


async def find_facts(
    raw: Any,
    *,
    seller: int,
    streams: Sequence[tuple[str, str]],
    subjects: Sequence[str],
    meters: bool,
) -> Facts:
    """Look up (and make) streams, find customers by subject, load meters, in one transaction."""
    await begin(raw, seller=seller)
    found: dict[tuple[str, str], int] = {}
    if streams:
        columns = [source for source, _ in streams], [form for _, form in streams]
        for attempt in range(2):
            rows = await raw.fetch(_FIND_STREAMS, *columns)
            found = {(row["source"], row["form"]): row["stream"] for row in rows}
            if len(found) == len(streams) or attempt:
                break
            await raw.execute(_MAKE_STREAMS, *columns)
    facts = Facts(
        streams=found,
        customers=await find_subjects(raw, subjects=subjects),
        meters=await load_meters(raw) if meters else None,
    )
    await raw.execute("COMMIT")
    return facts


async def find_stored_keys(
    raw: Any, *, places: Sequence[int], streams: NDArray[np.int32], words: NDArray[np.uint64]
) -> dict[int, StoredKey]:
    """Which of the events at `places` of a group are stored already, by place."""
    chosen = np.asarray(places, dtype=np.intp)
    packed = words[chosen].astype(">u8").tobytes()
    keys = [UUID(bytes=packed[at : at + 16]) for at in range(0, len(packed), 16)]
    rows = await raw.fetch(_FIND_KEYS, streams[chosen].tolist(), keys)
    return {
        places[row["place"] - 1]: StoredKey(row["batch"], row["ordinal"], row["digest"])
        for row in rows
    }


async def load_events(
    raw: Any, *, addresses: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], StoredEvent]:
    """The stored events at (batch, ordinal)."""
    rows = await raw.fetch(_PAYLOADS, sorted({batch for batch, _ in addresses}))
    wanted: dict[int, list[int]] = {}
    for batch, ordinal in addresses:
        wanted.setdefault(batch, []).append(ordinal)
    found: dict[tuple[int, int], StoredEvent] = {}
    for row in rows:
        events = decode_payload(row["payload"])
        found |= {(row["batch"], each): events[each] for each in wanted[row["batch"]]}
    return found


def encode_keys(
    *,
    streams: NDArray[np.int32],
    words: NDArray[np.uint64],
    batch: int,
    ordinals: NDArray[np.int32],
    digests: NDArray[np.int64],
) -> bytes:
    """n rows of `event_keys`."""
    batches = np.full(len(streams), batch, dtype=np.int64)
    return encode_copy([streams, words, batches, ordinals, digests])


async def hold_backfill(raw: Any, *, key: str, batch: int, used: bool) -> bool:
    """Whether the backfill is open, and stays so until the commit; a batch that is `used` joins."""
    backfill = await raw.fetchval(_OPEN_BACKFILL, key)
    if backfill is not None and used:
        await raw.execute(_JOIN_BACKFILL, batch, backfill)
    return backfill is not None


async def write_batch(
    raw: Any, *, row: BatchRow, measures: Sequence[MeterColumns], loading: bool
) -> None:
    """Write one batch and commit the transaction that `begin` opened.

    Raises KeysTakenError when a key was taken in the meantime. `loading` says that the
    transaction acts as the loader already.
    """
    if not loading:
        await become_loader(raw)
    try:
        # Bare bytes would be taken for the path of a file.
        await raw.copy_to_table(
            "event_keys", source=memoryview(row.keys), columns=_KEY_COLUMNS, format="binary"
        )
    except asyncpg.UniqueViolationError:
        raise KeysTakenError from None
    await insert_batch(raw, row=row, measures=measures)
    await raw.execute("COMMIT")


async def insert_batch(raw: Any, *, row: BatchRow, measures: Sequence[MeterColumns]) -> None:
    """Write a batch with its measured columns, but for its keys, and put it into the inbox."""
    await raw.execute(
        _WRITE,
        row.batch,
        row.received_at,
        row.events,
        at_micros(row.first_micros),
        at_micros(row.last_micros),
        row.meters,
        row.payload,
        *_measure_arrays(measures),
    )


def _measure_arrays(measures: Sequence[MeterColumns]) -> list[list[Any]]:
    return [
        [each.meter for each in measures],
        [each.events for each in measures],
        [at_micros(each.first_micros) for each in measures],
        [at_micros(each.last_micros) for each in measures],
        [each.digits for each in measures],
        [each.wide for each in measures],
        [each.customers for each in measures],
        [each.times for each in measures],
        [each.quantities for each in measures],
        [each.unknown for each in measures],
        [each.groups for each in measures],
        [each.codes for each in measures],
    ]


async def roll_back(raw: Any) -> None:
    """End a transaction that failed; a connection that is gone has ended it already."""
    with suppress(*LOST):
        await raw.execute("ROLLBACK")
