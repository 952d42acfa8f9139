"""The billing run against what the machine allows: COPY of the very rows it posts, and an ORM.

A seller with N subscriptions of three prices and M usage events is billed: measure, rate, diff,
number, journal, post. Three references stand beside it:

- COPY writes the rows it posted again, which are read back and encoded before the clock starts;
- *ORM objects, rows alone* writes finished rows of a sample as mapped objects. That is less than a
  run: reading, rating, comparing and numbering are given to it;
- *ORM objects, the run* bills a sample through mapped objects, as `orm_billing` says. It does the
  same work, measuring too, and must have come to the same documents. What measuring takes of it is
  told, for who would rather leave it out. It has two forms.

On *bare tables* it writes copies that hold the sample alone, without triggers, foreign keys and
row-level security, and leaves all writing to the unit of work, which sends a statement a row. The
other form, which the target is about, writes our own tables, in a clone that is taken before our
run, and they are guarded as for us: statement triggers check that each number was taken, that the
lines of a document and the postings of an entry are whole and balanced, let events come in turn,
and keep what is due; at the commit numbers must have no gap. Those fire once a statement, for us
and there. An `UPDATE` that the unit of work sends by `executemany` would fire them for each row,
and an `INSERT` of postings so sent is refused. So lines, postings and progress are one statement
each in this form, made from the objects, and it is the quicker one although it is guarded. We write
by COPY, as roles that row-level security holds for, and it as the superuser: `orm_guarded`.

The samples are scaled up. Then the run is repeated. All in one process and one run; only the
ratios mean anything elsewhere. The processor time of this process and of the server's is told
beside the clock, for what others on the machine take moves that less.

    python benchmarks/bench_billing_run.py --subscriptions 20000 --events 2000000

`--alone` leaves the references out, for a run so large that its rows do not fit into memory:

    python benchmarks/bench_billing_run.py --subscriptions 1000000 --events 20000000 --alone
"""

import argparse
import asyncio
import functools
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import asyncpg
import uvloop
from billing_references import ORM_BILLED, Run, against_others
from billing_world import SECOND_RUN, build_world
from orm_guarded import clone_of
from orm_sample import keep_sample
from processor_time import family_seconds, parent_of

import invoicing.billing_pass
import invoicing.derive_alike
import invoicing.derive_portion
import invoicing.post_alike
from engine.db import Database, open_database
from engine.postgres import start_or_join
from engine.scratch import scratch_database
from invoicing.run_billing import run_billing

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


async def measure_all(*, dsn: str, arguments: argparse.Namespace) -> None:
    sizes = {name: getattr(arguments, name) for name in ("subscriptions", "events", "anchors")}
    begin = time.perf_counter()
    seller = await asyncio.to_thread(functools.partial(build_apart, dsn=dsn, **sizes))
    print(
        f"{sizes['subscriptions']} subscriptions of 3 prices on {sizes['anchors']} anchor days,"
        f" {sizes['events']} events, loaded in {time.perf_counter() - begin:.0f} s"
    )
    async with AsyncExitStack() as stack:
        clone = None if arguments.alone else await stack.enter_async_context(clone_of(dsn))
        await measure_run(dsn=dsn, clone=clone, seller=seller, documents=arguments.subscriptions)


async def measure_run(*, dsn: str, clone: str | None, seller: int, documents: int) -> None:
    """Bill, and measure what it took; against the references where there is a clone for them."""
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
    raw = await asyncpg.connect(dsn)
    try:
        if clone is not None:
            await keep_sample(raw, seller=seller, as_of=SECOND_RUN, documents=ORM_BILLED)
        await raw.execute("CHECKPOINT")
        server, before, phases = await server_of(raw), peak_mebibytes(), Seconds()
        phases.watch()
        begun = processor_seconds(server)
        first, run = await bill(database, seller)
        worked = [end - begin for begin, end in zip(begun, processor_seconds(server), strict=True)]
        after, spent = peak_mebibytes(), dict(phases.spent)
        again, empty = await bill(database, seller)
        assert run.documents == documents, run
        assert empty.documents == 0, empty
        table, ratios = [f"  {'billing run':<56} {first:>8.2f} s"], []
        if clone is not None:
            ours = Run(seller, run.id, run.documents, first)
            table, ratios = await against_others(
                raw=raw, database=database, dsn=dsn, clone=clone, run=ours
            )
    finally:
        await raw.close()
        await database.close()
    print(f"{run.documents} documents")
    print("\n".join(table))
    for name, taken in zip(("processor, Python", "processor, server"), worked, strict=True):
        share = taken * 1_000_000 / run.documents
        print(f"  {name:<56} {taken:>8.2f} s {share:>12,.0f} microseconds a document")
    print(f"  {'the run again':<56} {again:>8.2f} s")
    order = [label for _, _, label in PHASES]
    for label, taken in sorted(spent.items(), key=lambda item: order.index(item[0])):
        print(f"    {label:<54} {taken:>8.2f} s {taken / first:>7.0%}")
    ratios.append(
        f"again / first                          {again / first:>6.3f}   (target at most 0.3)"
    )
    told = f"(target at most 512; {before:.0f} before)"
    ratios.append(f"peak memory, MiB                       {after:>6.0f}   {told}")
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
