"""SQL that voids an issued invoice: its lock, the postings to mirror, the keys that it frees."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import Posting
from invoicing.numbers import named

_LOCK: Final = text("""
SELECT id, customer, currency, status, total_minor, amount_due_minor, po_number,
  written_off_at, version
FROM invoices
WHERE seller = current_seller()
  AND (id = :reference OR (series = :series AND sequence = :sequence))
ORDER BY id = :reference DESC LIMIT 1 FOR UPDATE
""")
_ISSUED: Final = text("""
SELECT p.account, p.dimension, p.customer, p.contract, p.document, p.line, p.amount_minor
FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
WHERE e.seller = current_seller() AND e.source = :invoice AND e.kind = 'issued'
ORDER BY p.ordinal
""")
_VOID: Final = text("""
UPDATE invoices SET status = 'void', amount_due_minor = 0, voided_at = :now, version = version + 1
WHERE seller = current_seller() AND id = :invoice
""")
# A microsecond earlier, so that a key without duration (a one-time price) is touched too.
_FREE: Final = text("""
UPDATE subscriptions s SET dirty_from_at = least(s.dirty_from_at, f.first_at)
FROM (
  SELECT subscription, min(charge_start_at) - interval '1 microsecond' AS first_at
  FROM line_items WHERE seller = current_seller() AND document = :invoice GROUP BY subscription
) f
WHERE s.seller = current_seller() AND s.id = f.subscription
""")


class IssuedInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice locked against every other change."""

    id: str
    customer: str
    currency: str
    status: str
    total_minor: int
    amount_due_minor: int
    po_number: str | None
    written_off_at: datetime | None
    version: int


async def lock_invoice(*, connection: AsyncConnection, reference: str) -> IssuedInvoice | None:
    """The invoice of that id or number, locked until the transaction ends."""
    row = (await connection.execute(_LOCK, named(reference=reference))).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), IssuedInvoice)


async def issued_postings(*, connection: AsyncConnection, invoice: str) -> list[Posting]:
    """What the entry of the invoice's issue moved, in order."""
    rows = (await connection.execute(_ISSUED, {"invoice": invoice})).mappings()
    return [msgspec.convert(dict(row), Posting) for row in rows]


async def mark_void(*, connection: AsyncConnection, invoice: str, now: datetime) -> None:
    """Void the invoice: nothing is due of it, and its lines count no longer.

    The subscriptions that it charged are derived again from the first charge it held.
    """
    await connection.execute(_FREE, {"invoice": invoice})
    await connection.execute(_VOID, {"invoice": invoice, "now": now})
