"""`usance check PATH…`: rules as data, run and compared; what differs is printed."""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import rich_click as click

from api.cli_start import FAILED, console, refuse, run_async, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rich.progress import Progress

    from api.check_scenarios import MakeSeller, Result
    from api.runtime import Runtime
    from api.scenario_file import Scenario

RATING, PERIOD, SCENARIO = ".rating.jsonl", ".period.jsonl", ".scenario.yaml"
ENDINGS = (RATING, PERIOD, SCENARIO)
Status = Literal["passed", "failed", "unsupported"]


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One row or one scenario, and how it came out."""

    topic: str
    name: str
    status: Status
    details: tuple[str, ...] = ()
    """What differs, or what is not built."""


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--verbose", "-v", is_flag=True, help="Also list what passed and what is not built.")
def check(paths: tuple[Path, ...], verbose: bool) -> None:
    """Run check files: rating tables, period tables and scenarios.

    A PATH is a file ending in .rating.jsonl, .period.jsonl or .scenario.yaml, or a folder of such.
    Scenarios run on a scratch database that is dropped after. Exit code 0 when everything holds,
    1 when something differs or needs a rule that is not built, 2 when a file cannot be read.
    """
    from api.scenario_file import read_scenario

    files = list(_files(paths))
    if not files:
        refuse(f"no file in {', '.join(map(str, paths))} ends in {', '.join(ENDINGS)}")
    scenarios = [read_scenario(path=path) for path in files if path.name.endswith(SCENARIO)]
    tables = [path for path in files if not path.name.endswith(SCENARIO)]
    checked = [entry for path in tables for entry in _table(path)]
    if scenarios:
        checked += _scenarios(scenarios)
    _report(checked, verbose=verbose)
    if any(entry.status != "passed" for entry in checked):
        sys.exit(FAILED)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for path in paths:
        if path.is_file() and not path.name.endswith(ENDINGS):
            refuse(f"{path} is no check file: its name must end in {', '.join(ENDINGS)}")
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and file.name.endswith(ENDINGS) and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _table(path: Path) -> Iterator[Checked]:
    from api.check_tables import run_period_file, run_rating_file

    rows = run_rating_file(path) if path.name.endswith(RATING) else run_period_file(path)
    topic = path.name.removesuffix(".jsonl").removesuffix(".rating").removesuffix(".period")
    for row in rows:
        passed = row.status.value == "passed"
        differs = f"expected {row.expected}, got {row.actual}"
        yield Checked(
            topic=topic,
            name=f"{path}: {row.id}",
            status=row.status.value,
            details=() if passed else (row.detail or differs,),
        )


def _scenarios(scenarios: "Sequence[Scenario]") -> list[Checked]:
    from api.scenario_support import not_built

    results: list[Result] = []
    if all(not_built(scenario) for scenario in scenarios):
        # Nothing will be played, so no server is needed.
        return [
            Checked(
                topic=scenario.path.parent.name,
                name=str(scenario.path),
                status="unsupported",
                details=tuple(not_built(scenario)),
            )
            for scenario in scenarios
        ]
    with started(ready=False) as running:
        results = run_async(lambda: play_all(scenarios=scenarios, running=running))
    return [
        Checked(
            topic=result.scenario.path.parent.name,
            name=f"{result.scenario.path}",
            status=result.outcome,
            details=result.reasons or tuple(map(str, result.differences)),
        )
        for result in results
    ]


async def play_all(
    *,
    scenarios: "Sequence[Scenario]",
    running: "Runtime",
    quiet: bool = False,
    examine: "Callable[[str], Awaitable[None]] | None" = None,
) -> "list[Result]":
    """Every scenario on a seller of its own, in one scratch database; results in their order.

    `examine` is given the superuser's address of the database when all are played.
    """
    from api.check_scenarios import run_scenario

    results: list[Result | None] = [None] * len(scenarios)
    waiting = list(enumerate(scenarios))[::-1]
    async with scratch_application(running=running, examine=examine) as make_seller:
        with _progress(quiet=quiet) as progress:
            task = progress.add_task("scenarios", total=len(scenarios))

            async def play() -> None:
                while waiting:
                    index, scenario = waiting.pop()
                    results[index] = await run_scenario(scenario=scenario, make_seller=make_seller)
                    progress.advance(task)

            # While one waits for the database another one works.
            await asyncio.gather(play(), play())
    return [result for result in results if result is not None]


@asynccontextmanager
async def scratch_application(
    *, running: "Runtime", examine: "Callable[[str], Awaitable[None]] | None" = None
) -> "AsyncIterator[MakeSeller]":
    """The application on a scratch database; gives what makes a test seller in it."""
    from api.app import create_app
    from api.in_process import Client, lifespan
    from engine.scratch import scratch_database
    from metering.ingest import PATIENT_SECONDS
    from plans.create_seller import create_seller
    from plans.drafts import SellerDraft

    async with scratch_database(dsn=running.admin_dsn) as dsn:
        database = running.open_scratch(dsn=dsn)
        try:
            application = create_app(database=database, clock=_now, commit_seconds=PATIENT_SECONDS)
            async with lifespan(application=application):

                async def make_seller(clock_at: datetime) -> Client:
                    draft = SellerDraft(legal_name="Scenario", country="US", clock_at=clock_at)
                    made = await create_seller(database=database, draft=draft, now=_now())
                    return Client(application=application, key=made.secret)

                yield make_seller
            if examine is not None:
                await examine(dsn)
        finally:
            await database.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _progress(*, quiet: bool) -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=console(err=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )


def _report(checked: Sequence[Checked], *, verbose: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    out = console()
    for entry in checked:
        if entry.status == "failed":
            out.print(Text(f"FAILED  {entry.name}", style="red"), soft_wrap=True)
            for detail in entry.details:
                out.print(Text(f"        {detail}"), soft_wrap=True)
        elif verbose:
            mark = "passed " if entry.status == "passed" else "not built"
            text = f"{mark} {entry.name}" + "".join(f"\n        {why}" for why in entry.details)
            out.print(Text(text), soft_wrap=True)
    table = Table("topic", "passed", "failed", "not built", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    counts = Counter((entry.topic, entry.status) for entry in checked)
    totals = Counter(entry.status for entry in checked)
    for topic in dict.fromkeys(entry.topic for entry in checked):
        cells = [counts[topic, status] for status in ("passed", "failed", "unsupported")]
        table.add_row(topic, *(str(cell or "·") for cell in cells))
    table.add_section()
    table.add_row("all", str(totals["passed"]), str(totals["failed"]), str(totals["unsupported"]))
    out.print(table)
    if totals["unsupported"] and not verbose:
        out.print("What is not built was not checked; -v lists it.", style="yellow")
