"""What the ingest benchmarks share: bodies, a cheap client, servers in processes of their own."""

import asyncio
import multiprocessing
import os
import random
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import granian
import msgspec
import uvloop
from granian.constants import HTTPModes, Interfaces, Loops

from api.app import create_app
from api.collector import keep_what_was_started
from engine import migrate
from engine.db import open_database
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Aggregation, CustomerDraft, MeterDraft, Mode
from plans.publish import publish_meter
from plans.register_customer import register_customer

ROOT = Path(__file__).resolve().parents[1]
CUSTOMERS = 200
TUNED = {"shared_buffers": "512MB", "max_wal_size": "4GB"}
_A_MILLISECOND = 100
"""Events that share the time in their ids: what 100,000 events a second look like."""


def make_ids(*, count: int, kind: str) -> list[str]:
    """UUIDs in the order a sender makes them: `time` for version 7, `random` for version 4."""
    digits = secrets.token_hex(10 * count)
    began = time.time_ns() // 1_000_000
    made: list[str] = []
    for number in range(count):
        tail = digits[20 * number : 20 * number + 20]
        head = f"{began + number // _A_MILLISECOND:012x}"
        version = "7"
        if kind == "random":
            head, version = secrets.token_hex(6), "4"
        made.append(f"{head[:8]}-{head[8:]}-{version}{tail[:3]}-a{tail[3:6]}-{tail[6:18]}")
    return made


def bodies(*, count: int, size: int, ids: str, at: str | None = None) -> list[bytes]:
    """`count` request bodies of `size` events, made before the clock starts; one is an object."""
    now = at or datetime.now(UTC).isoformat()
    tails = [
        b'","source":"api","type":"completion","subject":"customer-%d","time":"%b",'
        b'"data":{"tokens":%d,"model":"large","zone":"eu"}}'
        % (random.randrange(1, CUSTOMERS), now.encode(), random.randrange(1, 5_000))
        for _ in range(1_000)
    ]
    events = [
        b'{"id":"%b%b' % (each.encode(), tails[number % 1_000])
        for number, each in enumerate(make_ids(count=count * size, kind=ids))
    ]
    if size == 1:
        return events
    return [b"[" + b",".join(events[at : at + size]) + b"]" for at in range(0, len(events), size)]


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """An answer that is no 200."""

    def __init__(self, status: int, head: bytes, content: bytes) -> None:
        super().__init__(f"{status}: {content[:200]!r}")
        self.status = status
        self.tells_when = b"retry-after:" in head.lower()
        self.ends = b"connection: close" in head.lower()
        self.known = content[:1] == b"{" and b'"code"' in content


