"""The billing run against what the machine allows: COPY of the very rows it posts, and an ORM.

A seller with N subscriptions of three prices and M usage events is billed: measure, rate, diff,
number, journal, post. Three references stand beside it:

- COPY writes the rows it posted again, which are read back and encoded before the clock starts;
- *ORM objects, rows alone* writes finished rows of a sample as mapped objects. That is less than a
  run: reading, rating, comparing and numbering are given to it;
- *ORM objects, the run* bills a sample through mapped objects, as `orm_billing` says. It does the
  same work, measuring too, and must have come to the same documents. The target is about this one;
  what measuring takes of it is told, for who would rather leave it out.

Both samples are scaled up. Then the run is repeated. All in one process and one run; only the
ratios mean anything elsewhere. The processor time of this process and of the server's is told
beside the clock, for what others on the machine take moves that less.

    python benchmarks/bench_billing_run.py --subscriptions 20000 --events 2000000

`--alone` leaves the references out, for a run so large that its rows do not fit into memory:

    python benchmarks/bench_billing_run.py --subscriptions 1000000 --events 20000000 --alone
"""

import argparse
import asyncio
import functools
import io
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import asyncpg
import uvloop
from billing_world import SECOND_RUN, build_world
from orm_billing import bill_sample
from orm_sample import keep_sample
from processor_time import family_seconds, parent_of
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import registry

import invoicing.billing_pass
import invoicing.derive_alike
import invoicing.derive_portion
import invoicing.post_alike
from api.collector import keep_what_was_started
from engine.db import Database, open_database
from engine.postgres import start_or_join
from engine.scratch import scratch_database
from invoicing.run_billing import run_billing

COPIES = 3
ORM_DOCUMENTS = 1_000
ORM_CHUNK = 500
ORM_BILLED = 2_000
# Rows of a table that belong to documents of the run; invoices are named by the run itself.
TABLES = {
    "invoices": "id",
    "credit_notes": "id",
    "line_items": "document",
    "settlements": "invoice",
    "journal_entries": "source",
    "postings": "document",
    "outbox": "object",
}
PHASES: list[tuple[ModuleType, str, str]] = [
    (invoicing.billing_pass, "mark_usage", "inbox: who has new usage"),
    (invoicing.derive_portion, "due_with_terms", "work list"),
    (invoicing.derive_portion, "derive_alike", "derive together"),
    (invoicing.derive_alike, "measure", "  of it measure"),
    (invoicing.derive_alike, "rate", "  of it rate"),
    (invoicing.derive_portion, "load_work", "agreements of the others"),
    (invoicing.derive_portion, "derive", "derive one by one"),
    (invoicing.billing_pass, "post_alike", "post, without the commit"),
    (invoicing.post_alike, "advance_alike", "  of it progress"),
    (invoicing.post_alike, "rows_of", "  of it rows"),
    (invoicing.post_alike, "copy_encoded", "  of it COPY"),
]


