"""`usance demo`: events in, invoices out, on a database of its own, with every step shown."""

import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from api.cli_start import FAILED, console, run_async, settings_from_environment, started

if TYPE_CHECKING:
    from rich.console import Console

    from api.demo_usage import Usage
    from api.run_demo import Demo
    from api.runtime import Runtime

START = datetime(2026, 1, 1, tzinfo=UTC)
SEED = 20260101
SHOWN = 12


@click.command()
@click.option(
    "--usage",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="A CSV of usage, one event a row; made-up usage on a new seller when left out.",
)
@click.option("--time-column", default=None, help="The column with the time. [time]")
@click.option("--value", "values", multiple=True, help="A column to bill; repeat for several.")
@click.option("--customers", type=click.IntRange(1, 5000), default=20, show_default=True)
@click.option("--events", type=click.IntRange(1), default=50_000, show_default=True)
def demo(
    file: Path | None, time_column: str | None, values: tuple[str, ...], customers: int, events: int
) -> None:
    """Run the main job end to end: usage in, a month closed, invoices, journal, audit.

    Everything happens on a test seller in an embedded database under USANCE_HOME/demo. Made-up
    usage gets a new seller each time.

    Rows of a file are dealt to the customers in turn. The same file with the same options goes to
    the same seller: after a run that was killed the next one goes on where it stopped, after one
    that came to its end it changes nothing. A file with other content begins a new seller.
    """
    from msgspec.structs import replace

    from api.demo_usage import from_file, made_up

    if file is not None and not values:
        raise click.UsageError("--usage needs at least one --value COLUMN to bill.")
    keys = [f"customer-{number:04}" for number in range(1, customers + 1)]
    usage = (
        from_file(path=file, time_column=time_column, values=values, customers=keys)
        if file is not None
        else made_up(customers=keys, count=events, start=START, seed=SEED)
    )
    settings = settings_from_environment()
    home = settings.home / "demo"
    with started(settings=replace(settings, home=home, database_url=None)) as running:
        well = run_async(lambda: _demo(running=running, usage=usage, keys=keys, file=file))
    if not well:
        sys.exit(FAILED)


async def _demo(
    *, running: "Runtime", usage: "Usage", keys: Sequence[str], file: Path | None
) -> bool:
    from api.run_demo import staged

    out = console()
    database = running.open()
    try:
        async with staged(database=database, usage=usage, clock=lambda: datetime.now(UTC)) as show:
            what = file.name if file is not None else "made up, the same every time"
            before = await show.all("invoices") if show.seller.found else None
            out.print(f"Test seller {show.seller.id} in {running.settings.home}")
            if before is not None:
                out.print(
                    f"It was here before: {len(before):,} invoices, its clock at "
                    f"{show.clock_at:%Y-%m-%d %H:%M:%S}."
                )
            out.print(
                f"Usage: {usage.count:,} events ({what}), "
                f"{usage.first_at:%Y-%m-%d} to {usage.last_at:%Y-%m-%d}"
                + (f"; {usage.refused:,} rows are no events" if usage.refused else "")
            )
            await show.catalogue()
            await show.customers(keys)
            out.print(
                f"A plan of 49.00 USD in advance and graduated usage; {len(keys)} customers on it."
            )
            await _send(show, usage=usage, out=out)
            invoices = await show.all("invoices")
            kept = _tell_kept(before=before, invoices=invoices, out=out)
            _show_invoices(invoices, out=out)
            agrees = _compare(usage=usage, invoices=invoices, out=out)
            _show_accounts(await show.accounts(), out=out)
            await _keep_pdf(show, invoices=invoices, home=running.settings.home, out=out)
            posted = await show.run_again()
            out.print(f"The billing run once more: {posted} documents posted.")
            clean = await _audit(running=running, out=out)
            line = invoices[-1]["lines"][-1]["id"]
            _what_next(running=running, key=show.seller.secret, line=line, out=out)
            return kept and agrees and posted == 0 and clean
    finally:
        await database.close()


