"""A billed seller whose usage is whole: raw events, their identities, and chunks folded of them."""

import uuid
from typing import Any

import asyncpg
import numpy as np
from billing_world import (
    FIRST_RUN,
    SECOND_RUN,
    World,
    copy,
    event_columns,
    load_subscriptions,
    measure_row,
    measured_batch,
    publish_world,
    read_plans,
)
from numpy.typing import NDArray

from engine.columns import encode_copy
from engine.db import open_database
from invoicing.run_billing import run_billing
from metering.fold_usage import fold_usage
from metering.store import at_micros

BATCH, BATCHES_A_COPY = 5_000, 20
_BATCH = "seller batch received_at events first_at last_at meters payload ends"
_MEASURE = (
    "seller meter batch events first_at last_at digits wide customers times quantities unknown"
)
_KEYS = ["seller", "stream", "key", "batch", "ordinal"]
_Ints = NDArray[np.int64]


def keys_of(times: _Ints, seed: int) -> NDArray[np.uint64]:
    """Identities in the order of time, as UUIDv7 are: two words each."""
    high = (times.astype(np.uint64) // np.uint64(1000)) << np.uint64(16) | np.uint64(0x7000)
    low = np.random.default_rng(seed).integers(0, 2**62, len(times), dtype=np.uint64)
    return np.stack([high, low | np.uint64(1 << 63)], axis=1)


def payload_of(
    customers: _Ints, times: _Ints, keys: NDArray[np.uint64], seed: int
) -> tuple[bytes, bytes]:
    """The events that `measured_batch` measures for the same seed, and where each ends."""
    random = np.random.default_rng(seed)
    kinds = random.integers(0, 2, len(customers)).tolist()
    tokens = random.integers(1, 5_000, len(customers)).tolist()
    whole = np.datetime_as_string(times.astype("datetime64[us]"), unit="us").tolist()
    names = keys.astype(">u8").tobytes()
    texts = [
        f'{{"id":"{uuid.UUID(bytes=names[16 * place : 16 * place + 16])}","source":"",'
        f'"type":"{("call", "chat")[kind]}","subject":"c{customer:07d}","time":"{at}Z",'
        f'"data":{{"tokens":{token}}}}}'
        for place, (kind, customer, at, token) in enumerate(
            zip(kinds, customers.tolist(), whole, tokens, strict=True)
        )
    ]
    lengths = np.array([len(text) for text in texts])
    ends = np.cumsum(lengths + 1).astype("<i4")
    return f"[{','.join(texts)}]".encode(), ends.tobytes()


async def load_whole_events(
    raw: Any, world: World, *, subscriptions: int, events: int, anchors: int
) -> None:
    """Batches with their events, their identities, and what the meters measured of them."""
    customers, times = event_columns(subscriptions=subscriptions, events=events, anchors=anchors)
    numbers = [meter.number for meter in world.meters]
    stream = await raw.fetchval(
        "INSERT INTO event_streams (seller, source, form) VALUES ($1, '', 'uuid') RETURNING stream",
        world.seller,
    )
    batches: list[tuple[object, ...]] = []
    measures: list[tuple[object, ...]] = []
    keys: list[NDArray[np.uint64]] = []
    begin = 0
    for batch, start in enumerate(range(0, events, BATCH), start=1):
        part = slice(start, min(start + BATCH, events))
        who, when = customers[part], times[part]
        keys.append(keys_of(when, batch))
        first, last = at_micros(int(when[0])), at_micros(int(when[-1]))
        head = (world.seller, batch, last, len(who), first, last, numbers)
        batches.append((*head, *payload_of(who, when, keys[-1], batch)))
        measures.extend(
            measure_row(world.seller, batch, each)
            for each in measured_batch(world.meters, who, when, batch)
        )
        if len(batches) < BATCHES_A_COPY and part.stop < events:
            continue
        await copy(raw, "event_batches", _BATCH, iter(batches))
        await copy(raw, "event_measures", _MEASURE, iter(measures))
        await copy(raw, "event_inbox", "seller batch", (row[:2] for row in batches))
        place = np.arange(begin, part.stop)
        rows = encode_copy(
            [
                np.full(len(place), world.seller, dtype=np.int32),
                np.full(len(place), stream, dtype=np.int32),
                np.concatenate(keys),
                place // BATCH + 1,
                (place % BATCH).astype(np.int32),
            ]
        )
        await raw.copy_to_table(
            "event_keys", source=memoryview(rows), columns=_KEYS, format="binary"
        )
        batches, measures, keys, begin = [], [], [], part.stop
    await raw.execute("SELECT setval('event_batch_numbers', $1)", events // BATCH + 1)


async def build_billed_world(*, dsn: str, subscriptions: int, events: int, anchors: int) -> int:
    """Base fees billed, usage taken in and folded, and all of it billed; the seller's number."""
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
    raw = await asyncpg.connect(dsn)
    sizes = {"subscriptions": subscriptions, "anchors": anchors}
    try:
        world = await read_plans(raw, await publish_world(database))
        await load_subscriptions(raw, world, count=subscriptions, anchors=anchors)
        await raw.execute("ANALYZE")
        seller = world.seller
        await run_billing(
            database=database, seller=seller, as_of=FIRST_RUN, now=FIRST_RUN, pending=False
        )
        await load_whole_events(raw, world, events=events, **sizes)
        await fold_usage(database=database, seller=seller)
        await raw.execute("VACUUM ANALYZE")
        await run_billing(database=database, seller=seller, as_of=SECOND_RUN, now=SECOND_RUN)
        await raw.execute("VACUUM ANALYZE")
    finally:
        await raw.close()
        await database.close()
    return world.seller
