"""Events from JetStream to committed, against HTTP intake and against pulling alone, in one run.

    python benchmarks/bench_nats.py [--events 200000] [--nodes 1] [--rounds 3]

Each round publishes the same number of events and takes them three ways: pulled and acknowledged
without storing anything, pulled and committed as `usance consume` does it (one process), and sent
to the endpoint as `bench_ingest` does it. Nodes, PostgreSQL and all senders share this machine's
cores, and each node syncs before it acknowledges (`sync_interval: always`); streams have as many
replicas as there are nodes. Only ratios of one run mean anything.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from ingest_client import TUNED, bodies, load, prepare_database, served
from nats.aio.client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from api.consume import MESSAGES, Taker, consume
from api.jetstream import JetStream, connected
from engine.db import open_database
from engine.postgres import start_or_join
from plans.seller_directory_store import list_sellers
from tests.nats_nodes import Nodes, client, nodes

SHAPES = {"1000": 1_000, "100": 100, "single": 1}
FEWER = {1: 10}
PUBLISHED = 250
NUMBERS = count(1)


async def publish(sender: Client, subject: str, made: list[bytes]) -> float:
    """Seconds until JetStream has acknowledged all of them."""
    context = sender.jetstream(timeout=60)
    began = time.perf_counter()
    for start in range(0, len(made), PUBLISHED):
        part = made[start : start + PUBLISHED]
        await asyncio.gather(*(context.publish(subject, body) for body in part))
    return time.perf_counter() - began


async def pull_alone(jetstream: JetStream, messages: int) -> float:
    """Seconds to pull and acknowledge, storing nothing."""
    began, pulled = time.perf_counter(), 0
    while pulled < messages:
        deliveries = await jetstream.pull(most=256)
        await asyncio.gather(*(each.accept() for each in deliveries))
        pulled += len(deliveries)
    await jetstream.flush()
    return time.perf_counter() - began


async def take(jetstream: JetStream, dsn: str, messages: int, events: int) -> float:
    """Seconds until everything is committed and acknowledged, as `usance consume` does it."""
    database = open_database(dsn=dsn, role="usance_app")
    taker = Taker(jetstream=jetstream, database=database, clock=lambda: datetime.now(UTC))
    await taker.start()
    stop = asyncio.Event()
    began = time.perf_counter()
    running = asyncio.create_task(
        consume(jetstream=jetstream, taker=taker, stop=stop, drain_seconds=60)
    )
    while taker.taken.messages < messages:  # noqa: ASYNC110 - the taker counts, it tells nobody
        await asyncio.sleep(0.002)
    seconds = time.perf_counter() - began
    stop.set()
    await running
    await taker.stop()
    await database.close()
    if taker.taken.accepted != events:
        message = f"{taker.taken.accepted} of {events} events were stored"
        raise RuntimeError(message)
    return seconds


async def measure(
    cluster: Nodes, dsn: str, seller: str, size: int, total: int
) -> tuple[float, float, float]:
    """Events/s published, pulled alone, and pulled and committed."""
    messages = max(MESSAGES // 10, total // size)
    name = f"bench{next(NUMBERS)}"
    async with (
        client(cluster.urls) as sender,
        connected(
            urls=cluster.urls, credentials=None, stream=name.upper(), prefix=name
        ) as jetstream,
    ):
        await jetstream.create(replicas=len(cluster.names), max_bytes=1_000_000_000)
        subject = f"{name}.{seller}.events"
        made = bodies(count=messages, size=size, ids="time")
        published = await publish(sender, subject, made)
        alone = await pull_alone(jetstream, messages)
        await publish(sender, subject, made)
        committed = await take(jetstream, dsn, messages, messages * size)
        await sender.jetstream().delete_stream(name.upper())
    events = messages * size
    return events / published, events / alone, events / committed


async def run(options: argparse.Namespace, admin: str, cluster: Nodes) -> None:
    name = f"bench_nats_{os.getpid()}"
    dsn, key, _, _ = await prepare_database(admin, name)
    database = open_database(dsn=dsn, role="usance_app")
    async with database.transaction(seller=None) as connection:
        [entry] = await list_sellers(connection=connection)
    await database.close()
    found: dict[tuple[str, str], list[float]] = {}
    async with served(dsn, "ingest_client:application", 20_000 + os.getpid() % 20_000) as port:
        for number in range(options.rounds):
            for shape, size in SHAPES.items():
                total = options.events // FEWER.get(size, 1)
                rates = await measure(cluster, dsn, entry.id, size, total)
                arguments: dict[str, Any] = {"port": port, "key": key, "size": size}
                arguments |= {"connections": {1: 64, 100: 32}.get(size, 16), "ids": "time"}
                http, _, _, _ = await load(arguments | {"seconds": options.seconds})
                ways = zip(
                    ("published", "pulled", "committed", "http"), (*rates, http), strict=True
                )
                for way, rate in ways:
                    found.setdefault((shape, way), []).append(rate)
            print(f"round {number + 1} of {options.rounds}", flush=True)
    print(f"{len(cluster.names)} nodes, events/s; no target is set, the ratios are what counts")
    for shape in SHAPES:
        median = {
            way: statistics.median(rates) for (one, way), rates in found.items() if one == shape
        }
        print(
            f"{shape:>6} a message: published {median['published']:>9,.0f}"
            f"  pulled alone {median['pulled']:>9,.0f}  committed {median['committed']:>9,.0f}"
            f"  HTTP {median['http']:>9,.0f}"
            f"  committed/HTTP {median['committed'] / median['http']:.2f}"
            f"  committed/pulled {median['committed'] / median['pulled']:.2f}"
        )
    raw = await asyncpg.connect(admin)
    await raw.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await raw.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--nodes", type=int, choices=[1, 3], default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load over HTTP")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="usance-bench-") as folder,
        nodes(count=options.nodes) as cluster,
    ):
        home = Path(folder)
        home.chmod(0o711)
        with start_or_join(home=home, bin_dir=None, throw_away=True, overrides=TUNED) as running:
            uvloop.run(run(options, running.admin_dsn, cluster))


if __name__ == "__main__":
    main()
