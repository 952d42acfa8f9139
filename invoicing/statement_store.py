"""SQL of statements of account: what the journal moved for one customer, and what is open."""

from datetime import date, datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.statements import Asked, Moved, OpenItem, Sums

_ACCOUNTS: Final = "('accounts_receivable', 'customer_balance', 'unapplied_cash')"
# What invoices' own entries post is found by the invoices, the rest by the partial index on
# customers, whose condition this is. OFFSET 0: an expression of a column is no index condition
# behind row-level security.
OF_CUSTOMER: Final = f"""FROM (
  SELECT p.* FROM (
    SELECT i.id, 'je_' || substr(i.id, 5) AS entry FROM invoices i
    WHERE i.seller = current_seller() AND i.customer = :customer OFFSET 0
  ) own JOIN postings p ON p.entry = own.entry AND p.document = own.id
  WHERE p.seller = current_seller() AND p.customer = :customer AND p.account IN {_ACCOUNTS}
  UNION ALL
  SELECT p.* FROM postings p
  WHERE p.seller = current_seller() AND p.customer = :customer AND p.account IN {_ACCOUNTS}
    AND (p.entry <> 'je_' || substr(p.document, 5) OR p.document NOT LIKE 'inv\\_%')
) p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry
WHERE (CAST(:currency AS text) IS NULL OR p.currency = :currency)"""
_FIRST: Final = text(f"SELECT min(e.entry_on) {OF_CUSTOMER}")
_SUMS: Final = text(f"""
SELECT p.currency, p.account,
  coalesce(sum(p.amount_minor) FILTER (WHERE e.entry_on < :start_on), 0)::bigint AS opening_minor,
  sum(p.amount_minor)::bigint AS closing_minor
{OF_CUSTOMER} AND e.entry_on < :end_on
GROUP BY p.currency, p.account ORDER BY p.currency, p.account
""")
_MOVED: Final = text(f"""
SELECT m.entry, m.kind, m.source, m.entry_on, m.posted_at, m.currency, m.amount_minor,
  coalesce(i.number, n.number, y.reference) AS number,
  coalesce((SELECT array_agg(d.number ORDER BY d.number) FROM invoices d
    WHERE d.seller = current_seller() AND d.id = ANY(m.documents) AND d.id <> m.source), '{{}}')
    AS documents
FROM (
  SELECT e.id AS entry, e.kind, e.source, e.entry_on, e.posted_at, p.currency,
    sum(p.amount_minor)::bigint AS amount_minor, array_agg(DISTINCT p.document) AS documents
  {OF_CUSTOMER} AND p.account = 'accounts_receivable'
    AND e.entry_on >= :start_on AND e.entry_on < :end_on
  GROUP BY e.id, e.kind, e.source, e.entry_on, e.posted_at, p.currency
  ORDER BY e.entry_on, e.posted_at, sum(p.amount_minor) DESC, e.id LIMIT :limit
) m LEFT JOIN invoices i ON i.seller = current_seller() AND i.id = m.source
  LEFT JOIN credit_notes n ON n.seller = current_seller() AND n.id = m.source
  LEFT JOIN payments y ON y.seller = current_seller() AND y.id = m.source
ORDER BY m.entry_on, m.posted_at, m.amount_minor DESC, m.entry
""")
# What the journal moved of each invoice's receivable by the end, less what credit notes took off,
# whose entries name the note. So a past day stays as it was, whatever became of the invoice.
_OPEN: Final = text(f"""
SELECT i.currency, (i.due_at AT TIME ZONE CAST(:timezone AS text))::date AS due_on,
  m.amount_minor - coalesce(s.amount_minor, 0) AS open_minor
FROM (
  SELECT p.document, sum(p.amount_minor)::bigint AS amount_minor
  {OF_CUSTOMER} AND p.account = 'accounts_receivable' AND e.entry_on < :end_on
  GROUP BY p.document
) m JOIN invoices i ON i.seller = current_seller() AND i.id = m.document LEFT JOIN LATERAL (
  SELECT sum(t.amount_minor)::bigint AS amount_minor FROM settlements t
  WHERE t.seller = i.seller AND t.invoice = i.id AND t.kind = 'credit_note'
    AND t.settled_at < :end_at) s ON true
WHERE m.amount_minor <> coalesce(s.amount_minor, 0)
""")


# Invoices that may still be cancelled are no receivables yet.
_HELD: Final = text("""
SELECT i.currency, sum(i.total_minor)::bigint AS amount_minor FROM held_entries h
  JOIN invoices i ON i.seller = h.seller AND i.id = h.invoice
WHERE h.seller = current_seller() AND i.customer = :customer AND i.issued_at < :end_at
  AND (h.ended_at IS NULL OR h.ended_at >= :end_at)
  AND (CAST(:currency AS text) IS NULL OR i.currency = :currency)
GROUP BY i.currency
""")


async def first_entry_on(
    *, connection: AsyncConnection, customer: str, currency: str | None
) -> date | None:
    """The day of the first entry that touched the customer's account."""
    of = {"customer": customer, "currency": currency}
    return (await connection.execute(_FIRST, of)).scalar_one()


async def account_sums(*, connection: AsyncConnection, asked: Asked) -> list[Sums]:
    """By currency and account: what it came to before the first day, and before the last."""
    rows = await connection.execute(_SUMS, msgspec.structs.asdict(asked))
    return [msgspec.convert(dict(row), Sums) for row in rows.mappings()]


async def account_moves(*, connection: AsyncConnection, asked: Asked, limit: int) -> list[Moved]:
    """The first `limit` entries that moved the customer's receivables, in the order of days."""
    rows = await connection.execute(_MOVED, {**msgspec.structs.asdict(asked), "limit": limit})
    return [msgspec.convert(dict(row), Moved) for row in rows.mappings()]


async def open_items(
    *,
    connection: AsyncConnection,
    asked: Asked,
    end_at: datetime,
    timezone: str,
) -> list[OpenItem]:
    """What was open of each invoice at an instant, with the local day on which it is due."""
    wanted = msgspec.structs.asdict(asked) | {"end_at": end_at, "timezone": timezone}
    rows = await connection.execute(_OPEN, wanted)
    return [msgspec.convert(dict(row), OpenItem) for row in rows.mappings()]


async def held_sums(
    *, connection: AsyncConnection, asked: Asked, end_at: datetime
) -> dict[str, int]:
    """What could still be cancelled at an instant of what was invoiced, by currency."""
    of = {"customer": asked.customer, "currency": asked.currency, "end_at": end_at}
    rows = await connection.execute(_HELD, of)
    return {row.currency: row.amount_minor for row in rows}