class Seconds:
    """Time spent in named functions, for as long as they are watched.

    What comes before posting goes on beside it, so these are more than the run takes.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)

    def watch(self) -> None:
        """Put a watch around every function of PHASES, until the process ends."""
        for module, name, label in PHASES:
            setattr(module, name, self._timed(getattr(module, name), label))

    def _timed(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        if asyncio.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*arguments: Any, **named: Any) -> Any:
                begin = time.perf_counter()
                try:
                    return await function(*arguments, **named)
                finally:
                    self.spent[label] += time.perf_counter() - begin

            return awaited

        @functools.wraps(function)
        def called(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                self.spent[label] += time.perf_counter() - begin

        return called


async def seconds_of(work: Awaitable[object]) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


def condition(table: str, run: str) -> str:
    if table in {"invoices", "credit_notes"}:
        return f"run = '{run}'"
    documents = " UNION ALL ".join(
        f"SELECT id FROM {name} WHERE run = '{run}'" for name in ("invoices", "credit_notes")
    )
    return f"{TABLES[table]} IN ({documents})"


async def read_back(raw: Any, run: str) -> dict[str, tuple[int, bytes]]:
    """{table: (rows, binary COPY)} of what the run posted, in the order in which it lies there."""
    found: dict[str, tuple[int, bytes]] = {}
    for table in TABLES:
        target = io.BytesIO()
        query = f"SELECT * FROM public.{table} WHERE {condition(table, run)} ORDER BY ctid"
        tag = await raw.copy_from_query(query, output=target, format="binary")
        rows = int(tag.split()[-1])
        if rows:
            found[table] = (rows, target.getvalue())
    return found


async def make_copies(raw: Any) -> None:
    """Empty copies of the tables with their keys, indexes and checks, without triggers."""
    await raw.execute("CREATE SCHEMA copies")
    for table in TABLES:
        await raw.execute(f"CREATE TABLE copies.{table} (LIKE public.{table} INCLUDING ALL)")
    await raw.execute("ALTER TABLE copies.outbox ALTER position SET GENERATED BY DEFAULT")


async def empty_copies(raw: Any) -> None:
    for table in TABLES:
        await raw.execute(f"TRUNCATE copies.{table}")
    await raw.execute("CHECKPOINT")


async def copy_all(raw: Any, posted: dict[str, tuple[int, bytes]]) -> None:
    async with raw.transaction():
        for table, (_, content) in posted.items():
            await raw.copy_to_table(
                table, schema_name="copies", source=memoryview(content), format="binary"
            )


async def copy_seconds(raw: Any, posted: dict[str, tuple[int, bytes]]) -> float:
    taken: list[float] = []
    for _ in range(COPIES):
        await empty_copies(raw)
        taken.append(await seconds_of(copy_all(raw, posted)))
    return median(taken)


async def orm_seconds(raw: Any, dsn: str, run: str) -> tuple[int, float]:
    """(rows, seconds) of a sample written as mapped objects, flushed and committed by the chunk."""
    await empty_copies(raw)
    mapped, metadata = registry(), MetaData(schema="copies")
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=functools.partial(asyncpg.connect, dsn)
    )
    try:
        async with engine.connect() as connection:
            await connection.run_sync(metadata.reflect)
        kinds: dict[str, type] = {}
        for table in TABLES:
            kinds[table] = type(table, (), {})
            mapped.map_imperatively(kinds[table], metadata.tables[f"copies.{table}"])
        documents = await raw.fetch(
            "SELECT id FROM public.invoices WHERE run = $1 ORDER BY ctid LIMIT $2",
            run,
            ORM_DOCUMENTS,
        )
        ids = [row["id"] for row in documents]
        rows, taken = 0, 0.0
        for begin in range(0, len(ids), ORM_CHUNK):
            records = {
                table: [
                    dict(row)
                    for row in await raw.fetch(
                        f"SELECT * FROM public.{table} WHERE {column} = ANY($1)",
                        ids[begin : begin + ORM_CHUNK],
                    )
                ]
                for table, column in TABLES.items()
            }
            rows += sum(map(len, records.values()))
            taken += await seconds_of(_add_objects(engine, kinds, records))
        return rows, taken
    finally:
        mapped.dispose()
        await engine.dispose()


async def _add_objects(
    engine: Any, kinds: dict[str, type], records: dict[str, list[dict[str, Any]]]
) -> None:
    async with AsyncSession(engine) as session:
        for table, rows in records.items():
            objects = []
            for row in rows:
                one = kinds[table]()
                for name, value in row.items():
                    setattr(one, name, value)
                objects.append(one)
            session.add_all(objects)
        await session.commit()


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _build(arguments: dict[str, Any], answers: Any) -> None:
    answers.put(asyncio.run(build_world(**arguments)))


def build_apart(**arguments: Any) -> int:
    """Load in another process, so that the peak memory measured here is the run's own."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_build, args=(arguments, answers))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit("loading failed")
    return int(answers.get())


async def bill(database: Database, seller: int) -> tuple[float, Any]:
    begin = time.perf_counter()
    run = await run_billing(database=database, seller=seller, as_of=SECOND_RUN, now=SECOND_RUN)
    return time.perf_counter() - begin, run


async def server_of(raw: Any) -> int | None:
    """The server's first process, if it runs here."""
    return parent_of(await raw.fetchval("SELECT pg_backend_pid()"))


def processor_seconds(server: int | None) -> tuple[float, float]:
    """(of this process, of the server's) so far."""
    return time.process_time(), 0.0 if server is None else family_seconds(server)


