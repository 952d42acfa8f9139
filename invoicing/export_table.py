"""What an export holds: its columns, how a cell is written, and what a formula is made of."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from engine.money import format_amount


class ExportKind(StrEnum):
    """The tables that can be had as CSV."""

    INVOICES = "invoices"
    INVOICE_LINES = "invoice_lines"
    CREDIT_NOTES = "credit_notes"
    CREDIT_NOTE_LINES = "credit_note_lines"
    JOURNAL = "journal"
    CUSTOMERS = "customers"


class Cell(StrEnum):
    """How the value of a column becomes text.

    `text` is what people wrote, and the only one that is kept from being a formula; `amount` is
    minor units of the row's currency; `plain` is written as it stands: numbers, codes, our ids.
    """

    TEXT = "text"
    PLAIN = "plain"
    AMOUNT = "amount"
    INSTANT = "instant"
    DATE = "date"
    MONTH = "month"


# A spreadsheet takes a cell that begins with one of these for a formula, the full-width forms
# too. Apostrophes before them count as well, so that taking one away gives back what was there.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
# Where a spreadsheet cuts at semicolons, as most of Europe's do, or at tabs, a cell begins after
# each; and as no quote begins such a cell, a line break ends the row.
_FORMULA_INSIDE: Final = re.compile(r"(?<=[;\t\r\n])(?='*[=+\-@＝＋－＠])")


def _columns(**groups: str) -> Mapping[str, Cell]:
    """{column: how it is written} of `name:kind` words; a word without a kind is plain."""
    found: dict[str, Cell] = {}
    for word in " ".join(groups.values()).split():
        name, _, kind = word.partition(":")
        found[name] = Cell(kind or "plain")
    return MappingProxyType(found)


_LINE: Final = """id ordinal price:text name:text subscription:text customer:text contract:text
period_start_at:instant period_end_at:instant quantity currency
amount:amount discount:amount promotional_applied:amount tax:amount
tax_included:amount reason group:text adjusts"""
_SUMS: Final = "subtotal:amount discount:amount promotional_applied:amount tax:amount total:amount"
COLUMNS: Final[Mapping[ExportKind, Mapping[str, Cell]]] = MappingProxyType(
    {
        ExportKind.INVOICES: _columns(
            document="id number:text customer:text customer_name:text currency status",
            times="issued_at:instant due_at:instant invoice_group:text",
            sums=_SUMS,
            paid="prepaid_applied:amount balance_applied:amount balance_returned:amount",
            more="amount_due:amount po_number:text voided_at:instant",
        ),
        ExportKind.INVOICE_LINES: _columns(
            document="invoice number:text issued_at:instant status billed_to:text",
            line=_LINE,
        ),
        ExportKind.CREDIT_NOTES: _columns(
            document="id number:text customer:text customer_name:text currency status",
            times="reason:text issued_at:instant invoice invoice_number:text",
            sums=_SUMS,
            paid="applied:amount credited:amount refunded:amount",
            more="po_number:text voided_at:instant",
        ),
        ExportKind.CREDIT_NOTE_LINES: _columns(
            document="credit_note number:text issued_at:instant status billed_to:text",
            line=_LINE,
        ),
        ExportKind.JOURNAL: _columns(
            entry="entry date:date month:month kind source source_number:text ordinal",
            posting="account dimension:text customer:text contract:text document",
            more="document_number:text line currency debit:amount credit:amount",
        ),
        ExportKind.CUSTOMERS: _columns(
            customer="id key:text name:text emails:text currency timezone country address:text",
            tax="tax_ids:text tax_rates:text tax_exempt net_terms_days po_number:text",
            more="parent:text invoice_group:text created_at:instant",
        ),
    }
)


def guard_formula(value: str) -> str:
    """The text with an apostrophe before what a spreadsheet would calculate with."""
    value = _FORMULA_INSIDE.sub("'", value)
    return f"'{value}" if _FORMULA.match(value) else value


def format_instant(at: datetime) -> str:
    """RFC 3339 in UTC."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def format_cell(value: Any, *, cell: Cell, currency: str) -> str:
    """One value as its column is written; None is an empty cell."""
    if value is None:
        return ""
    match cell:
        case Cell.TEXT:
            return guard_formula(value if isinstance(value, str) else _compact(value))
        case Cell.AMOUNT:
            return format_amount(int(value), currency=currency)
        case Cell.INSTANT:
            return format_instant(value)
        case Cell.MONTH:
            return f"{value:%Y-%m}"
        case Cell.PLAIN | Cell.DATE:
            return str(value)


def _compact(value: Any) -> str:
    """A list or an object as it is stored, in one cell."""
    return msgspec.json.encode(value).decode()


def format_row(row: Mapping[str, Any], *, columns: Mapping[str, Cell]) -> list[str]:
    """The cells of a row that has every column by name; amounts in the row's `currency`."""
    currency = row.get("currency") or ""
    return [format_cell(row[name], cell=cell, currency=currency) for name, cell in columns.items()]


def write_csv(rows: Sequence[Sequence[str]]) -> bytes:
    """Rows of cells by RFC 4180, in UTF-8."""
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\r\n").writerows(rows)
    return written.getvalue().encode()


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """[start, end) as instants, and as the days that begin in it; None where there is no bound."""

    start_at: datetime | None
    end_at: datetime | None
    start_on: date | None
    end_on: date | None
