"""A billing run at the terminal: its progress, and Ctrl-C, which pauses it."""

import asyncio
import contextlib
import getpass
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from api.cli_start import console
from engine.db import Database
from engine.errors import BillingError
from invoicing.control_run import control_run
from invoicing.model import BillingRun
from invoicing.portions import Progress as Reached
from invoicing.run_states import RunAct
from invoicing.run_store import Unfinished, list_runs, unfinished_runs

INSTANT = timedelta(microseconds=1)


def operator() -> str:
    """Who acts at the terminal, for the audit log."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):  # an account without a name
        return "cli"


@contextlib.contextmanager
def watched() -> Iterator[Callable[[Reached], None]]:
    """A progress bar on stderr, where that is a terminal; what it gives is told how far it is."""
    with Progress(
        TextColumn("billing run"),
        BarColumn(),
        TextColumn("{task.completed:,} customers"),
        TextColumn("{task.fields[documents]:,} documents"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[parked]}", style="red"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console(err=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("billing run", total=None, documents=0, rate="", parked="")

        def report(reached: Reached) -> None:
            speed = progress.tasks[0].speed
            progress.update(
                task,
                completed=reached.done + reached.parked,
                total=reached.total,
                documents=reached.documents,
                rate="" if speed is None else f"{speed:,.0f}/s",
                parked=f"{reached.parked:,} parked" if reached.parked else "",
            )

        yield report


async def pausable(
    work: Callable[[], Coroutine[Any, Any, BillingRun]],
    *,
    database: Database,
    seller: int,
    through: datetime,
    now: datetime,
) -> BillingRun:
    """What the work gives; interrupted, the run that it was at, paused.

    A second Ctrl-C does not wait for that. Raises KeyboardInterrupt where no run had begun.
    """
    loop = asyncio.get_running_loop()
    working = loop.create_task(work())
    pausing: list[asyncio.Task[None]] = []
    paused: list[str] = []

    async def pause() -> None:
        try:
            paused.extend(await _pause(database, seller, through, now))
        finally:
            working.cancel()

    def interrupt() -> None:
        if pausing:
            working.cancel()
        else:
            pausing.append(loop.create_task(pause()))

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the process
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        return await working
    except asyncio.CancelledError:
        if not pausing:
            raise
        await asyncio.wait(pausing)
        if not paused:
            raise KeyboardInterrupt from None
        async with database.transaction(seller=seller) as connection:
            return (await list_runs(connection=connection, run=paused[-1]))[0]
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)


async def _pause(database: Database, seller: int, through: datetime, now: datetime) -> list[str]:
    """Pause every run up to `through` that is running; those that were not over meanwhile."""
    async with database.transaction(seller=seller) as connection:
        limit = Unfinished(as_of=through + INSTANT)
        begun = await unfinished_runs(connection=connection, before=limit)
    paused: list[str] = []
    for each in begun:
        with contextlib.suppress(BillingError):
            async with database.transaction(seller=seller) as connection:
                await control_run(
                    connection=connection,
                    run=each.run or "",
                    act=RunAct.PAUSE,
                    actor=operator(),
                    reason="interrupted",
                    now=now,
                    wall_now=now,
                )
            paused.append(each.run or "")
    return paused
