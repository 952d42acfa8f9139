"""`usance backtest`: another price list over past usage, as a table, a CSV file and a picture."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import rich_click as click

from api.cli_export import target_of
from api.cli_start import FAILED, console, refuse, run_async, started

if TYPE_CHECKING:
    from api.runtime import Runtime
    from invoicing.simulation import CurrencyEffect, CustomerDifference, Simulation, SimulationDraft

SHOWN = 5
"""Customers named for paying less, and for paying more."""


@click.command()
@click.argument("prices", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--from", "start", metavar="DAY", help="The first day, or an RFC 3339 instant.")
@click.option("--to", "end", metavar="DAY", help="The first day left out again; now else.")
@click.option("--customer", "customers", multiple=True, metavar="KEY", help="Only this one; again.")
@click.option("--replace-overrides", is_flag=True, help="Prices customers have of their own, too.")
@click.option("--csv", "table", metavar="FILE", help="A row for each customer; - for output.")
@click.option("--chart", metavar="FILE.svg", help="Totals and the spread of differences, drawn.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@click.option("--seller", "seller_id", default=None, help="sel_…; may be left out if there is one.")
def backtest(
    *,
    prices: Path,
    start: str | None,
    end: str | None,
    customers: tuple[str, ...],
    replace_overrides: bool,
    table: str | None,
    chart: str | None,
    as_json: bool,
    seller_id: str | None,
) -> None:
    """Try the price lists in the file PRICES (YAML or JSON) on past usage; nothing is posted.

    The file is the body of POST /v1/simulations, or its list of price lists; options come first.
    Exit code 1 when customers had to be left out.
    """
    body = _read(prices)
    told: dict[str, Any] = {"from": start, "to": end, "customers": list(customers) or None}
    body |= {name: value for name, value in told.items() if value is not None}
    if replace_overrides:
        body["replace_overrides"] = True
    draft = _draft(body)
    if table == "-" and as_json:
        refuse("standard output takes the CSV or the JSON, not both")
    with started() as running, ExitStack() as files:
        target = None if table is None else files.enter_context(target_of(table))
        drawn = None if chart is None else files.enter_context(target_of(chart))
        answer = run_async(lambda: _run(running, draft, target, seller_id=seller_id))
        if drawn is not None:
            from invoicing.backtest_chart import draw_chart

            drawn.write(draw_chart(answer).encode())
    if as_json:
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(answer)).decode())
    elif table != "-" and chart != "-":
        show(answer)
    if answer.not_simulated_count:
        sys.exit(FAILED)


def _read(path: Path) -> dict[str, Any]:
    from api.scenario_file import ScenarioError, load_exactly

    try:
        found: Any = load_exactly(text=path.read_text(encoding="utf-8"), path=path)
    except (ScenarioError, UnicodeDecodeError) as error:
        refuse(f"{path}: {error}")
    if isinstance(found, list):
        return {"price_lists": found}
    if not isinstance(found, dict):
        refuse(f"{path} holds no price lists")
    return cast("dict[str, Any]", found)


def _draft(body: dict[str, Any]) -> "SimulationDraft":
    import msgspec

    from api.bodies import decode_body
    from api.scenario_file import as_sent
    from invoicing.simulation import SimulationDraft

    if "from" not in body:
        refuse("say --from, or from in the file")
    sent = msgspec.json.encode(as_sent(body))
    return decode_body(sent, decoder=msgspec.json.Decoder(SimulationDraft), wanted=SimulationDraft)


async def _run(
    running: "Runtime", draft: "SimulationDraft", target: BinaryIO | None, *, seller_id: str | None
) -> "Simulation":
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from api.act_as import choose_seller
    from invoicing.backtest import open_backtest
    from invoicing.export_table import write_csv
    from invoicing.simulation import COLUMNS, csv_row

    now = datetime.now(UTC)
    database, reader = running.open(), running.open_for_audit()
    try:
        entry = await choose_seller(database=database, seller_id=seller_id)
        with Progress(
            TextColumn("backtest"),
            BarColumn(),
            TextColumn("{task.completed:,} customers, {task.fields[charges]:,} charges"),
            TimeElapsedColumn(),
            console=console(err=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        ) as progress:
            task = progress.add_task("backtest", total=None, charges=0)
            async with reader.transaction(seller=entry.seller, snapshot=True) as connection:
                opened = await open_backtest(
                    connection=connection,
                    seller=entry.seller,
                    draft=draft,
                    now=entry.clock_at or now,
                )
                if target is not None:
                    target.write(write_csv([list(COLUMNS)]))
                charges = 0
                async for effects in opened.effects():
                    charges += sum(effect.charges for effect in effects)
                    progress.update(task, advance=len(effects), charges=charges)
                    if target is not None:
                        target.write(write_csv([csv_row(effect) for effect in effects]))
                return opened.answer()
    finally:
        await reader.close()
        await database.close()


def show(answer: "Simulation") -> None:
    """Print the sums of each currency, and whom it means most to."""
    from rich.table import Table
    from rich.text import Text

    out = console()
    out.print(
        f"Billing periods that ended after {answer.start:%Y-%m-%d %H:%M} and by"
        f" {answer.end:%Y-%m-%d %H:%M} UTC, before coupons, credit and tax; nothing is posted."
    )
    if not answer.totals:
        out.print("No charges in this stretch.")
    for one in answer.totals:
        table = Table("", title=one.currency, title_justify="left", box=None, pad_edge=False)
        for name in ("present prices", "other prices", "difference"):
            table.add_column(name, justify="right")
        percent = "" if one.percent is None else f" ({one.percent} %)"
        table.add_row("total", one.present, one.simulated, one.difference + percent)
        for name, row in (
            ("a month on average", one.mrr),
            ("  recurring", one.recurring),
            ("  usage", one.usage),
        ):
            table.add_row(name, row.present, row.simulated, row.difference)
        out.print(table)
        waiting = f"; {one.waiting} of the present prices waits to be billed"
        out.print(
            f"{one.customers:,} customers with {one.charges:,} charges: {one.winners:,} pay less,"
            f" {one.losers:,} more, {one.unchanged:,} the same"
            f"{waiting if one.waiting.strip('0.') else ''}."
        )
        _show_customers("pay less", one, one.largest_decreases)
        _show_customers("pay more", one, one.largest_increases)
    for left_out in answer.not_simulated:
        told = f"left out  {left_out.customer}: {left_out.code}: {left_out.detail}"
        out.print(Text(told, style="red"), soft_wrap=True)
    if answer.not_simulated_count > len(answer.not_simulated):
        more = answer.not_simulated_count - len(answer.not_simulated)
        out.print(Text(f"… and {more:,} more left out", style="red"))


def _show_customers(
    words: str, one: "CurrencyEffect", customers: "Sequence[CustomerDifference]"
) -> None:
    from rich.table import Table
    from rich.text import Text

    if not customers:
        return
    table = Table(words, box=None, pad_edge=False)
    for name in ("present prices", "other prices", f"difference in {one.currency}"):
        table.add_column(name, justify="right")
    for each in customers[:SHOWN]:
        table.add_row(Text(each.customer), each.present, each.simulated, each.difference)
    console().print(table)
