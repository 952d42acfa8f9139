"""The report of a billing run at the terminal: tables, or every customer as CSV."""

import csv
from collections.abc import Sequence
from typing import TextIO

import msgspec
from rich.table import Table
from rich.text import Text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.cli_start import console
from invoicing.report_rows_store import report_page
from invoicing.run_report import Remark, ReportRow, RunReport

PAGE = 1_000
TITLES = {
    Remark.NEW: "new",
    Remark.GONE: "gone: billed before, not any more",
    Remark.TEN_TIMES_MEAN: "ten times their mean or more",
    Remark.ZERO_INVOICE: "with an invoice of zero",
    Remark.CHANGED: "changed since it was approved",
}


async def write_report(*, connection: AsyncConnection, run: str, file: TextIO) -> None:
    """Every customer of a report as CSV, page by page."""
    written = csv.writer(file, lineterminator="\n")
    written.writerow(ReportRow.__struct_fields__)
    after: str | None = None
    while True:
        page = await report_page(connection=connection, run=run, limit=PAGE, after=after)
        for _, row in page:
            written.writerow([_cell(value) for value in msgspec.structs.astuple(row)])
        after = page[-1][0] if page else None
        if len(page) < PAGE:
            file.flush()
            return


def _cell(value: object) -> object:
    if isinstance(value, tuple):
        return " ".join(value)
    return "" if value is None else value


def show_report(told: RunReport) -> None:
    """Print totals, the biggest changes and what to look at."""
    out = console()
    out.print(f"The run {told.run} as of {told.as_of:%Y-%m-%d %H:%M} is {_words(told.status)}.")
    if not told.totals:
        out.print("There is no report of it.")
        return
    table = Table("currency", box=None, pad_edge=False)
    names = ("customers", "invoices", "credit notes", "lines", "invoiced", "credited", "tax", "net")
    for name in (*names, "before"):
        table.add_column(name, justify="right")
    for total in told.totals:
        counts = (total.customers, total.invoices, total.credit_notes, total.lines)
        sums = (total.invoiced, total.credited, total.tax, total.net, total.previous)
        table.add_row(total.currency, *(f"{count:,}" for count in counts), *sums)
    out.print(table)
    _show_rows("Biggest changes", told.biggest_changes)
    for found in told.remarks:
        if found.customers:
            _show_rows(f"{found.customers:,} customers {TITLES[found.remark]}", found.first)
    for account in told.parked:
        line = f"parked  {account.customer}: {account.code}: {account.detail}"
        out.print(Text(line, style="red"), soft_wrap=True)


def _words(status: str) -> str:
    return status.replace("_", " ")


def _show_rows(title: str, rows: Sequence[ReportRow]) -> None:
    if not rows:
        return
    out = console()
    out.print(f"\n{title}")
    table = Table("customer", box=None, pad_edge=False)
    for name in ("net", "before", "difference", "mean", "approved"):
        table.add_column(name, justify="right")
    for row in rows:
        sums = (row.net, row.previous, row.difference, row.mean, row.approved or "")
        told = [f"{amount} {row.currency}" if amount else "" for amount in sums]
        table.add_row(Text(row.customer), *told)
    out.print(table)
