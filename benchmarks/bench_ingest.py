"""Events in: the endpoint against raw COPY and against one INSERT a request, in one run.

    python benchmarks/bench_ingest.py [--seconds 3] [--rounds 3] [--ids time|random]
        [--stored 5000000] [--dsn …]

The server is a process of its own (granian, one worker), the clients another; PostgreSQL is a
throw-away cluster of the embedded kind unless `--dsn` names a superuser's address. Only ratios of
one run mean anything. The reference is binary COPY of 1,000 rows a transaction over one connection
into the table a user would make for the same facts: a row for each event, the unique key on
(seller, source, id), the data as they came. That is what the targets of batches are told in. Beside
it stands COPY of the rows of our own `event_keys` alone, which hold no payload. `--stored` puts so
many rows into each of the tables beforehand.

Single posts are told in what a user would write instead: a typed handler of the same framework
under the same server, driven by the same client, that makes one INSERT a request over a pool of
ten, without keys, sellers, meters or conflicts. The ratio to the same without any framework, which
nobody would keep, and to the INSERTs without any HTTP are printed beside it. `client` is the share
of a core that the load generator took: where it comes near 1 the figure is the generator's. Single
posts are measured in slices by turns, and in processor time of server and database besides. By the
clock they say something on a machine left alone only: where more wants to run than there are cores,
each process gets its share, and the handler's ten connections are ten processes against our two.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
from ingest_client import TUNED, load, prepare_database, served
from ingest_references import copy_reference, insert_reference, make_copied
from processor_time import children_named, is_known, seconds_of

from engine.db import open_database
from engine.postgres import start_or_join
from metering.intake import micros_of
from metering.measure import measure
from metering.model import Windows

BATCHES = {"1000": (1000, 16), "100": (100, 32)}
SLICES = 3
REFERENCES = {"handler": "handler_application", "bare": "insert_application"}


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


async def one_round(options: argparse.Namespace, dsn: str, key: str, ports: dict[str, int]) -> Any:
    """(rates, latencies of our endpoint, the client's share of a core) by what was measured."""
    rates: dict[str, float] = {}
    latencies: dict[str, tuple[float, float]] = {}
    shares: dict[str, float] = {}
    for name in ("copy", "keys"):
        rates[name] = await copy_reference(
            dsn, size=1000, seconds=options.seconds, ids=options.ids, plain=name == "copy"
        )
    common = {"key": key, "ids": options.ids, "seconds": options.seconds}
    for name, (size, connections) in BATCHES.items():
        told = {"port": ports["ours"], "connections": connections, "size": size}
        rates[name], p50, p99, shares[name] = await load(common | told)
        latencies[name] = p50, p99
    found, costs = await singles(common, dsn, ports)
    for name, (rates[name], p50, p99, shares[name]) in found.items():
        latencies[name] = p50, p99
    rates["insert"] = await insert_reference(dsn, seconds=options.seconds, connections=64)
    return rates, latencies, shares, costs


async def singles(
    common: dict[str, Any], dsn: str, ports: dict[str, int]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Single posts to each server by turns: what `load` tells of each, and its µs an event.

    By turns, because the machine changes from one second to the next more than they differ.
    """
    raw = await asyncpg.connect(dsn)
    named = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    told: dict[str, list[Any]] = {name: [] for name in ("single", *REFERENCES)}
    spent = dict.fromkeys(told, 0.0)
    for _ in range(SLICES):
        for name, found in told.items():
            port = ports["ours" if name == "single" else name]
            pids = children_named(f"server {port}") if is_known() else []
            pids += [row[0] for row in await raw.fetch(named)] if is_known() else []
            before = seconds_of(pids)
            part = {"port": port, "connections": 64, "size": 1}
            part["seconds"] = max(common["seconds"] / SLICES, 0.2)
            found.append((*await load(common | part), part["seconds"]))
            spent[name] += seconds_of(pids) - before
    await raw.close()
    each = {
        name: [
            (statistics.mean if at in {0, 3} else statistics.median)(part)
            for at, part in enumerate(list(zip(*found, strict=True))[:4])
        ]
        for name, found in told.items()
    }
    costs = {
        name: 1e6 * spent[name] / sum(rate * seconds for rate, _, _, _, seconds in found)
        for name, found in told.items()
    }
    return each, costs


async def run(options: argparse.Namespace, admin: str) -> None:
    """All rounds, and what came of them."""
    name = f"bench_ingest_{os.getpid()}"
    dsn, key, seller, meter = await prepare_database(admin, name)
    await make_copied(dsn, stored=options.stored, ids=options.ids, seller=seller)
    rounds: list[Any] = []
    first = 20_000 + os.getpid() % 20_000
    async with AsyncExitStack() as servers:
        factories = {"ours": "ingest_client:application"}
        factories |= {each: f"ingest_references:{REFERENCES[each]}" for each in REFERENCES}
        ports = {
            each: await servers.enter_async_context(served(dsn, factory, first + number))
            for number, (each, factory) in enumerate(factories.items())
        }
        for number in range(options.rounds):
            rounds.append(await one_round(options, dsn, key, ports))
            told = ", ".join(f"{each} {rate:,.0f}/s" for each, rate in rounds[-1][0].items())
            print(f"round {number + 1}: {told}", flush=True)
    report(rounds)
    stored, columns = await measure_all(dsn, seller, meter)
    print(f"measure {stored:,} events                {stored / columns:>10,.0f} events/s")
    raw = await asyncpg.connect(admin)
    await raw.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await raw.close()


def report(rounds: list[Any]) -> None:
    """Medians of the rounds; ratios are medians of the ratios of each round."""
    rate = {each: statistics.median(one[0][each] for one in rounds) for each in rounds[0][0]}

    def ratio(one: str, other: str) -> float:
        return statistics.median(each[0][one] / each[0][other] for each in rounds)

    def share(each: str) -> float:
        return statistics.median(one[2][each] for one in rounds)

    print(f"COPY of 1,000 plain rows                {rate['copy']:>10,.0f} rows/s")
    print(f"COPY of 1,000 rows of keys alone        {rate['keys']:>10,.0f} rows/s")
    for each, told in (("handler", "a handler, one INSERT a request"), ("bare", "no framework")):
        print(f"{told:<40}{rate[each]:>10,.0f} events/s  client {share(each):.2f}")
    print(f"one INSERT after the other, no HTTP     {rate['insert']:>10,.0f} events/s")
    for shape in (*BATCHES, "single"):
        p50, p99 = (statistics.median(one[1][shape][at] for one in rounds) for at in (0, 1))
        against = "handler" if shape == "single" else "copy"
        print(
            f"endpoint, {shape:>6} a body               {rate[shape]:>10,.0f} events/s"
            f"  ratio {ratio(shape, against):.2f}  p50 {p50:.1f} ms  p99 {p99:.1f} ms"
            f"  client {share(shape):.2f}"
        )
    if is_known():
        cost = {each: statistics.median(one[3][each] for one in rounds) for each in rounds[0][3]}
        told = ", ".join(f"{each} {micros:.0f} µs" for each, micros in cost.items())
        print(f"processor time of server and database an event: {told}")
        print(f"  handler ÷ single {cost['handler'] / cost['single']:.2f}")
    print(
        f"endpoint, single ÷ no framework {ratio('single', 'bare'):.2f},"
        f" ÷ no HTTP {ratio('single', 'insert'):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ids", choices=["time", "random"], default="time")
    parser.add_argument("--stored", type=int, default=0, help="rows stored before")
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
