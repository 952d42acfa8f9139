"""`usance audit`: the invariants of the books, and every charge derived again; read-only."""

import sys
from typing import TYPE_CHECKING

import msgspec
import rich_click as click

from api.cli_start import FAILED, console, run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it must be."""

    check: str
    seller: str
    object: str
    detail: str


class Audited(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit looked at and what it found."""

    sellers: int
    checks: int
    charges: int
    pending: int
    """Charges touched by facts that the next billing run will look at."""
    broken: tuple[Broken, ...]


@click.command()
def audit() -> None:
    """Check every invariant and derive every charge again, over all sellers.

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


def told(done: Audited) -> str:
    """The outcome in a sentence."""
    waiting = f", {done.pending:,} wait for the next billing run" if done.pending else ""
    return (
        f"{done.sellers} seller{'' if done.sellers == 1 else 's'}: {done.checks} invariants checked"
        f" and {done.charges:,} charges derived again{waiting}: "
        f"{len(done.broken) or 'no'} violation{'' if len(done.broken) == 1 else 's'}."
    )


async def audit_all(*, running: "Runtime") -> Audited:
    """Audit every seller, each in one snapshot."""
    from engine.audit import CHECKS
    from engine.audit import audit as check_invariants
    from invoicing.rederive import rederive
    from metering.verify_events import differing_commits
    from plans.seller_directory_store import list_sellers
    from plans.seller_store import load_seller

    reader, database = running.open_for_audit(), running.open()
    try:
        async with reader.transaction(seller=None, snapshot=True) as connection:
            found = await check_invariants(connection=connection)
        async with database.transaction(seller=None) as connection:
            sellers = await list_sellers(connection=connection)
        names = {entry.seller: entry.id for entry in sellers}
        broken = [
            Broken(
                check=entry.check,
                seller="" if entry.seller is None else names.get(entry.seller, str(entry.seller)),
                object=entry.object,
                detail=entry.detail,
            )
            for entry in found
        ]
        charges = pending = 0
        for entry in sellers:
            async with reader.transaction(seller=entry.seller, snapshot=True) as connection:
                seller = await load_seller(connection=connection)
                derived = await rederive(connection=connection, seller=seller)
                differing = await differing_commits(connection=connection)
            broken += [
                Broken(
                    check="events elsewhere",
                    seller=entry.id,
                    object=str(one.batch),
                    detail=f"{one.committed} committed, {one.found} found",
                )
                for one in differing
            ]
            charges, pending = charges + derived.charges, pending + derived.pending
            broken += [
                Broken(
                    check="derived again",
                    seller=entry.id,
                    object=f"{one.subscription} {one.price} {one.period_start_at:%Y-%m-%d}",
                    detail=f"posted {one.posted}, derived {one.derived}",
                )
                for one in derived.mismatches
            ]
    finally:
        await reader.close()
        await database.close()
    return Audited(
        sellers=len(sellers),
        checks=len(CHECKS),
        charges=charges,
        pending=pending,
        broken=tuple(broken),
    )
