"""Events in ClickHouse against events in PostgreSQL: taking them in, and measuring them.

Both by the product's own path: groups of one seller over two committers, then every customer's
month at once, and one customer's month at a time. ClickHouse is the engine in this process (chDB)
behind the client of the product; PostgreSQL is measured before and after its usage is folded.

    python benchmarks/bench_clickhouse.py --events 200000
"""

import argparse
import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import clickhouse_connect
import msgspec
import numpy as np
from bench_billing_run import scratch
from billing_world import OPENED, load_subscriptions, publish_world, read_plans

from engine.db import open_database
from metering.clickhouse_store import ClickHouseEvents
from metering.event_stores import EventStore
from metering.fold_usage import fold_usage
from metering.ingest import Ingester
from metering.intake import micros_of, read_events
from metering.measure import measure
from metering.model import UsageWindow, Windows
from metering.usage import read_usage

BODY = 1_000
END = OPENED + timedelta(days=31)


def bodies(*, events: int, customers: int) -> Iterator[bytes]:
    """Requests of a thousand events with ids that grow, spread over a month."""
    chance = np.random.default_rng(1)
    for first in range(0, events, BODY):
        who = chance.integers(1, customers + 1, BODY).tolist()
        seconds = np.sort(chance.integers(0, 31 * 86_400, BODY)).tolist()
        yield msgspec.json.encode(
            [
                {
                    "id": str(uuid.UUID(int=(first + at) << 80 | 7 << 76 | 2 << 62)),
                    "type": "chat",
                    "subject": f"c{who[at]:07d}",
                    "time": OPENED + timedelta(seconds=seconds[at]),
                    "data": {"tokens": at, "model": "large", "region": "eu"},
                }
                for at in range(BODY)
            ]
        )


async def timed(work: Callable[..., Awaitable[object]], *arguments: object) -> float:
    begun = time.perf_counter()
    await work(*arguments)
    return time.perf_counter() - begun


class Bench:
    """One store, filled and read."""

    def __init__(self, *, name: str, dsn: str, store: EventStore | None, arguments: Any) -> None:
        self.name, self.dsn, self.arguments = name, dsn, arguments
        self.database = open_database(
            dsn=dsn, role="usance_app", statement_timeout_seconds=600, event_store=store
        )
        self.figures: dict[str, float] = {}

    async def run(self, raw: Any) -> dict[str, float]:
        """Fill it and read it; the figures by name."""
        count = self.arguments.customers
        world = await read_plans(raw, await publish_world(self.database))
        await load_subscriptions(raw, world, count=count, anchors=1)
        self.seller, self.meter = world.seller, world.meters[1]
        intakes = [
            read_events(body) for body in bodies(events=self.arguments.events, customers=count)
        ]
        ingester = Ingester(database=self.database, commit_seconds=600, queued_events=10**9)
        await ingester.start()
        begun = time.perf_counter()
        now = OPENED + timedelta(days=31)
        await asyncio.gather(
            *(ingester.submit(seller=self.seller, intake=each, now=now) for each in intakes)
        )
        self.figures["in"] = self.arguments.events / (time.perf_counter() - begun)
        await ingester.stop()
        await self.read("")
        if self.database.event_store is None:
            await fold_usage(database=self.database, seller=self.seller)
            await raw.execute("VACUUM ANALYZE")
            await self.read(" folded")
        await self.database.close()
        return self.figures

    async def read(self, how: str) -> None:
        """Everybody's month, and the months of some."""
        await self.measure_all()
        whole = min([await timed(self.measure_all) for _ in range(3)])
        self.figures["whole" + how] = self.arguments.events / whole
        ones = [await timed(self.measure_one, each) for each in range(1, 22)]
        self.figures["one" + how] = float(np.median(ones[1:]))

    async def measure_all(self) -> None:
        """Every customer's month, as a billing run asks for it."""
        count = self.arguments.customers
        windows = Windows(
            meter=np.full(count, self.meter.number, dtype=np.int32),
            customer=np.arange(1, count + 1, dtype=np.int64),
            start_micros=np.full(count, micros_of(OPENED), dtype=np.int64),
            end_micros=np.full(count, micros_of(END), dtype=np.int64),
        )
        async with self.database.transaction(seller=self.seller, snapshot=True) as connection:
            found = await measure(
                connection=connection, meters={self.meter.number: self.meter}, windows=windows
            )
        expected = self.arguments.events // BODY * (BODY * (BODY - 1) // 2)
        assert sum(found.mantissa.tolist()) == expected * 10**found.digits

    async def measure_one(self, customer: int) -> None:
        """A month of one customer by days, as GET /v1/usage reads it."""
        async with self.database.transaction(seller=self.seller, snapshot=True) as connection:
            await read_usage(
                connection=connection,
                customer=f"c{customer:07d}",
                meter="tokens",
                start=OPENED,
                end=END,
                window=UsageWindow.DAY,
            )


async def bench(*, name: str, store: EventStore | None, arguments: Any) -> dict[str, float]:
    async with scratch(arguments.dsn) as dsn:
        raw = await asyncpg.connect(dsn)
        try:
            figures = await Bench(name=name, dsn=dsn, store=store, arguments=arguments).run(raw)
        finally:
            await raw.close()
    for key, value in figures.items():
        shown = f"{value * 1000:.1f} ms" if key.startswith("one") else f"{value:,.0f} events/s"
        print(f"{name:12}{key:16}{shown:>22}")
    return figures


async def compare(arguments: argparse.Namespace) -> None:
    client = clickhouse_connect.get_client(interface="chdb", path=":memory:")
    client.command("CREATE DATABASE bench")
    store = ClickHouseEvents(client=client, database="bench")
    store.prepare()
    there = await bench(name="ClickHouse", store=store, arguments=arguments)
    here = await bench(name="PostgreSQL", store=None, arguments=arguments)
    size = client.command(
        "SELECT sum(data_compressed_bytes) FROM system.columns WHERE table = 'usage_events'"
    )
    print(f"a stored event takes {int(size) / arguments.events:.0f} bytes in ClickHouse")
    print(f"taken in, ClickHouse / PostgreSQL            {there['in'] / here['in']:>8.2f}")
    print(f"all measured, ClickHouse / PostgreSQL        {there['whole'] / here['whole']:>8.2f}")
    folded = there["whole"] / here["whole folded"]
    print(f"all measured, ClickHouse / PostgreSQL folded {folded:>8.2f}")
    print(f"a month read, PostgreSQL / ClickHouse        {here['one'] / there['one']:>8.2f}")
    one = here["one folded"] / there["one"]
    print(f"a month read, PostgreSQL folded / ClickHouse {one:>8.2f}   (no target is set)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--customers", type=int, default=2_000)
    parser.add_argument("--dsn", help="a superuser's address; default: a server of its own")
    asyncio.run(compare(parser.parse_args()))


if __name__ == "__main__":
    main()