class Connection(asyncio.Protocol):
    """Just enough HTTP/1.1 to keep a server busy without being busy oneself."""

    def __init__(self, *, port: int, key: str) -> None:
        self._port = port
        self._head = (
            f"POST /v1/events HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._seen = b""
        self._known: dict[bytes, int] = {}
        """Answers word for word; the date among them changes once a second."""
        self._answer: asyncio.Future[int] | None = None

    async def open(self) -> None:
        """Connect."""
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_connection(
            lambda: self, "127.0.0.1", self._port
        )

    def post(self, body: bytes) -> asyncio.Future[int]:
        """Send one body; the events accepted. Raises Refused, ConnectionError."""
        self._answer = self._loop.create_future()
        self._transport.write(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        return self._answer

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        known = None if self._seen else self._known.get(data)
        if known is not None and self._answer is not None and not self._answer.done():
            self._answer.set_result(known)
            return
        seen = self._seen = self._seen + data if self._seen else data
        head, end, content = seen.partition(b"\r\n\r\n")
        if not end or self._answer is None or self._answer.done():
            return
        told = head[head.lower().index(b"content-length:") + 15 :].partition(b"\r")[0]
        if len(content) < int(told):
            return
        self._seen = b""
        if head.startswith(b"HTTP/1.1 200"):
            accepted = self._known[seen] = msgspec.json.decode(content)["accepted"]
            self._answer.set_result(accepted)
        else:
            self._answer.set_exception(Refused(int(head[9:12]), head, content))

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that never came is an error."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server hung up"))

    @property
    def is_closing(self) -> bool:
        """Whether the server has hung up."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def _drive(
    *, port: int, key: str, connections: int, size: int, ids: str, seconds: float
) -> tuple[int, float, list[float], float]:
    made = bodies(count=max(1, int(seconds * (300_000 // size if size > 1 else 30_000))), size=size,
                  ids=ids)  # fmt: skip
    pending = iter(made)
    latencies: list[float] = []
    accepted = 0

    async def one(connection: Connection) -> None:
        nonlocal accepted
        for body in pending:
            began = time.perf_counter()
            if began > deadline:
                return
            told = await connection.post(body)
            accepted += told  # not in one statement: others add while this one waits
            latencies.append(time.perf_counter() - began)

    opened = [Connection(port=port, key=key) for _ in range(connections)]
    for each in opened:
        await each.open()
    began, processor = time.perf_counter(), time.process_time()
    deadline = began + seconds
    await asyncio.gather(*(one(each) for each in opened))
    return accepted, time.perf_counter() - began, latencies, time.process_time() - processor


def _client(pipe: Any, arguments: dict[str, Any]) -> None:
    pipe.send(uvloop.run(_drive(**arguments)))


async def load(arguments: dict[str, Any]) -> tuple[float, float, float, float]:
    """(events/s, p50 ms, p99 ms, the client's share of a core) of a closed loop.

    The client is a process of its own; each connection sends when it was answered.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_client, args=(there, arguments))
    process.start()
    accepted, seconds, latencies, processor = await asyncio.to_thread(here.recv)
    process.join()
    p50, p99 = percentiles(latencies, 0.5, 0.99)
    return accepted / seconds, p50, p99, processor / seconds


def percentiles(seconds: list[float], *parts: float) -> list[float]:
    """Milliseconds below which the parts of all lie."""
    ordered = sorted(seconds)
    return [ordered[min(int(len(ordered) * part), len(ordered) - 1)] * 1000 for part in parts]


def _serve(dsn: str, port: int, application: str) -> None:
    os.environ["BENCH_DSN"] = dsn
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    granian.Granian(
        application,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        loop=Loops.uvloop,
        factory=True,
        log_enabled=False,
        backlog=1_024,
        backpressure=4_096,
    ).serve()


def application() -> Any:
    """The whole application, as it is served."""
    database = open_database(dsn=os.environ["BENCH_DSN"], role="usance_app")
    app = create_app(database=database, clock=lambda: datetime.now(UTC), owns_database=True)
    keep_what_was_started()
    return app


@asynccontextmanager
async def served(dsn: str, application: str, port: int) -> AsyncIterator[int]:
    """A server of `module:factory` in a process of its own, for the length of the block."""
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(dsn, port, application), name=f"server {port}"
    )
    process.start()
    try:
        for _ in range(600):
            if process.exitcode is not None:
                raise RuntimeError("the server did not start")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                await asyncio.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.join(20)


async def prepare_database(admin: str, name: str) -> tuple[str, str, int, Any]:
    """A migrated database with a seller, a meter and customers: (dsn, key, seller, meter)."""
    await migrate.ensure_roles(dsn=admin, passwords={})
    await migrate.ensure_database(dsn=admin, name=name)
    dsn = urlunsplit(urlsplit(admin)._replace(path=f"/{name}"))
    await migrate.upgrade(dsn=dsn)
    database = open_database(dsn=dsn, role="usance_app")
    now = datetime.now(UTC)
    draft = SellerDraft(legal_name="Bench", mode=Mode.LIVE)
    made = await create_seller(database=database, draft=draft, now=now)
    async with database.transaction(seller=made.seller) as connection:
        meter = await publish_meter(
            connection=connection,
            draft=MeterDraft(
                key="tokens", event_type="completion", aggregation=Aggregation.SUM, value="tokens"
            ),
            now=now,
            wall_now=now,
        )
        for number in range(CUSTOMERS):
            await register_customer(
                connection=connection,
                draft=CustomerDraft(key=f"customer-{number}", name="x"),
                now=now,
                wall_now=now,
            )
    await database.close()
    return dsn, made.secret, made.seller, meter
