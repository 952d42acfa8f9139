"""The event store, as it is written: one batch a commit, its keys, its measured columns.

These functions take the bare driver connection of a committer, which begins and ends its own
transactions: a round trip saved is what small groups are made of.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.columns import encode_copy
from engine.db import become_loader, begin
from metering.columns import MeterColumns
from metering.identity import StoredKey
from metering.model import StoredEvent
from metering.payload import Payload, slice_of
from metering.store import at_micros, decode_payload, find_subjects, load_meters
from plans.model import Meter

_KEY_COLUMNS: Final = ["stream", "key", "batch", "ordinal"]
_FEW_KEYS: Final = 256
_MANY_OF_ONE: Final = 64
_WHOLE_AT_ONCE: Final = 8
_NUMBERS: Final = "SELECT nextval('event_batch_numbers') FROM generate_series(1, 32)"
_FIND_KEYS: Final = """
SELECT w.place, k.batch, k.ordinal
FROM unnest($1::text::integer[], $2::text::uuid[]) WITH ORDINALITY AS w (stream, key, place)
JOIN event_keys k ON k.seller = current_seller() AND k.stream = w.stream AND k.key = w.key
"""
_PAYLOADS: Final = """
SELECT batch, payload FROM event_batches
WHERE seller = current_seller() AND batch = ANY($1::bigint[])
"""
_ENDS: Final = """
SELECT w.batch, w.ordinal, substring(b.ends FROM greatest(4 * w.ordinal - 3, 1)
  FOR CASE w.ordinal WHEN 0 THEN 4 ELSE 8 END) AS ends
FROM unnest($1::bigint[], $2::integer[]) AS w (batch, ordinal)
JOIN event_batches b ON b.seller = current_seller() AND b.batch = w.batch
"""
_SLICES: Final = """
SELECT w.batch, w.ordinal, substring(b.payload FROM w.start + 1 FOR w.length) AS event
FROM unnest($1::bigint[], $2::integer[], $3::integer[], $4::integer[])
  AS w (batch, ordinal, start, length)
JOIN event_batches b ON b.seller = current_seller() AND b.batch = w.batch
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
_ELSEWHERE: Final = """
SELECT EXISTS (SELECT FROM event_batches WHERE seller = current_seller() AND meters = ARRAY[0])
"""
_WRITE: Final = """
SELECT write_events($1, $2::text::integer[], $3::text::uuid[], $4::text::integer[], $5, $6, $7,
  $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24)
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
    """One commit's events."""

    batch: int
    received_at: datetime
    events: int
    first_micros: int
    last_micros: int
    meters: Sequence[int]
    payload: Payload


