"""What an event costs besides time: processor time of the process, write-ahead log, bytes stored.

    python benchmarks/bench_footprint.py [--events 400000]

Bodies of 1,000 events with time-ordered ids, read and committed in groups as the endpoint does it,
one meter, a throw-away PostgreSQL. These figures hardly depend on how busy the machine is, which is
why `docs/scale.md` reckons with them. No target is set.
"""

import argparse
import asyncio
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import uvloop
from ingest_client import TUNED, bodies, prepare_database

from engine.db import open_database
from engine.postgres import start_or_join
from metering.fold_usage import fold_usage
from metering.ingest import Ingester
from metering.intake import read_events

AT_ONCE = 10
TABLES = ("event_keys", "event_batches", "event_measures")


async def run(admin: str, events: int) -> None:
    dsn, _, seller, _ = await prepare_database(admin, "bench_footprint")
    raw = await asyncpg.connect(dsn)
    database = open_database(dsn=dsn, role="usance_app")
    ingester = Ingester(database=database, commit_seconds=60)
    await ingester.start()
    made = bodies(count=max(AT_ONCE, events // 1_000), size=1_000, ids="time")
    count = len(made) * 1_000
    began_at = await raw.fetchval("SELECT pg_current_wal_lsn()")
    began = time.process_time()
    for start in range(0, len(made), AT_ONCE):
        now = datetime.now(UTC)
        group = [
            ingester.submit(seller=seller, intake=read_events(body), now=now)
            for body in made[start : start + AT_ONCE]
        ]
        await asyncio.gather(*group)
    micros = (time.process_time() - began) / count * 1e6
    log = await raw.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", began_at)
    await ingester.stop()
    print(f"of {count:,} events, each (no target is set):")
    print(f"body as sent                     {sum(map(len, made)) / count:7.1f} bytes")
    print(f"processor time of the process    {micros:7.1f} microseconds")
    print(f"write-ahead log                  {float(log) / count:7.1f} bytes")
    for table in TABLES:
        size = await raw.fetchval("SELECT pg_total_relation_size($1::regclass)", table)
        print(f"{table:<33}{size / count:7.1f} bytes")
    await fold_usage(database=database, seller=seller, steps=1_000)
    size = await raw.fetchval("SELECT pg_total_relation_size('event_chunks')")
    print(f"event_chunks, folded             {size / count:7.1f} bytes")
    await database.close()
    await raw.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=400_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="usance-bench-") as folder:
        home = Path(folder)
        home.chmod(0o711)
        with start_or_join(home=home, bin_dir=None, throw_away=True, overrides=TUNED) as running:
            uvloop.run(run(running.admin_dsn, options.events))


if __name__ == "__main__":
    main()
