"""The audit of a billed seller, against reading the same tables once from end to end.

A seller with N subscriptions of three prices and M usage events, each with its raw form, identity
and folded columns, is billed twice; then everything is audited: all invariants, every charge
derived again, every raw event measured again. The raw limit is one COPY of the same tables out of
the database, one after the other, thrown away as it comes. The processor time of this process and
of the server's is told beside the clock, for what others on the machine take moves that less.

    python benchmarks/bench_audit.py --subscriptions 100000 --events 10000000
"""

import argparse
import asyncio
import functools
import multiprocessing
import time
from typing import Any

import asyncpg
import uvloop
from audit_world import build_billed_world
from bench_billing_run import peak_mebibytes, processor_seconds, scratch, server_of

from engine.db import AUDITOR_ROLE, open_database
from invoicing.audit_all import Audited, audit_all

ENOUGH = 1_000_000
TABLES = (
    "customers",
    "subscriptions",
    "price_intervals",
    "invoices",
    "line_items",
    "journal_entries",
    "postings",
    "outbox",
    "event_keys",
    "event_batches",
    "event_measures",
    "event_chunks",
)


def _build(arguments: dict[str, Any], answers: Any) -> None:
    answers.put(asyncio.run(build_billed_world(**arguments)))


def build_apart(**arguments: Any) -> int:
    """Load and bill in another process, so that the peak memory measured is the audit's own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_build, args=(arguments, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("loading failed")
    return int(answers.get())


async def read_all(dsn: str) -> int:
    """Bytes of every table, read once."""
    raw = await asyncpg.connect(dsn)
    taken = 0

    async def throw_away(part: bytes) -> None:
        nonlocal taken
        taken += len(part)

    try:
        for table in TABLES:
            await raw.copy_from_table(table, output=throw_away, format="binary")
    finally:
        await raw.close()
    return taken


async def audited(dsn: str, seller: int) -> tuple[Audited, float]:
    """The audit and how long it took, its connections included."""
    begin = time.perf_counter()
    reader = open_database(dsn=dsn, role=AUDITOR_ROLE, pool_size=2)
    try:
        done = await audit_all(reader=reader, sellers={seller: "bench"})
    finally:
        await reader.close()
    return done, time.perf_counter() - begin


async def find_server(dsn: str) -> int | None:
    """The server's first process, if it runs here."""
    raw = await asyncpg.connect(dsn)
    try:
        return await server_of(raw)
    finally:
        await raw.close()


async def count(dsn: str, table: str) -> int:
    raw = await asyncpg.connect(dsn)
    try:
        return int(await raw.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await raw.close()


async def measure_all(*, dsn: str, arguments: argparse.Namespace) -> None:
    sizes = {name: getattr(arguments, name) for name in ("subscriptions", "events", "anchors")}
    seller = await asyncio.to_thread(functools.partial(build_apart, dsn=dsn, **sizes))
    begin = time.perf_counter()
    taken = await read_all(dsn)
    once = time.perf_counter() - begin
    server = await find_server(dsn)
    before, busy = peak_mebibytes(), processor_seconds(server)
    done, seconds = await audited(dsn, seller)
    await asyncio.sleep(1)  # the server counts what its children used once they have ended
    worked = [now - then for now, then in zip(processor_seconds(server), busy, strict=True)]
    assert not done.violations, done.broken
    assert done.events == sizes["events"], done
    invoices, lines = await count(dsn, "invoices"), await count(dsn, "line_items")
    print(
        f"{sizes['subscriptions']:,} subscriptions, {invoices:,} invoices with {lines:,} lines,"
        f" {sizes['events']:,} events: {done.checks} invariants, {done.violations} violations"
    )
    print(f"  audit                        {seconds:>8.2f} s")
    print(f"    processor, Python          {worked[0]:>8.2f} s")
    if server is not None:
        print(f"    processor, PostgreSQL      {worked[1]:>8.2f} s")
    print(f"  reading the tables once      {once:>8.2f} s {taken / once / 1e6:>12,.0f} MB/s")
    print(f"  events measured again        {done.events / seconds:>22,.0f} /s")
    print(f"  charges derived again        {done.charges / seconds:>22,.0f} /s")
    print(f"reading once / audit    {once / seconds:>8.2f}   (higher is better)")
    if sizes["events"] >= ENOUGH:
        scaled = seconds * 1e7 / sizes["events"]
        print(f"scaled to 10 M events   {scaled:>8.0f} s  (target at most 60)")
    after = peak_mebibytes()
    print(f"peak memory             {after:>6.0f} MiB, {before:.0f} before  (target at most 512)")


async def run_benchmark(arguments: argparse.Namespace) -> None:
    async with scratch(arguments.dsn) as dsn:
        await measure_all(dsn=dsn, arguments=arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=10_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--anchors", type=int, default=28, help="start days, 1 to 28")
    parser.add_argument("--dsn", help="a superuser's address; default: a server of its own")
    uvloop.run(run_benchmark(parser.parse_args()))


if __name__ == "__main__":
    main()