async def _send(show: "Demo", *, usage: "Usage", out: "Console") -> None:
    from itertools import islice

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from api.demo_usage import in_month
    from api.run_demo import Counts

    counts, taking, billing = Counts(), 0.0, 0.0
    with Progress(
        TextColumn("events"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]} events/s"),
        console=console(err=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("events", total=usage.count, rate="")
        for start, end in usage.months():
            await show.open_month(start, end)
            before = time.monotonic()

            def report(now: Counts, before: float = before, earlier: float = taking) -> None:
                spent = earlier + time.monotonic() - before
                done = now.accepted + now.duplicates
                rate = f"{done / spent:,.0f}" if spent > 0 else ""
                progress.update(task, completed=done, rate=rate)

            await show.send(
                in_month(usage.events(), start=start, end=end), counts=counts, report=report
            )
            closing = time.monotonic()
            await show.advance(end)
            taking, billing = taking + closing - before, billing + time.monotonic() - closing
    months = len(usage.months())
    out.print(
        f"{counts.accepted:,} new events, {counts.duplicates:,} duplicates, "
        f"{counts.rejected:,} rejected; {usage.count / taking:,.0f} a second."
    )
    out.print(
        f"{months} month{'' if months == 1 else 's'} closed in {billing:.1f} s: "
        f"{show.documents:,} documents posted."
    )
    again = Counts()
    await show.send(islice(usage.events(), 1000), counts=again, report=lambda _: None)
    out.print(
        f"The first {again.accepted + again.duplicates:,} sent once more: "
        f"{again.accepted} new, {again.duplicates:,} duplicates."
    )


def _tell_kept(
    *,
    before: Sequence[Mapping[str, Any]] | None,
    invoices: Sequence[Mapping[str, Any]],
    out: "Console",
) -> bool:
    """Whether every invoice of an earlier run is as it was."""
    if before is None:
        return True
    now = {entry["id"]: entry for entry in invoices}
    changed = sum(now.get(entry["id"]) != entry for entry in before)
    if changed:
        out.print(f"{changed:,} invoices are not as they were before.", style="red")
    elif len(before) == len(invoices):
        out.print(f"The same {len(invoices):,} invoices as before.")
    else:
        out.print(f"The {len(before):,} invoices from before are the same.")
    return not changed


def _show_invoices(invoices: Sequence[Mapping[str, Any]], *, out: "Console") -> None:
    from rich.table import Table

    table = Table("number", "customer", "issued", "lines", box=None, pad_edge=False)
    for name in ("total", "amount due"):
        table.add_column(name, justify="right")
    shown = list(invoices)[-SHOWN:]
    for entry in shown:
        table.add_row(
            entry["number"],
            entry["customer"],
            entry["issued_at"][:10],
            str(len(entry["lines"])),
            f"{entry['total']} {entry['currency']}",
            f"{entry['amount_due']} {entry['currency']}",
        )
    out.print(f"\n{len(invoices):,} invoices, the last {len(shown)}:")
    out.print(table)
    total = sum((Decimal(entry["total"]) for entry in invoices), Decimal(0))
    out.print(f"Together {total:,} USD.\n")


def _compare(*, usage: "Usage", invoices: Sequence[Mapping[str, Any]], out: "Console") -> bool:
    from api.run_demo import billed_quantities

    billed = billed_quantities(invoices=invoices, values=usage.values)
    for value in usage.values:
        equal = billed[value] == usage.totals[value]
        sign = "=" if equal else "≠"
        on_invoices, in_events = billed[value].normalize(), usage.totals[value].normalize()
        out.print(
            f"{value}: {on_invoices:,f} on invoices {sign} {in_events:,f} in the events"
            + (", exactly." if equal else ".")
        )
    return billed == usage.totals


def _show_accounts(accounts: Sequence[Mapping[str, Any]], *, out: "Console") -> None:
    held = [
        f"{entry['code']} {amount} {currency} ({entry['normal_side']})"
        for entry in accounts
        for currency, amount in entry["balances"].items()
        if Decimal(amount)
    ]
    out.print(f"Journal: {', '.join(held)}.", soft_wrap=True)


async def _keep_pdf(
    show: "Demo", *, invoices: Sequence[Mapping[str, Any]], home: Path, out: "Console"
) -> None:
    last = invoices[-1]
    path = home / f"{last['number']}.pdf"
    path.write_bytes(await show.pdf(last["id"]))
    out.print(f"Invoice {last['number']} as it is sent: {path}", soft_wrap=True)


async def _audit(*, running: "Runtime", out: "Console") -> bool:
    from api.cli_audit import audit_all, told

    done = await audit_all(running=running)
    out.print(f"Audit: {told(done)}")
    for entry in done.broken[:10]:
        out.print(f"  {entry.check}: {entry.object}: {entry.detail}", style="red", soft_wrap=True)
    return not done.broken


def _what_next(*, running: "Runtime", key: str, line: str, out: "Console") -> None:
    usance = sys.argv[0] if Path(sys.argv[0]).name == "usance" else "usance"
    for entry in (
        "\nNow try:",
        f"  export USANCE_HOME={running.settings.home} KEY={key}",
        f"  {usance} audit",
        f"  {usance} serve &    # documentation at http://127.0.0.1:8400/docs",
        '  ask() { curl -sS -H "Authorization: Bearer $KEY" "http://127.0.0.1:8400$1"; }',
        "  ask /v1/invoices",
        f"  ask /v1/invoices/lines/{line}/explain    # why it is this amount",
        f"  {usance} check tests/scenarios    # the rules, as a bookkeeper would read them",
    ):
        out.print(entry, soft_wrap=True, highlight=False)
