"""SQL of what mails tell: documents that nobody has told of yet, and their facts."""

from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.mail_facts import MailFacts
from invoicing.numbers import named
from plans.mailing import EmailKind

PAYMENTS: Final = "payments"
_CUSTOMER: Final = "c.name, c.locale, c.emails, c.bounced_emails AS bounced"
_INVOICES: Final = f"""
SELECT d.id AS document, d.number, d.customer, {_CUSTOMER}, d.currency, d.total_minor,
  d.amount_due_minor AS due_minor, d.due_at, d.issued_at, d.po_number, d.status = 'void' AS is_void
FROM invoices d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
WHERE d.seller = current_seller()"""
_CREDIT_NOTES: Final = f"""
SELECT d.id AS document, d.number, d.customer, {_CUSTOMER}, d.currency, d.total_minor,
  d.issued_at, d.po_number, d.status = 'void' AS is_void
FROM credit_notes d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
WHERE d.seller = current_seller()"""
_PAYMENTS: Final = f"""
SELECT d.id AS document, d.id AS number, d.customer, {_CUSTOMER}, d.currency,
  d.amount_minor AS total_minor, d.received_at AS issued_at, d.reference,
  d.status <> 'succeeded' AS is_void,
  coalesce((SELECT jsonb_agg(DISTINCT i.number ORDER BY i.number) FROM settlements s
    JOIN invoices i ON i.seller = s.seller AND i.id = s.invoice
    WHERE s.seller = d.seller AND s.payment = d.id AND s.amount_minor > 0), '[]') AS invoices
FROM payments d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
WHERE d.seller = current_seller()"""
_NEXT: Final = "AND d.series = :series AND d.sequence > :position ORDER BY d.sequence LIMIT :limit"
_NAMED: Final = "AND (d.id = :reference OR (d.series = :series AND d.sequence = :sequence))"
_AFTER: Final = {
    EmailKind.INVOICE: text(f"{_INVOICES} {_NEXT}"),
    EmailKind.CREDIT_NOTE: text(f"{_CREDIT_NOTES} {_NEXT}"),
}
# Events of money that nobody was told of: looked for a while back, since one transaction may
# commit after another that began later.
_RECEIVED: Final = text(f"""{_PAYMENTS} AND d.id IN (
  SELECT o.object FROM outbox o WHERE o.seller = current_seller()
    AND o.type IN ('payment.received', 'payment.succeeded') AND o.occurred_at >= :since
    AND NOT EXISTS (SELECT FROM emails m WHERE m.seller = o.seller AND m.kind = 'receipt'
      AND m.cause = o.object)
  ORDER BY o.occurred_at, o.id LIMIT :limit)
ORDER BY d.received_at, d.id""")
_ONE: Final = {
    EmailKind.INVOICE: text(f"{_INVOICES} {_NAMED}"),
    EmailKind.CREDIT_NOTE: text(f"{_CREDIT_NOTES} {_NAMED}"),
    EmailKind.RECEIPT: text(f"{_PAYMENTS} AND d.id = :reference"),
}
# A series gives out its numbers under a lock that is held until they are on documents, so what is
# numbered by now is all there is up to its last number.
_LAGGING: Final = text("""
SELECT s.series, s.next_sequence - 1 AS last, coalesce(p.position, 0) AS position
FROM number_series s LEFT JOIN email_positions p ON p.seller = s.seller AND p.source = s.series
WHERE s.seller = current_seller() AND s.next_sequence - 1 > coalesce(p.position, 0)
ORDER BY s.series
""")
_POSITION: Final = text("""
SELECT position, since_at FROM email_positions WHERE seller = current_seller() AND source = :source
""")
_MOVE: Final = text("""
INSERT INTO email_positions (source, position, since_at) VALUES (:source, :position, :since_at)
ON CONFLICT (seller, source) DO UPDATE SET
  position = greatest(email_positions.position, excluded.position),
  since_at = greatest(email_positions.since_at, excluded.since_at)
""")


class Lagging(msgspec.Struct, frozen=True, kw_only=True):
    """A series, its last number, and the last that somebody was told of."""

    series: str
    last: int
    position: int


async def lagging_series(*, connection: AsyncConnection) -> list[Lagging]:
    """The series with documents that nobody was told of."""
    rows = await connection.execute(_LAGGING)
    return [msgspec.convert(dict(row), Lagging) for row in rows.mappings()]


async def documents_after(
    *, connection: AsyncConnection, kind: EmailKind, series: str, position: int, limit: int
) -> list[MailFacts]:
    """The next documents of a series after a number."""
    of = {"series": series, "position": position, "limit": limit}
    rows = await connection.execute(_AFTER[kind], of)
    return [msgspec.convert(dict(row), MailFacts) for row in rows.mappings()]


async def untold_payments(
    *, connection: AsyncConnection, since: datetime, limit: int
) -> list[MailFacts]:
    """Payments heard of since then that nobody was told of."""
    rows = await connection.execute(_RECEIVED, {"since": since, "limit": limit})
    return [msgspec.convert(dict(row), MailFacts) for row in rows.mappings()]


async def find_facts(
    *, connection: AsyncConnection, kind: EmailKind, reference: str
) -> MailFacts | None:
    """What a mail of that kind tells of a document, by id or number."""
    of_payment = {"reference": reference}
    wanted = of_payment if kind is EmailKind.RECEIPT else named(reference=reference)
    row: Any = (await connection.execute(_ONE[kind], wanted)).mappings().first()
    return None if row is None else msgspec.convert(dict(row), MailFacts)


async def payments_since(*, connection: AsyncConnection) -> datetime | None:
    """Since when payments are told of; None when nobody has begun to."""
    row = (await connection.execute(_POSITION, {"source": PAYMENTS})).one_or_none()
    return None if row is None else row.since_at


async def move_position(
    *,
    connection: AsyncConnection,
    source: str,
    position: int = 0,
    since_at: datetime | None = None,
) -> None:
    """Up to where a source has been told of; it never goes back."""
    of = {"source": source, "position": position, "since_at": since_at}
    await connection.execute(_MOVE, of)
