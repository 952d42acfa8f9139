"""Events in: the endpoint against raw COPY and against one INSERT a request, in one run.

    python benchmarks/bench_ingest.py [--seconds 3] [--rounds 3] [--ids time|random] [--dsn …]

The server is a process of its own (granian, one worker), the clients another; PostgreSQL is a
throw-away cluster of the embedded kind unless `--dsn` names a superuser's address. Only ratios of
one run mean anything. The reference is binary COPY of 1,000 rows a transaction over one connection
into the table a user would make for the same facts: a row for each event, the unique key on
(seller, source, id), the data as they came. That is what the targets of batches are told in. Beside
it stands COPY of the rows of our own `event_keys` alone, which hold no payload.

Single posts are told in what a user would write instead: an endpoint under the same server, driven
by the same client, that decodes the body and makes one INSERT a request over a pool of ten, without
keys, sellers, meters or conflicts. The same INSERTs without any HTTP stand beside it.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import granian
import msgspec
import numpy as np
import uvloop
from granian.constants import Interfaces, Loops
from ingest_references import (
    CUSTOMERS,
    copy_reference,
    insert_application,
    insert_reference,
    make_inserted,
    new_uuid,
)

from api.app import create_app
from engine import migrate
from engine.db import open_database
from engine.postgres import start_or_join
from metering.intake import micros_of
from metering.measure import measure
from metering.model import Windows
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Aggregation, CustomerDraft, MeterDraft, Mode
from plans.publish import publish_meter
from plans.register_customer import register_customer

ROOT = Path(__file__).resolve().parents[1]
TUNED = {"shared_buffers": "512MB", "max_wal_size": "4GB"}


def bodies(*, count: int, size: int, ids: str) -> list[bytes]:
    """`count` request bodies of `size` events, made before the clock starts."""
    now = datetime.now(UTC).isoformat()
    return [
        msgspec.json.encode(
            [
                {
                    "id": new_uuid(ids),
                    "source": "api",
                    "type": "completion",
                    "subject": f"customer-{random.randrange(CUSTOMERS)}",
                    "time": now,
                    "data": {"tokens": random.randrange(1, 5_000), "model": "large", "zone": "eu"},
                }
                for _ in range(size)
            ]
        )
        for _ in range(count)
    ]


class Connection(asyncio.Protocol):
    """Just enough HTTP/1.1 to keep a server busy without being busy oneself."""

    def __init__(self, *, port: int, key: str) -> None:
        self._port, self._key = port, key

    async def open(self) -> None:
        """Connect."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", self._port)

    async def post(self, body: bytes) -> bytes:
        """Send one body and wait for its answer; anything but a 200 ends the run."""
        head = (
            f"POST /v1/events HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer {self._key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._seen = b""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(head.encode() + body)
        return await self._answer

    def data_received(self, data: bytes) -> None:
        """An answer, or a part of one."""
        self._seen += data
        head, end, content = self._seen.partition(b"\r\n\r\n")
        if not end:
            return
        if len(content) == int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
            if head.startswith(b"HTTP/1.1 200"):
                self._answer.set_result(content)
            else:
                error = RuntimeError(self._seen.decode(errors="replace"))
                self._answer.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that never came ends the run."""
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server hung up"))

    def close(self) -> None:
        """Hang up."""
        self._transport.close()


async def _drive(
    *, port: int, key: str, connections: int, size: int, ids: str, seconds: float
) -> tuple[int, float, list[float]]:
    made = bodies(
        count=max(1, int(seconds * 400_000 / size / (8 if size == 1 else 1))), size=size, ids=ids
    )
    pending = iter(made)
    latencies: list[float] = []
    accepted = 0
    deadline = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal accepted
        connection = Connection(port=port, key=key)
        await connection.open()
        for body in pending:
            began = time.perf_counter()
            if began > deadline:
                break
            answer = msgspec.json.decode(await connection.post(body))
            accepted += answer["accepted"]
            latencies.append(time.perf_counter() - began)
        connection.close()

    began = time.perf_counter()
    deadline = began + seconds
    await asyncio.gather(*(one() for _ in range(connections)))
    return accepted, time.perf_counter() - began, latencies


def client(pipe: Any, arguments: dict[str, Any]) -> None:
    """The load generator's process."""
    pipe.send(uvloop.run(_drive(**arguments)))


def serve(dsn: str, port: int, application: str) -> None:
    """A server's process."""
    os.environ["BENCH_DSN"] = dsn
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    granian.Granian(
        f"bench_ingest:{application}",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        factory=True,
        log_enabled=False,
    ).serve()


def application() -> Any:
    """The whole application, as it is served."""
    database = open_database(dsn=os.environ["BENCH_DSN"], role="usance_app")
    return create_app(database=database, clock=lambda: datetime.now(UTC), owns_database=True)


def reference() -> Any:
    """What a user would write instead."""
    return insert_application()


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


async def measure_all(dsn: str, seller: int, meter: Any) -> tuple[int, float]:
    """(events, seconds) of measuring everything that is stored."""
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
    now = micros_of(datetime.now(UTC))
    async with database.transaction(seller=seller) as connection:
        raw = (await connection.get_raw_connection()).driver_connection
        numbers = [row[0] for row in await raw.fetch("SELECT number FROM customers")]
        stored = await raw.fetchval("SELECT sum(events) FROM event_measures")
        count = len(numbers)
        windows = Windows(
            meter=np.full(count, meter.number, dtype=np.int32),
            customer=np.array(numbers, dtype=np.int64),
            start_micros=np.full(count, now - 10**12, dtype=np.int64),
            end_micros=np.full(count, now + 10**12, dtype=np.int64),
        )
        began = time.perf_counter()
        await measure(connection=connection, meters={meter.number: meter}, windows=windows)
        columns = time.perf_counter() - began
    await database.close()
    return int(stored), columns


@asynccontextmanager
async def served(dsn: str, application: str, port: int) -> AsyncIterator[int]:
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(dsn, port, application)
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


async def load(arguments: dict[str, Any]) -> tuple[float, float, float]:
    """(events/s, p50 ms, p99 ms) of one load from a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=client, args=(there, arguments))
    process.start()
    accepted, seconds, latencies = await asyncio.to_thread(here.recv)
    process.join()
    ordered = sorted(latencies)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    return accepted / seconds, p50, p99


async def run(options: argparse.Namespace, admin: str) -> None:
    name = f"bench_ingest_{os.getpid()}"
    dsn, key, seller, meter = await prepare_database(admin, name)
    shapes = {"1000": (1000, 16), "100": (100, 32), "single": (1, 64)}
    found: dict[str, list[float]] = {}
    latency: dict[str, tuple[float, float]] = {}
    await make_inserted(dsn)
    first = 20_000 + os.getpid() % 20_000
    async with (
        served(dsn, "application", first) as port,
        served(dsn, "reference", first + 1) as plain_port,
    ):
        for number in range(options.rounds):
            for table in ("copy", "keys"):
                rate = await copy_reference(
                    dsn,
                    size=1000,
                    seconds=options.seconds,
                    ids=options.ids,
                    plain=table == "copy",
                )
                found.setdefault(table, []).append(rate)
            for shape, (size, connections) in shapes.items():
                arguments = {"port": port, "key": key, "connections": connections, "size": size}
                arguments |= {"ids": options.ids, "seconds": options.seconds}
                rate, p50, p99 = await load(arguments)
                found.setdefault(shape, []).append(rate)
                latency[shape] = (p50, p99)
            arguments = {"port": plain_port, "key": key, "connections": 64, "size": 1}
            rate, _, _ = await load(arguments | {"ids": options.ids, "seconds": options.seconds})
            found.setdefault("endpoint", []).append(rate)
            rate = await insert_reference(dsn, seconds=options.seconds, connections=64)
            found.setdefault("insert", []).append(rate)
            print(
                f"round {number + 1}: " + ", ".join(f"{k} {v[-1]:,.0f}/s" for k, v in found.items())
            )
    median = {shape: statistics.median(rates) for shape, rates in found.items()}
    print(f"COPY of 1,000 plain rows                {median['copy']:>10,.0f} rows/s")
    print(f"COPY of 1,000 rows of keys alone        {median['keys']:>10,.0f} rows/s")
    print(f"endpoint with one INSERT a request      {median['endpoint']:>10,.0f} events/s")
    print(f"one INSERT after the other, no HTTP     {median['insert']:>10,.0f} events/s")
    for shape in shapes:
        reference = median["endpoint" if shape == "single" else "copy"]
        p50, p99 = latency[shape]
        print(
            f"endpoint, {shape:>6} a body               {median[shape]:>10,.0f} events/s"
            f"  ratio {median[shape] / reference:.2f}  p50 {p50:.1f} ms  p99 {p99:.1f} ms"
        )
    stored, columns = await measure_all(dsn, seller, meter)
    print(f"measure {stored:,} events                {stored / columns:>10,.0f} events/s")
    raw = await asyncpg.connect(admin)
    await raw.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await raw.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ids", choices=["time", "random"], default="time")
    parser.add_argument("--dsn", help="a superuser's address; else a throw-away cluster")
    options = parser.parse_args()
    if options.dsn:
        asyncio.run(run(options, options.dsn))
        return
    with tempfile.TemporaryDirectory(prefix="usance-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with start_or_join(home=home, bin_dir=None, throw_away=True, overrides=TUNED) as running:
            asyncio.run(run(options, running.admin_dsn))


if __name__ == "__main__":
    main()
