"""SQL of write-offs: what the lines of an invoice are, and what is left of its losses."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.delivered import Delivery, RevenueMethod
from engine.journal import PREPAID_CREDITS
from invoicing.losses import BilledPart, Loss
from plans.prices import Kind

# What a write-off took and what came back since has not undone.
_LOSSES: Final = text("""
SELECT p.document, p.account, p.contract, p.line, sum(p.amount_minor)::bigint AS amount_minor
FROM unnest(CAST(:invoices AS text[])) AS i (id) CROSS JOIN LATERAL postings_of(i.id) p
  JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
WHERE p.account IN ('credit_loss', 'contract_balance') AND e.kind NOT IN ('issued', 'voided')
GROUP BY p.document, p.account, p.contract, p.line HAVING sum(p.amount_minor) <> 0
ORDER BY p.document, p.account, p.contract, p.line
""")
_FACTS: Final = """o.contract, o.account, b.body ->> 'kind' AS kind,
  x.amount_minor - x.discount_minor - x.promotional_minor - x.tax_included_minor AS net_minor,
  x.tax_minor"""
_BOOKED: Final = """FROM line_items l
  JOIN journal_entries e ON e.seller = l.seller AND e.source = l.document AND e.kind = 'issued'
  JOIN postings o ON o.seller = e.seller AND o.entry = e.id AND o.line = l.id
  JOIN invoices i ON i.seller = l.seller AND i.id = l.document
  LEFT JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  LEFT JOIN prices b ON b.seller = v.seller AND b.id = v.price"""
_PARTS: Final = text(f"""
SELECT l.id AS line, l.ordinal, 0 AS place, {_FACTS}, l.revenue ->> 'method' AS method,
  CAST(l.revenue ->> 'days' AS integer) AS days,
  coalesce(l.period_start_at, i.issued_at) AS begins_at, l.period_end_at AS ends_at
{_BOOKED} JOIN line_items x ON x.seller = l.seller AND x.id = l.id
WHERE l.seller = current_seller() AND l.document = :invoice
UNION ALL
SELECT l.id, l.ordinal, row_number() OVER (ORDER BY x.document, x.ordinal), {_FACTS},
  l.revenue ->> 'method', CAST(l.revenue ->> 'days' AS integer),
  coalesce(x.period_start_at, l.period_start_at, i.issued_at),
  coalesce(x.period_end_at, l.period_end_at)
{_BOOKED} JOIN line_items x ON x.seller = l.seller AND x.adjusts = l.id
  JOIN credit_notes n ON n.seller = x.seller AND n.id = x.document AND n.status <> 'void'
WHERE l.seller = current_seller() AND l.document = :invoice
ORDER BY ordinal, place
""")
_WRITE_OFF: Final = text("""
UPDATE invoices SET status = 'uncollectible', written_off_at = :now, version = version + 1
WHERE seller = current_seller() AND id = :invoice
""")
_METHODS: Final = {
    Kind.RECURRING: RevenueMethod.RATABLE_DAILY,
    Kind.USAGE: RevenueMethod.USAGE,
    Kind.ONE_TIME: RevenueMethod.POINT_IN_TIME,
    Kind.COMMITMENT: RevenueMethod.USAGE,  # billed when its time is over
    None: RevenueMethod.POINT_IN_TIME,
}


async def losses_left(
    *, connection: AsyncConnection, invoices: Sequence[str]
) -> dict[str, tuple[Loss, ...]]:
    """What of each invoice's write-off nothing undid yet; invoices without are left out."""
    if not invoices:
        return {}
    found: dict[str, list[Loss]] = {}
    rows = await connection.execute(_LOSSES, {"invoices": list(invoices)})
    for row in rows.mappings():
        found.setdefault(row["document"], []).append(msgspec.convert(dict(row), Loss))
    return {invoice: tuple(losses) for invoice, losses in found.items()}


async def billed_parts(*, connection: AsyncConnection, invoice: str) -> list[BilledPart] | None:
    """The invoice's lines, each followed by what credit notes gave back of it.

    None where the invoice sold credit: what is earned of that is known by its grant only.
    """
    rows = (await connection.execute(_PARTS, {"invoice": invoice})).mappings().all()
    if any(row["account"] == PREPAID_CREDITS for row in rows):
        return None
    return [_part(row) for row in rows]


def _part(row: Any) -> BilledPart:
    kind = None if row["kind"] is None else Kind(row["kind"])
    method = _METHODS[kind] if row["method"] is None else RevenueMethod(row["method"])
    return BilledPart(
        line=row["line"],
        contract=row["contract"],
        net_minor=row["net_minor"],
        tax_minor=row["tax_minor"],
        is_credit=row["place"] > 0,
        delivery=Delivery(
            method=method,
            begins_at=row["begins_at"],
            ends_at=row["ends_at"],
            days=row["days"],
        ),
    )


async def mark_written_off(*, connection: AsyncConnection, invoice: str, now: datetime) -> None:
    """The invoice is uncollectible; what is due of it stays due."""
    await connection.execute(_WRITE_OFF, {"invoice": invoice, "now": now})