async def against_others(
    *, raw: Any, database: Database, dsn: str, seller: int, run: Any, taken: float
) -> tuple[list[str], list[str]]:
    """(lines of the table, lines of the ratios) of COPY and of objects, for the rows of a run."""
    posted = await read_back(raw, run.id)
    await make_copies(raw)
    by_copy = await copy_seconds(raw, posted)
    orm_rows, orm = await orm_seconds(raw, dsn, run.id)
    sample = await bill_sample(
        raw=raw, database=database, dsn=dsn, seller=seller, run=run.id, as_of=SECOND_RUN
    )
    rows = sum(count for count, _ in posted.values())
    scale = run.documents / sample.documents
    by_orm, by_orm_run = orm * rows / orm_rows, sample.seconds * scale
    counts = ", ".join(f"{table} {count}" for table, (count, _) in posted.items())
    timed = [
        ("billing run", taken),
        (f"COPY of its rows, median of {COPIES}", by_copy),
        (f"ORM objects, rows alone, of {orm_rows} rows", by_orm),
        (f"ORM objects, the run, of {sample.documents} documents", by_orm_run),
    ]
    table = [f"{rows} rows: {counts}"]
    for name, each in timed:
        share = each * 1_000_000 / run.documents
        table.append(
            f"  {name:<44} {each:>8.2f} s {rows / each:>12,.0f} rows/s"
            f" {share:>8,.0f} microseconds a document"
        )
    share = sample.measuring_seconds / sample.seconds
    table.append(f"  {'  of it measuring':<44} {share * by_orm_run:>8.2f} s {share:>12.1%}")
    return table, [
        f"run / COPY                       {by_copy / taken:>6.2f}   (target at least 0.50)",
        f"run / ORM objects, rows alone    {by_orm / taken:>6.1f}   (finished rows: not a run)",
        f"run / ORM objects, the run       {by_orm_run / taken:>6.1f}   (target at least 15)",
    ]


async def measure_all(*, dsn: str, arguments: argparse.Namespace) -> None:
    sizes = {name: getattr(arguments, name) for name in ("subscriptions", "events", "anchors")}
    begin = time.perf_counter()
    seller = await asyncio.to_thread(functools.partial(build_apart, dsn=dsn, **sizes))
    print(
        f"{sizes['subscriptions']} subscriptions of 3 prices on {sizes['anchors']} anchor days,"
        f" {sizes['events']} events, loaded in {time.perf_counter() - begin:.0f} s"
    )
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
    raw = await asyncpg.connect(dsn)
    try:
        if not arguments.alone:
            await keep_sample(raw, seller=seller, as_of=SECOND_RUN, documents=ORM_BILLED)
        await raw.execute("VACUUM (ANALYZE)")  # of what was loaded; autovacuum would, beside a run
        await raw.execute("CHECKPOINT")
        server, before, phases = await server_of(raw), peak_mebibytes(), Seconds()
        phases.watch()
        keep_what_was_started()  # as every command does that bills
        begun = processor_seconds(server)
        first, run = await bill(database, seller)
        worked = [end - begin for begin, end in zip(begun, processor_seconds(server), strict=True)]
        after, spent = peak_mebibytes(), dict(phases.spent)
        again, empty = await bill(database, seller)
        assert run.documents == sizes["subscriptions"], run
        assert empty.documents == 0, empty
        table, ratios = [f"  {'billing run':<44} {first:>8.2f} s"], []
        if not arguments.alone:
            table, ratios = await against_others(
                raw=raw, database=database, dsn=dsn, seller=seller, run=run, taken=first
            )
    finally:
        await raw.close()
        await database.close()
    print(f"{run.documents} documents")
    print("\n".join(table))
    for name, taken in zip(("processor, Python", "processor, server"), worked, strict=True):
        share = taken * 1_000_000 / run.documents
        print(f"  {name:<44} {taken:>8.2f} s {share:>12,.0f} microseconds a document")
    print(f"  {'the run again':<44} {again:>8.2f} s")
    order = [label for _, _, label in PHASES]
    for label, taken in sorted(spent.items(), key=lambda item: order.index(item[0])):
        print(f"    {label:<42} {taken:>8.2f} s {taken / first:>7.0%}")
    ratios.append(f"again / first                    {again / first:>6.3f}   (target at most 0.3)")
    told = f"(target at most 512; {before:.0f} before)"
    ratios.append(f"peak memory, MiB                 {after:>6.0f}   {told}")
    print("\n".join(ratios))


@contextmanager
def own_server() -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="usance-bench-"))
    home.chmod(0o711)  # run as root, the server runs as nobody and walks through here
    try:
        with start_or_join(home=home) as running:
            yield running.admin_dsn
    finally:
        shutil.rmtree(home, ignore_errors=True)


@asynccontextmanager
async def scratch(dsn: str | None) -> AsyncIterator[str]:
    """A migrated database on the server given, else on one of our own that waits for its disk."""
    with ExitStack() as stack:
        if dsn is None:
            dsn = stack.enter_context(own_server())
        async with scratch_database(dsn=dsn) as database:
            yield database


async def run_benchmark(arguments: argparse.Namespace) -> None:
    async with scratch(arguments.dsn) as dsn:
        await measure_all(dsn=dsn, arguments=arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subscriptions", type=int, default=20_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--anchors", type=int, default=28, help="start days, 1 to 28")
    parser.add_argument("--alone", action="store_true", help="without COPY and objects")
    parser.add_argument("--dsn", help="a superuser's address; default: a server of its own")
    uvloop.run(run_benchmark(parser.parse_args()))


if __name__ == "__main__":
    main()
