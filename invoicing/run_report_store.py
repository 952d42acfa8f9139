"""SQL for telling what one billing run posted."""

from typing import Final, Literal

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount

_POSTED: Final = text("""
SELECT 'invoice' AS kind, i.series, i.sequence, i.number, c.key AS customer, c.name, i.currency,
  i.total_minor, i.amount_due_minor
FROM invoices i JOIN customers c ON (c.seller, c.id) = (i.seller, i.customer)
WHERE i.seller = current_seller() AND i.run = :run
UNION ALL
SELECT 'credit note', n.series, n.sequence, n.number, c.key, c.name, n.currency,
  n.total_minor, 0
FROM credit_notes n JOIN customers c ON (c.seller, c.id) = (n.seller, n.customer)
WHERE n.seller = current_seller() AND n.run = :run
ORDER BY 1 DESC, 2, 3 LIMIT :limit
""")


class PostedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document in one row; `total` and `amount_due` in major units."""

    kind: Literal["invoice", "credit note"]
    number: str
    customer: str
    name: str
    currency: str
    total: str
    amount_due: str


async def list_posted(*, connection: AsyncConnection, run: str, limit: int) -> list[PostedDocument]:
    """Up to `limit` documents of a run, invoices first, in the order of their numbers."""
    rows = await connection.execute(_POSTED, {"run": run, "limit": limit})
    return [
        PostedDocument(
            kind=row.kind,
            number=row.number,
            customer=row.customer,
            name=row.name,
            currency=row.currency,
            total=format_amount(row.total_minor, currency=row.currency),
            amount_due=format_amount(row.amount_due_minor, currency=row.currency),
        )
        for row in rows
    ]
