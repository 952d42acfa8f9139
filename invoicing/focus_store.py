"""SQL that reads the lines of a stretch of documents as FOCUS wants them told."""

from collections.abc import AsyncIterator
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.export_table import Bounds
from invoicing.focus import FocusLine

_ROWS_AT_ONCE: Final = 1_000
_DOCUMENT: Final = """SELECT seller, id, number, customer, currency, issued_at, billed_from,
    billed_to FROM {table}
  WHERE seller = current_seller() AND status <> 'void'
    AND (CAST(:start_at AS timestamptz) IS NULL OR issued_at >= :start_at)
    AND (CAST(:end_at AS timestamptz) IS NULL OR issued_at < :end_at)
    AND (CAST(:customer AS text) IS NULL OR customer = :customer)"""
_LINES: Final = text(f"""
SELECT l.id AS line, d.number, d.issued_at, d.currency, f.body ->> 'name' AS issuer,
  b.key AS account, t.body ->> 'name' AS account_name, c.key AS sub_account,
  c.name AS sub_account_name, n.key AS plan, l.price_key AS price,
  coalesce(l.name, r.body ->> 'name') AS name, r.body ->> 'kind' AS kind,
  r.body ->> 'meter' AS unit, l.charge_group, l.period_start_at, l.period_end_at,
  trim_scale(l.quantity)::text AS quantity, l.adjusts IS NOT NULL AS is_correction,
  l.amount_minor, l.discount_minor, l.promotional_minor, l.tax_minor, l.tax_included_minor
FROM ({_DOCUMENT.format(table="invoices")}
  UNION ALL {_DOCUMENT.format(table="credit_notes")}) d
  JOIN line_items l ON l.seller = d.seller AND l.document = d.id
  JOIN customers b ON b.seller = d.seller AND b.id = d.customer
  JOIN parties f ON f.seller = d.seller AND f.id = d.billed_from
  JOIN parties t ON t.seller = d.seller AND t.id = d.billed_to
  LEFT JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  LEFT JOIN customers c ON c.seller = l.seller AND c.id = coalesce(s.customer, l.customer)
  LEFT JOIN line_items a ON a.seller = l.seller AND a.id = l.adjusts
    AND l.price_interval IS NULL -- by hand: it is of the price whose line it credits
  LEFT JOIN price_intervals v ON v.seller = l.seller
    AND v.id = coalesce(l.price_interval, a.price_interval)
  LEFT JOIN prices r ON r.seller = v.seller AND r.id = v.price
  LEFT JOIN plans n ON n.seller = r.seller AND n.id = r.plan
ORDER BY d.issued_at, d.id, l.ordinal
""")
_CUSTOMER: Final = text("""
SELECT id FROM customers
WHERE seller = current_seller() AND (key = :customer OR id = :customer)
""")


async def find_account(*, connection: AsyncConnection, customer: str) -> str | None:
    """The id of the customer with that key or id."""
    row = (await connection.execute(_CUSTOMER, {"customer": customer})).first()
    return None if row is None else row.id


async def stream_focus_lines(
    *, connection: AsyncConnection, customer: str | None, bounds: Bounds
) -> AsyncIterator[list[FocusLine]]:
    """Lines of the invoices and credit notes that stand, by a cursor, in the order of issue."""
    result = await connection.stream(
        _LINES,
        {"customer": customer, "start_at": bounds.start_at, "end_at": bounds.end_at},
        execution_options={"yield_per": _ROWS_AT_ONCE},
    )
    async for rows in result.mappings().partitions():
        yield [msgspec.convert(dict(row), FocusLine) for row in rows]
