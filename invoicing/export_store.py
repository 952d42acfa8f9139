"""SQL that reads whole tables for an export, a thousand rows at a time."""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.export_table import Bounds, ExportKind

ROWS_AT_ONCE: Final = 1_000
_WITHIN: Final = """(CAST(:start_at AS timestamptz) IS NULL OR {at} >= :start_at)
  AND (CAST(:end_at AS timestamptz) IS NULL OR {at} < :end_at)"""
_ISSUED: Final = _WITHIN.format(at="d.issued_at")
_SUMS: Final = """d.subtotal_minor AS subtotal, d.discount_minor AS discount,
  d.promotional_minor AS promotional_applied, d.tax_minor AS tax, d.total_minor AS total"""
_HEAD: Final = """d.id, d.number, c.key AS customer, t.body ->> 'name' AS customer_name,
  d.currency, d.status, d.issued_at, d.po_number, d.voided_at"""
_OF_DOCUMENT: Final = """JOIN customers c ON c.seller = d.seller AND c.id = d.customer
  JOIN parties t ON t.seller = d.seller AND t.id = d.billed_to
WHERE d.seller = current_seller()"""
_INVOICES: Final = text(f"""
SELECT {_HEAD}, d.due_at, d.invoice_group, {_SUMS},
  d.prepaid_applied_minor AS prepaid_applied, d.balance_applied_minor AS balance_applied,
  d.balance_returned_minor AS balance_returned, d.amount_due_minor AS amount_due
FROM invoices d {_OF_DOCUMENT} AND {_ISSUED}
ORDER BY d.issued_at, d.series, d.sequence
""")
_CREDIT_NOTES: Final = text(f"""
SELECT {_HEAD}, d.reason, d.invoice,
  (SELECT number FROM invoices WHERE seller = d.seller AND id = d.invoice) AS invoice_number,
  {_SUMS}, d.applied_minor AS applied, d.credited_minor AS credited,
  d.refunded_minor AS refunded
FROM credit_notes d {_OF_DOCUMENT} AND {_ISSUED}
ORDER BY d.issued_at, d.series, d.sequence
""")
_LINE: Final = """d.number, d.issued_at, d.status, d.currency, b.key AS billed_to, l.id,
  l.ordinal, l.price_key AS price, l.name, s.key AS subscription,
  coalesce(c.key, b.key) AS customer, l.contract, l.period_start_at, l.period_end_at,
  trim_scale(l.quantity)::text AS quantity, l.reason, l.charge_group AS group, l.adjusts"""
_OF_LINE: Final = f"""JOIN line_items l ON l.seller = d.seller AND l.document = d.id
  JOIN customers b ON b.seller = d.seller AND b.id = d.customer
  LEFT JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  LEFT JOIN customers c ON c.seller = l.seller AND c.id = coalesce(s.customer, l.customer)
WHERE d.seller = current_seller() AND {_ISSUED}
ORDER BY d.issued_at, d.series, d.sequence, l.ordinal"""
_INVOICE_LINES: Final = text(f"""
SELECT d.id AS invoice, {_LINE}, l.amount_minor AS amount,
  l.discount_minor AS discount, l.promotional_minor AS promotional_applied, l.tax_minor AS tax,
  l.tax_included_minor AS tax_included
FROM invoices d {_OF_LINE}
""")
# A line that gives back is below zero; on a credit note, as the API has it, it is what is credited.
_CREDIT_NOTE_LINES: Final = text(f"""
SELECT d.id AS credit_note, {_LINE}, -l.amount_minor AS amount, -l.discount_minor AS discount,
  -l.promotional_minor AS promotional_applied, -l.tax_minor AS tax,
  -l.tax_included_minor AS tax_included
FROM credit_notes d {_OF_LINE}
""")
_JOURNAL: Final = text("""
SELECT e.id AS entry, e.entry_on AS date, e.accounting_month AS month, e.kind, e.source,
  coalesce(si.number, sn.number, e.source) AS source_number, p.ordinal, p.account, p.dimension,
  c.key AS customer, p.contract, p.document, coalesce(i.number, n.number) AS document_number,
  p.line, p.currency,
  CASE WHEN p.amount_minor >= 0 THEN p.amount_minor END AS debit,
  CASE WHEN p.amount_minor < 0 THEN -p.amount_minor END AS credit
FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
  LEFT JOIN customers c ON c.seller = p.seller AND c.id = p.customer
  LEFT JOIN invoices si ON si.seller = e.seller AND si.id = e.source
  LEFT JOIN credit_notes sn ON sn.seller = e.seller AND sn.id = e.source
  LEFT JOIN invoices i ON i.seller = p.seller AND i.id = p.document
  LEFT JOIN credit_notes n ON n.seller = p.seller AND n.id = p.document
WHERE e.seller = current_seller()
  AND (CAST(:start_on AS date) IS NULL OR e.entry_on >= :start_on)
  AND (CAST(:end_on AS date) IS NULL OR e.entry_on < :end_on)
ORDER BY e.id, p.ordinal
""")
_CUSTOMERS: Final = text(f"""
SELECT c.id, c.key, c.name, c.emails, c.currency, c.timezone, c.country, c.address, c.tax_ids,
  c.tax_rates, c.tax_exempt, c.net_terms_days, c.po_number, p.key AS parent, c.invoice_group,
  c.created_at
FROM customers c LEFT JOIN customers p ON p.seller = c.seller AND p.id = c.parent
WHERE c.seller = current_seller() AND {_WITHIN.format(at="c.created_at")}
ORDER BY c.number
""")
_TABLES: Final[Mapping[ExportKind, TextClause]] = MappingProxyType(
    {
        ExportKind.INVOICES: _INVOICES,
        ExportKind.INVOICE_LINES: _INVOICE_LINES,
        ExportKind.CREDIT_NOTES: _CREDIT_NOTES,
        ExportKind.CREDIT_NOTE_LINES: _CREDIT_NOTE_LINES,
        ExportKind.JOURNAL: _JOURNAL,
        ExportKind.CUSTOMERS: _CUSTOMERS,
    }
)


async def stream_table(
    *, connection: AsyncConnection, kind: ExportKind, bounds: Bounds
) -> AsyncIterator[Sequence[RowMapping]]:
    """The rows of a table within the bounds, by a cursor; columns as the export names them."""
    wanted: dict[str, Any] = msgspec.structs.asdict(bounds)
    names = _TABLES[kind].compile().params
    result = await connection.stream(
        _TABLES[kind],
        {name: value for name, value in wanted.items() if name in names},
        execution_options={"yield_per": ROWS_AT_ONCE},
    )
    async for rows in result.mappings().partitions():
        yield rows
