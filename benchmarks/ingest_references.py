"""What a user would do instead of sending events to the endpoint: COPY, or one INSERT a request."""

import asyncio
import os
import random
import struct
import time
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import numpy as np
from ingest_client import CUSTOMERS, make_ids
from litestar import Litestar, post

from engine.columns import encode_copy

PLAIN_COLUMNS = ["seller", "source", "id", "type", "subject", "at", "data"]
PLAIN_TABLE = (
    "(seller integer, source text, id text, type text, subject text, at timestamptz, data bytea,"
    " PRIMARY KEY (seller, source, id))"
)
KEY_COLUMNS = ["stream", "key", "batch", "ordinal"]
_INSERT = "INSERT INTO inserted VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
_LOADED = 50_000


def _field(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def plain_rows(*, size: int, ids: str) -> bytes:
    """Rows of the plain table in COPY format, of the same events as the bodies."""
    at = struct.pack(">q", time.time_ns() // 1_000 - 946_684_800_000_000)
    head = struct.pack(">h", 7) + _field(struct.pack(">i", 1)) + _field(b"api")
    tails = [
        _field(b"completion")
        + _field(b"customer-%d" % random.randrange(CUSTOMERS))
        + _field(at)
        + _field(b'{"tokens":%d,"model":"large","zone":"eu"}' % random.randrange(1, 5_000))
        for _ in range(1_000)
    ]
    rows = [
        head + _field(each.encode()) + tails[number % 1_000]
        for number, each in enumerate(make_ids(count=size, kind=ids))
    ]
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + b"\xff\xff"


def key_rows(*, size: int, ids: str, batch: int, stream: int = 1) -> bytes:
    """Rows of `event_keys` in COPY format."""
    keys = bytes.fromhex("".join(make_ids(count=size, kind=ids)).replace("-", ""))
    words = np.frombuffer(keys, dtype=">u8").reshape(size, 2)
    full = np.full(size, batch, dtype=np.int64)
    streams = np.full(size, stream, dtype=np.int32)
    return encode_copy([streams, words, full, np.arange(size, dtype=np.int32)])


async def make_copied(dsn: str, *, stored: int, ids: str, seller: int) -> None:
    """The tables that COPY fills, and `stored` rows in each of them and in our own."""
    raw = await asyncpg.connect(dsn)
    await raw.execute(f"CREATE TABLE inserted {PLAIN_TABLE}")
    await raw.execute(f"CREATE TABLE copied_plain {PLAIN_TABLE}")
    await raw.execute("CREATE TABLE copied_keys (LIKE event_keys INCLUDING ALL)")
    await raw.execute("ALTER TABLE copied_keys ALTER seller SET DEFAULT 1")
    await raw.execute(f"SELECT set_config('app.seller', '{seller}', false)")
    stream = await raw.fetchval(
        "INSERT INTO event_streams (source, form) VALUES ('api', 'uuid') RETURNING stream"
    )
    began = time.perf_counter()
    for start in range(0, stored, _LOADED):
        size = min(_LOADED, stored - start)
        keys = key_rows(size=size, ids=ids, batch=-1 - start, stream=stream)
        for table, columns, rows in (
            ("copied_plain", PLAIN_COLUMNS, plain_rows(size=size, ids=ids)),
            ("copied_keys", KEY_COLUMNS, keys),
            ("event_keys", KEY_COLUMNS, keys),
        ):
            await raw.copy_to_table(
                table, source=memoryview(rows), columns=columns, format="binary"
            )
    if stored:
        for table in ("copied_plain", "copied_keys", "event_keys"):
            await raw.execute(f"VACUUM (ANALYZE) {table}")
        await raw.execute("CHECKPOINT")
        print(f"{stored:,} rows stored in each table ({time.perf_counter() - began:.0f} s)")
    await raw.close()


async def copy_reference(dsn: str, *, size: int, seconds: float, ids: str, plain: bool) -> float:
    """Rows/s of binary COPY, `size` rows a commit, into the plain table or our keys'."""
    raw = await asyncpg.connect(dsn)
    table, columns = ("copied_plain", PLAIN_COLUMNS) if plain else ("copied_keys", KEY_COLUMNS)
    prepared = [
        plain_rows(size=size, ids=ids) if plain else key_rows(size=size, ids=ids, batch=batch)
        for batch in range(int(seconds * 500_000 / size))
    ]
    began = time.perf_counter()
    rows = 0
    for each in prepared:
        await raw.copy_to_table(table, source=memoryview(each), columns=columns, format="binary")
        rows += size
        if time.perf_counter() - began > seconds:
            break
    rate = rows / (time.perf_counter() - began)
    await raw.close()
    return rate


class Sent(msgspec.Struct, gc=False):
    """An event, as both of the endpoints with an INSERT a request read it."""

    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]


async def _open_pool() -> asyncpg.Pool:
    return await asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=10, max_size=10)


def _row(event: Sent) -> tuple[Any, ...]:
    data = msgspec.json.encode(event.data)
    return 1, event.source, event.id, event.type, event.subject, event.time, data


def handler_application() -> Any:
    """The endpoint a user would write: a typed handler of the same framework, one INSERT a request.

    A pool of ten, a unique key, duplicates ignored. No API key, seller, meter, limit or conflict.
    """
    pools: list[asyncpg.Pool] = []

    @post("/v1/events", status_code=200)
    async def take(data: Sent) -> dict[str, int]:
        await pools[0].execute(_INSERT, *_row(data))
        return {"accepted": 1}

    async def start() -> None:
        pools.append(await _open_pool())

    return Litestar([take], on_startup=[start], openapi_config=None, logging_config=None)


def insert_application() -> Any:
    """The barest endpoint there is: the same without a framework, its body decoded at once.

    Nobody would keep it, but no endpoint with an INSERT a request under this server is faster.
    """
    decoder = msgspec.json.Decoder(Sent)
    pools: list[asyncpg.Pool] = []
    opening = asyncio.Lock()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if not pools:
            async with opening:
                if not pools:
                    pools.append(await _open_pool())
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        await pools[0].execute(_INSERT, *_row(decoder.decode(body)))
        told = b'{"accepted":1}'
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    return answer


async def insert_reference(dsn: str, *, seconds: float, connections: int) -> float:
    """Events/s of one INSERT with the payload a request, over a pool of ten, without HTTP."""
    pool = await asyncpg.create_pool(dsn, min_size=10, max_size=10)
    data = msgspec.json.encode({"tokens": 12, "model": "large", "zone": "eu"})
    now, rows = datetime.now(UTC), 0
    made = iter(make_ids(count=int(seconds * 30_000), kind="time"))
    deadline = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal rows
        for each in made:
            if time.perf_counter() > deadline:
                return
            await pool.execute(_INSERT, 1, "api", each, "completion", "customer-1", now, data)
            rows += 1

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    rate = rows / (time.perf_counter() - began)
    await pool.close()
    return rate
