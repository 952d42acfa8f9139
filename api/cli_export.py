"""`usance export`: a table of a seller's as a CSV file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import rich_click as click

from api.cli_start import run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime

KINDS = (
    "invoices",
    "invoice_lines",
    "credit_notes",
    "credit_note_lines",
    "journal",
    "customers",
)


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--from", "start", metavar="DAY", help="The first day, or an RFC 3339 instant.")
@click.option("--to", "end", metavar="DAY", help="The first day or instant that is left out again.")
@click.option("--out", default="-", metavar="FILE", help="Where to write; standard output else.")
@click.option("--seller", "seller_id", default=None, help="sel_…; may be left out if there is one.")
def export(
    *, kind: str, start: str | None, end: str | None, out: str, seller_id: str | None
) -> None:
    """Write a table of a seller as CSV, from one snapshot, safe to open in a spreadsheet."""
    with started() as running, target_of(out) as target:
        run_async(
            lambda: _write(running, target, kind=kind, days=(start, end), seller_id=seller_id)
        )


@contextmanager
def target_of(out: str) -> Iterator[BinaryIO]:
    """Where to write: a file stands under its name when it is complete, and not before."""
    if out == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(out)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as target:
            yield target
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


async def _write(
    running: "Runtime",
    target: BinaryIO,
    *,
    kind: str,
    days: tuple[str | None, str | None],
    seller_id: str | None,
) -> None:
    from api.act_as import choose_seller
    from invoicing.export_csv import export_csv
    from invoicing.export_table import ExportKind

    database = running.open()
    try:
        entry = await choose_seller(database=database, seller_id=seller_id)
        async for chunk in export_csv(
            database=database,
            seller=entry.seller,
            kind=ExportKind(kind),
            start=days[0],
            end=days[1],
        ):
            target.write(chunk)
    finally:
        await database.close()
