"""`usance import`: customers, subscriptions and events from CSV and NDJSON files."""

import contextlib
import csv
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import rich_click as click

from api.cli_start import FAILED, console, run_async, started

if TYPE_CHECKING:
    from collections.abc import Callable

    from api.importing import Columns, Kind
    from api.runtime import Runtime
    from api.send_rows import Refused, Sent

_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_SELLER = click.option(
    "--seller", "seller_id", default=None, help="sel_…; may be left out if there is only one."
)


@click.group("import")
def import_() -> None:
    """Take in customers, subscriptions or events from a CSV or NDJSON file.

    Rows that are refused do not stop the others: they are written, with the reason, to
    FILE.refused.csv, and the exit code is 1.
    """


@import_.command()
@_FILE
@_SELLER
def customers(file: Path, seller_id: str | None) -> None:
    """Customers: columns key, name, emails (a;b), country, currency, address.city and so on."""
    _import(file=file, kind="customers", seller_id=seller_id, columns=None)


@import_.command()
@_FILE
@_SELLER
def subscriptions(file: Path, seller_id: str | None) -> None:
    """Subscriptions: columns key, customer, plan, starts_at, quantities.seats and so on."""
    _import(file=file, kind="subscriptions", seller_id=seller_id, columns=None)


@import_.command()
@_FILE
@_SELLER
@click.option("--type", "event_type", default=None, help="The type of every row.")
@click.option("--type-column", "type", default=None, help="Column of the type. [type]")
@click.option("--subject-column", "subject", default=None, help="Column of the customer. [subject]")
@click.option("--time-column", "time", default=None, help="Column of the time. [time]")
@click.option("--id-column", "id", default=None, help="Column of the id. [id]")
@click.option("--source-column", "source", default=None, help="Column of the source. [source]")
@click.option(
    "--value", "values", multiple=True, help="A column that becomes data; repeat for several."
)
def events(file: Path, seller_id: str | None, **chosen: Any) -> None:
    """Usage events. Without an id column the id follows from the row: importing again is safe.

    Such an id holds the row's number in the file and its cells, in whatever order the columns are:
    rows may be added at the end, but a row that moves becomes another event.

    Columns that mean nothing else become data, unless --value names those that do.
    """
    from api.importing import Columns

    _import(file=file, kind="events", seller_id=seller_id, columns=Columns(**chosen))


def _import(*, file: Path, kind: "Kind", seller_id: str | None, columns: "Columns | None") -> None:
    before = time.monotonic()
    with RefusedRows(file=file) as refused, started() as running:
        sent = run_async(
            lambda: import_file(
                file=file,
                kind=kind,
                seller_id=seller_id,
                columns=columns,
                running=running,
                refuse=refused.add,
            )
        )
    seconds = time.monotonic() - before
    rate = f", {sent.rows / seconds:,.0f} rows/s" if seconds > 0 else ""
    click.echo(
        f"{file}: {sent.rows} rows in {seconds:.1f} s{rate}: {sent.accepted} accepted, "
        f"{sent.duplicates} duplicates, {sent.refused} refused."
    )
    if sent.refused:
        click.echo(f"What was refused and why is in {refused.path}", err=True)
        sys.exit(FAILED)


async def import_file(
    *,
    file: Path,
    kind: "Kind",
    seller_id: str | None,
    columns: "Columns | None",
    running: "Runtime",
    refuse: "Callable[[Refused], None]",
) -> "Sent":
    """Send a file through the application in this process, as the seller."""
    from api.act_as import acting_key, choose_seller
    from api.app import create_app
    from api.importing import read_rows
    from api.in_process import PatientClient, lifespan
    from api.send_rows import send_rows
    from metering.ingest import PATIENT_SECONDS

    database = running.open()
    try:
        seller = await choose_seller(database=database, seller_id=seller_id)
        application = create_app(database=database, clock=_now, commit_seconds=PATIENT_SECONDS)
        async with (
            lifespan(application=application),
            acting_key(database=database, seller=seller, name="import", now=_now()) as secret,
        ):
            client = PatientClient(application=application, key=secret)
            with _progress() as progress:
                task = progress.add_task(f"{file.name}", total=None)
                return await send_rows(
                    client=client,
                    rows=read_rows(
                        path=file, kind=kind, columns=columns, as_lines=kind == "events"
                    ),
                    kind=kind,
                    refuse=refuse,
                    report=lambda sent: progress.update(task, completed=sent.rows),
                )
    finally:
        await database.close()


class RefusedRows:
    """The file of refused rows as they were, with number and reason; the first one makes it."""

    def __init__(self, *, file: Path) -> None:
        """`file` is what is imported."""
        self.path = file.with_name(f"{file.name}.refused.csv")
        self._file = file
        self._stack = contextlib.ExitStack()
        self._writer: Any = None

    def __enter__(self) -> Self:
        """Nothing is written yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, if there is one."""
        self._stack.close()

    def add(self, entry: "Refused") -> None:
        """Write one more row."""
        if self._writer is None:
            from api.importing import header_of

            out = self._stack.enter_context(self.path.open("w", encoding="utf-8", newline=""))
            self._writer = csv.writer(out)
            self._writer.writerow(["row", "reason", *header_of(path=self._file)])
        self._writer.writerow([entry.row.number, entry.reason, *entry.row.text])


def _now() -> datetime:
    return datetime.now(UTC)


def _progress():  # noqa: ANN202 rich is imported late
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
        console=console(err=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
