"""How long a customer's month takes to read, and all of it for a billing run, over N events.

Before folding, after it, and against PostgreSQL over one plain row an event: the customer's rows
by GROUP BY without and with an index for just that, and GROUP BY over everything.
"""

import argparse
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import asyncpg
import numpy as np
import uvloop
from bench_billing_run import scratch
from billing_world import (
    OPENED,
    event_columns,
    load_events,
    load_subscriptions,
    publish_world,
    read_plans,
)

from engine.db import Database, open_database
from metering.fold_usage import fold_usage
from metering.intake import micros_of
from metering.measure import measure
from metering.model import UsageWindow, Windows
from metering.usage import read_usage

END = OPENED + timedelta(days=31)
RAW = "CREATE UNLOGGED TABLE raw_events (customer integer, meter integer, at bigint, value bigint)"
ONE = (
    "SELECT sum(value) FROM raw_events WHERE customer = $1 AND meter = $2 AND at >= $3 AND at < $4"
)
ALL = "SELECT customer, meter, sum(value) FROM raw_events WHERE at >= $1 AND at < $2 GROUP BY 1, 2"


async def timed(work: Callable[..., Awaitable[object]], *arguments: object) -> float:
    begin = time.perf_counter()
    await work(*arguments)
    return time.perf_counter() - begin


def told(label: str, seconds: list[float]) -> None:
    middle, high = np.percentile(seconds, [50, 99]) * 1000
    print(f"{label:<44} p50 {middle:>8.1f} ms   p99 {high:>8.1f} ms   of {len(seconds)}")


class Bench:
    """One database with one seller and its usage."""

    def __init__(self, *, database: Database, raw: Any, world: Any, arguments: Any) -> None:
        self.database, self.raw, self.world = database, raw, world
        self.customers, self.events = arguments.customers, arguments.events
        self.random = np.random.default_rng(3)

    def some(self, count: int) -> list[int]:
        """Customers at random."""
        return self.random.integers(1, self.customers + 1, count).tolist()

    async def read(self, customer: int) -> None:
        """A month of one customer by days, as GET /v1/usage reads it."""
        async with self.database.transaction(seller=self.world.seller) as connection:
            await read_usage(
                connection=connection,
                customer=f"c{customer:07d}",
                meter="tokens",
                start=OPENED,
                end=END,
                window=UsageWindow.DAY,
            )

    async def fold(self) -> None:
        """Everything that can be folded."""
        await fold_usage(database=self.database, seller=self.world.seller)

    async def measure_all(self) -> None:
        """Every customer's month of both meters, as a billing run asks for it."""
        count = self.customers
        numbers = [meter.number for meter in self.world.meters]
        windows = Windows(
            meter=np.repeat(np.array(numbers, dtype=np.int32), count),
            customer=np.tile(np.arange(1, count + 1), 2),
            start_micros=np.full(2 * count, micros_of(OPENED)),
            end_micros=np.full(2 * count, micros_of(END)),
        )
        meters = {meter.number: meter for meter in self.world.meters}
        async with self.database.transaction(seller=self.world.seller, snapshot=True) as connection:
            await measure(connection=connection, meters=meters, windows=windows)

    async def load_raw(self) -> None:
        """As many plain rows, one an event."""
        customers, times = event_columns(
            subscriptions=self.customers, events=self.events, anchors=1
        )
        meters = self.random.integers(1, 3, self.events)
        values = self.random.integers(1, 5_000, self.events)
        await self.raw.execute(RAW)
        columns = (customers, meters, times, values)
        for begin in range(0, self.events, 500_000):
            part = slice(begin, begin + 500_000)
            rows = zip(*(each[part].tolist() for each in columns), strict=True)
            await self.raw.copy_records_to_table("raw_events", records=rows)
        await self.raw.execute("VACUUM ANALYZE raw_events")

    async def read_raw(self, customer: int) -> None:
        """One customer's month out of the plain rows."""
        await self.raw.fetchval(ONE, customer, 1, micros_of(OPENED), micros_of(END))

    async def group_raw(self) -> None:
        """Everybody's month out of the plain rows."""
        await self.raw.fetch(ALL, micros_of(OPENED), micros_of(END))


async def compare(bench: Bench, reads: int) -> None:
    few = max(5, reads // 20)
    before = [await timed(bench.read, each) for each in bench.some(few)]
    told("read a customer's month, not folded", before)
    whole_before = await timed(bench.measure_all)
    folding = await timed(bench.fold)
    size = await bench.raw.fetchval("SELECT count(*) FROM event_chunks")
    print(f"folding: {folding:.1f} s, {bench.events / folding / 1e6:.2f} M events/s, {size} chunks")
    await bench.raw.execute("VACUUM ANALYZE")
    await bench.read(1)
    after = [await timed(bench.read, each) for each in bench.some(reads)]
    told("read a customer's month, folded", after)
    whole_after = await timed(bench.measure_all)
    await bench.load_raw()
    plain = [await timed(bench.read_raw, each) for each in bench.some(few)]
    told("one customer's rows, no index", plain)
    group = await timed(bench.group_raw)
    await bench.raw.execute("CREATE INDEX ON raw_events (customer, meter, at) INCLUDE (value)")
    await bench.raw.execute("VACUUM ANALYZE raw_events")
    indexed = [await timed(bench.read_raw, each) for each in bench.some(reads)]
    told("one customer's rows, covering index", indexed)
    print(f"measuring everything: {whole_before:.2f} s not folded, {whole_after:.2f} s folded")
    print(f"GROUP BY over everything: {group:.2f} s")
    middle = float(np.median(after))
    print(f"read not folded / folded     {float(np.median(before)) / middle:>8.1f}")
    print(f"GROUP BY of one / folded     {float(np.median(plain)) / middle:>8.1f}")
    print(f"GROUP BY of all / measuring  {group / whole_after:>8.1f}")
    print(f"p99 of a read {np.percentile(after, 99) * 1000:.1f} ms   (target at most 50 ms)")


async def run_benchmark(arguments: argparse.Namespace) -> None:
    async with scratch(arguments.dsn) as dsn:
        database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
        raw = await asyncpg.connect(dsn)
        try:
            world = await read_plans(raw, await publish_world(database))
            await load_subscriptions(raw, world, count=arguments.customers, anchors=1)
            await load_events(
                raw,
                world,
                subscriptions=arguments.customers,
                events=arguments.events,
                anchors=1,
                batch_events=arguments.batch,
            )
            await raw.execute("VACUUM ANALYZE")
            bench = Bench(database=database, raw=raw, world=world, arguments=arguments)
            await compare(bench, arguments.reads)
        finally:
            await raw.close()
            await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1_000, help="events in a commit")
    parser.add_argument("--reads", type=int, default=400)
    parser.add_argument("--dsn", help="a superuser's address; default: a server of its own")
    uvloop.run(run_benchmark(parser.parse_args()))


if __name__ == "__main__":
    main()