class KeyRows(msgspec.Struct, frozen=True, kw_only=True):
    """The n rows of `event_keys` of one commit, sorted by key."""

    streams: NDArray[np.int32]
    words: NDArray[np.uint64]
    ordinals: NDArray[np.int32]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a committer asked the database for: streams by (source, form), customers, meters.

    `elsewhere` says that events of the seller lie in another store.
    """

    streams: dict[tuple[str, str], int]
    customers: dict[str, int]
    meters: tuple[Meter, ...] | None
    elsewhere: bool


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
        elsewhere=meters and await raw.fetchval(_ELSEWHERE),
    )
    await raw.execute("COMMIT")
    return facts


# An array that the driver takes apart item by item costs ten times what its text does.
def _integer_text(numbers: NDArray[np.int32]) -> str:
    return "{" + ",".join(map(str, numbers.tolist())) + "}"


def _uuid_text(words: NDArray[np.uint64]) -> str:
    digits = words.astype(">u8").tobytes().hex()
    return "{" + ",".join([digits[at : at + 32] for at in range(0, len(digits), 32)]) + "}"


async def find_stored_keys(
    raw: Any, *, places: Sequence[int], streams: NDArray[np.int32], words: NDArray[np.uint64]
) -> dict[int, StoredKey]:
    """Which of the events at `places` of a group are stored already, by place."""
    chosen = np.asarray(places, dtype=np.intp)
    rows = await raw.fetch(_FIND_KEYS, _integer_text(streams[chosen]), _uuid_text(words[chosen]))
    return {places[row["place"] - 1]: StoredKey(row["batch"], row["ordinal"]) for row in rows}


async def load_events(
    raw: Any, *, addresses: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], StoredEvent]:
    """The stored events at (batch, ordinal).

    A few events of a batch are read as slices of it, so that repeats of events from anywhere cost
    no more than themselves.
    """
    wanted: dict[int, list[int]] = {}
    for batch, ordinal in addresses:
        wanted.setdefault(batch, []).append(ordinal)
    whole = [batch for batch, ordinals in wanted.items() if len(ordinals) > _MANY_OF_ONE]
    found: dict[tuple[int, int], StoredEvent] = {}
    for start in range(0, len(whole), _WHOLE_AT_ONCE):
        for row in await raw.fetch(_PAYLOADS, whole[start : start + _WHOLE_AT_ONCE]):
            events = decode_payload(row["payload"])
            found |= {(row["batch"], each): events[each] for each in wanted[row["batch"]]}
    sliced = [each for each in addresses if each not in found]
    if sliced:
        ends = await raw.fetch(_ENDS, [each for each, _ in sliced], [each for _, each in sliced])
        batches, ordinals = [row["batch"] for row in ends], [row["ordinal"] for row in ends]
        slices = [slice_of(row["ends"], ordinal=row["ordinal"]) for row in ends]
        starts, lengths = [each for each, _ in slices], [each for _, each in slices]
        for row in await raw.fetch(_SLICES, batches, ordinals, starts, lengths):
            found[row["batch"], row["ordinal"]] = decode_payload(b"[" + row["event"] + b"]")[0]
    return found


async def hold_backfill(raw: Any, *, key: str, batch: int, used: bool) -> bool:
    """Whether the backfill is open, and stays so until the commit; a batch that is `used` joins."""
    backfill = await raw.fetchval(_OPEN_BACKFILL, key)
    if backfill is not None and used:
        await raw.execute(_JOIN_BACKFILL, batch, backfill)
    return backfill is not None


async def write_batch(
    raw: Any,
    *,
    seller: int,
    row: BatchRow,
    keys: KeyRows,
    measures: Sequence[MeterColumns],
    begun: bool,
) -> None:
    """Write one batch and commit it, with all that the transaction did if one has `begun`.

    Raises KeysTakenError when a key was taken in the meantime. A small batch is one round trip.
    """
    few = len(keys.ordinals) <= _FEW_KEYS
    try:
        if few:
            named = None if begun else seller
            await insert_batch(raw, row=row, measures=measures, keys=keys, seller=named)
        else:
            await _copy_keys(raw, seller=seller, batch=row.batch, keys=keys, begun=begun)
    except asyncpg.UniqueViolationError:
        raise KeysTakenError from None
    if not few:
        await insert_batch(raw, row=row, measures=measures)
    if begun or not few:
        await raw.execute("COMMIT")


async def _copy_keys(raw: Any, *, seller: int, batch: int, keys: KeyRows, begun: bool) -> None:
    if begun:
        await become_loader(raw)
    else:
        await begin(raw, seller=seller, load=True)
    batches = np.full(len(keys.ordinals), batch, dtype=np.int64)
    encoded = encode_copy([keys.streams, keys.words, batches, keys.ordinals])
    # Bare bytes would be taken for the path of a file.
    await raw.copy_to_table(
        "event_keys", source=memoryview(encoded), columns=_KEY_COLUMNS, format="binary"
    )


async def insert_batch(
    raw: Any,
    *,
    row: BatchRow,
    measures: Sequence[MeterColumns],
    keys: KeyRows | None = None,
    seller: int | None = None,
) -> None:
    """Write a batch with its measured columns and put it into the inbox.

    `keys` are written with it. With `seller` this is a transaction of its own.
    """
    await raw.fetchval(
        _WRITE,
        seller,
        "{}" if keys is None else _integer_text(keys.streams),
        "{}" if keys is None else _uuid_text(keys.words),
        "{}" if keys is None else _integer_text(keys.ordinals),
        row.batch,
        row.received_at,
        row.events,
        at_micros(row.first_micros),
        at_micros(row.last_micros),
        row.meters,
        row.payload.text,
        row.payload.ends,
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
