"""What a user would do instead of sending events to the endpoint: COPY, or one INSERT a request."""

import asyncio
import os
import random
import secrets
import struct
import time
import uuid
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import numpy as np

from engine.columns import encode_copy

CUSTOMERS = 200
PLAIN_COLUMNS = ["seller", "source", "id", "type", "subject", "at", "data"]
PLAIN_TABLE = (
    "(seller integer, source text, id text, type text, subject text, at timestamptz, data bytea,"
    " PRIMARY KEY (seller, source, id))"
)


def new_uuid(kind: str) -> str:
    if kind == "random":
        return str(uuid.uuid4())
    head = time.time_ns() // 1_000_000
    raw = (head << 80 | 7 << 76 | 2 << 62) | (secrets.randbits(74) & ~(3 << 62) & ~(0xF << 76))
    return str(uuid.UUID(int=raw))


def field(value: bytes) -> bytes:
    return struct.pack(">i", len(value)) + value


def plain_rows(*, size: int, ids: str) -> bytes:
    """Rows of the plain table in COPY format, of the same events as the bodies."""
    at = struct.pack(">q", time.time_ns() // 1_000 - 946_684_800_000_000)
    head = struct.pack(">h", 7) + field(struct.pack(">i", 1)) + field(b"api")
    rows = [
        head
        + field(new_uuid(ids).encode())
        + field(b"completion")
        + field(b"customer-%d" % random.randrange(CUSTOMERS))
        + field(at)
        + field(b'{"tokens":%d,"model":"large","zone":"eu"}' % random.randrange(1, 5_000))
        for _ in range(size)
    ]
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(rows) + b"\xff\xff"


def key_rows(*, size: int, ids: str, batch: int) -> bytes:
    """Rows of `event_keys` in COPY format."""
    keys = b"".join(uuid.UUID(new_uuid(ids)).bytes for _ in range(size))
    words = np.frombuffer(keys, dtype=">u8").reshape(size, 2)
    full = np.full(size, batch, dtype=np.int64)
    stream = np.ones(size, dtype=np.int32)
    return encode_copy([stream, words, full, np.arange(size, dtype=np.int32)])


async def copy_reference(dsn: str, *, size: int, seconds: float, ids: str, plain: bool) -> float:
    """Rows/s of binary COPY, `size` rows a commit, into the plain table or our keys'."""
    raw = await asyncpg.connect(dsn)
    await raw.execute("DROP TABLE IF EXISTS copied")
    if plain:
        columns = PLAIN_COLUMNS
        await raw.execute(f"CREATE TABLE copied {PLAIN_TABLE}")
    else:
        columns = ["stream", "key", "batch", "ordinal"]
        await raw.execute("CREATE TABLE copied (LIKE event_keys INCLUDING ALL)")
        await raw.execute("ALTER TABLE copied ALTER seller SET DEFAULT 1")
    prepared = [
        plain_rows(size=size, ids=ids) if plain else key_rows(size=size, ids=ids, batch=batch)
        for batch in range(int(seconds * 400_000 / size))
    ]
    began = time.perf_counter()
    rows = 0
    for each in prepared:
        await raw.copy_to_table("copied", source=memoryview(each), columns=columns, format="binary")
        rows += size
        if time.perf_counter() - began > seconds:
            break
    rate = rows / (time.perf_counter() - began)
    await raw.close()
    return rate


class _Sent(msgspec.Struct, gc=False):
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    data: msgspec.Raw


def insert_application() -> Any:
    """The endpoint a user would write: decode, one INSERT a request over a pool of ten, answer.

    A raw ASGI application without a key, a seller, a meter or a check: less than ours must do.
    """
    decoder = msgspec.json.Decoder(list[_Sent])
    pools: list[asyncpg.Pool] = []
    opening = asyncio.Lock()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        async with opening:
            if not pools:
                pool = await asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=10, max_size=10)
                pools.append(pool)
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        rows = [
            (1, each.source, each.id, each.type, each.subject, each.time, bytes(each.data))
            for each in decoder.decode(body)
        ]
        statement = (
            "INSERT INTO inserted VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING"
        )
        if len(rows) == 1:
            await pools[0].execute(statement, *rows[0])
        else:
            await pools[0].executemany(statement, rows)
        told = msgspec.json.encode({"accepted": len(rows)})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(told))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})

    return answer


async def make_inserted(dsn: str) -> None:
    """The plain table that the INSERT references fill."""
    raw = await asyncpg.connect(dsn)
    await raw.execute(f"CREATE TABLE IF NOT EXISTS inserted {PLAIN_TABLE}")
    await raw.close()


async def insert_reference(dsn: str, *, seconds: float, connections: int) -> float:
    """Events/s of one INSERT with the payload a request, over a pool of ten."""
    pool = await asyncpg.create_pool(dsn, min_size=10, max_size=10)
    data = msgspec.json.encode({"tokens": 12, "model": "large", "zone": "eu"})
    now, rows = datetime.now(UTC), 0
    deadline = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal rows
        while time.perf_counter() < deadline:
            await pool.execute(
                "INSERT INTO inserted VALUES (1, 'api', $1, 'completion', 'customer-1', $2, $3)"
                " ON CONFLICT DO NOTHING",
                new_uuid("time"),
                now,
                data,
            )
            rows += 1

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    rate = rows / (time.perf_counter() - began)
    await pool.close()
    return rate
