"""`usance audit`: the invariants of the books, read-only, from a role of its own."""

import sys
from typing import TYPE_CHECKING

import rich_click as click

from api.cli_start import FAILED, console, run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime
    from engine.audit import Violation


@click.command()
def audit() -> None:
    """Check every invariant of the books over all sellers; exit code 1 when one is broken."""
    from rich.table import Table
    from rich.text import Text

    from engine.audit import CHECKS

    with started() as running:
        found = run_async(lambda: violations(running=running))
    out = console()
    if not found:
        out.print(f"{len(CHECKS)} invariants hold: no violations.")
        return
    table = Table("check", "seller", "object", "found", box=None, pad_edge=False)
    for entry in found:
        seller = "" if entry.seller is None else str(entry.seller)
        table.add_row(entry.check, seller, Text(entry.object), Text(entry.detail))
    out.print(table)
    out.print(f"{len(found)} violations.", style="red")
    sys.exit(FAILED)


async def violations(*, running: "Runtime") -> "list[Violation]":
    """What the audit finds now, in one snapshot."""
    from engine.audit import audit as run_audit

    database = running.open_for_audit()
    try:
        async with database.transaction(seller=None, snapshot=True) as connection:
            return await run_audit(connection=connection)
    finally:
        await database.close()
