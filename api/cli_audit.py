"""`usance audit`: the invariants of the books, and every charge derived again; read-only."""

import sys
from typing import TYPE_CHECKING

import rich_click as click

from api.cli_start import FAILED, console, run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime
    from invoicing.audit_all import Audited


@click.command()
def audit() -> None:
    """Check every invariant, derive every charge and measure every event again, over all sellers.

    Works read-only, from a role of its own. Exit code 1 when something is not as it must be.
    """
    from rich.table import Table
    from rich.text import Text

    with started() as running:
        done = run_async(lambda: audit_all(running=running))
    out = console()
    if done.broken:
        table = Table("check", "seller", "object", "found", box=None, pad_edge=False)
        for entry in done.broken:
            table.add_row(entry.check, entry.seller, Text(entry.object), Text(entry.detail))
        out.print(table)
    out.print(told(done), style="red" if done.broken else None)
    if done.broken:
        sys.exit(FAILED)


def told(done: "Audited") -> str:
    """The outcome in a sentence."""
    waiting = f", {done.pending:,} wait for the next billing run" if done.pending else ""
    return (
        f"{done.sellers} seller{'' if done.sellers == 1 else 's'}: {done.checks} invariants"
        f" checked, {done.charges:,} charges derived and {done.events:,} events measured"
        f" again{waiting}: {done.violations or 'no'}"
        f" violation{'' if done.violations == 1 else 's'}."
    )


async def audit_all(*, running: "Runtime") -> "Audited":
    """Audit every seller, all in one snapshot, under a line that tells how far it has come."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from invoicing.audit_all import audit_all as audit_sellers
    from invoicing.audit_all import checks_in_all
    from plans.seller_directory_store import list_sellers

    reader, database = running.open_for_audit(), running.open()
    try:
        async with database.transaction(seller=None) as connection:
            sellers = {one.seller: one.id for one in await list_sellers(connection=connection)}
        with Progress(
            SpinnerColumn(),
            TextColumn("audit: {task.description}"),
            TimeElapsedColumn(),
            console=console(err=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as progress:
            task, checks = progress.add_task("begins", total=None), checks_in_all()

            def report(reached: "Audited") -> None:
                line = (
                    f"{reached.checks} of {checks} invariants, {reached.charges:,} charges,"
                    f" {reached.events:,} events"
                )
                progress.update(task, description=line)

            return await audit_sellers(reader=reader, sellers=sellers, report=report)
    finally:
        await reader.close()
        await database.close()
