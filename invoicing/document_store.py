"""SQL that reads documents, their lines, and the journal, as they are answered."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.model import (
    CreditNote,
    CreditNoteStatus,
    EntryPosting,
    Invoice,
    InvoiceStatus,
    JournalEntryAnswer,
    LineItem,
    Reason,
)
from plans.model import Party

_INVOICES: Final = text("""
SELECT i.id, i.number, c.key AS customer, i.currency, i.status, i.issued_at, i.due_at,
  i.subtotal_minor, i.total_minor, i.balance_applied_minor, i.amount_due_minor, i.po_number,
  i.voided_at
FROM invoices i JOIN customers c ON c.seller = i.seller AND c.id = i.customer
WHERE i.seller = current_seller()
  AND (CAST(:reference AS text) IS NULL OR i.id = :reference OR i.number = :reference)
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
  AND (CAST(:status AS text) IS NULL OR i.status = :status)
  AND (CAST(:after AS text) IS NULL OR (i.issued_at, i.series, i.sequence) >
    (SELECT a.issued_at, a.series, a.sequence FROM invoices a
     WHERE a.seller = current_seller() AND a.id = :after))
ORDER BY i.issued_at, i.series, i.sequence LIMIT :limit
""")
_CREDIT_NOTES: Final = text("""
SELECT n.id, n.number, c.key AS customer, n.currency, n.status, n.reason, n.issued_at,
  n.subtotal_minor, n.total_minor, n.applied_minor, n.credited_minor
FROM credit_notes n JOIN customers c ON c.seller = n.seller AND c.id = n.customer
WHERE n.seller = current_seller()
  AND (CAST(:reference AS text) IS NULL OR n.id = :reference OR n.number = :reference)
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
  AND (CAST(:status AS text) IS NULL OR n.status = :status)
  AND (CAST(:after AS text) IS NULL OR (n.issued_at, n.series, n.sequence) >
    (SELECT a.issued_at, a.series, a.sequence FROM credit_notes a
     WHERE a.seller = current_seller() AND a.id = :after))
ORDER BY n.issued_at, n.series, n.sequence LIMIT :limit
""")
_LINES: Final = text("""
SELECT l.id, l.document, l.price_key, s.key AS subscription, c.key AS customer,
  trim_scale(l.quantity)::text AS quantity, l.amount_minor, l.period_start_at, l.period_end_at,
  l.reason, l.charge_group, l.adjusts
FROM line_items l JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  JOIN customers c ON c.seller = s.seller AND c.id = s.customer
WHERE l.seller = current_seller() AND l.document = ANY(:documents)
ORDER BY l.document, l.ordinal
""")
_PRINTED: Final = text("""
SELECT l.id, p.body AS price, a.document AS adjusted,
  coalesce(i.number, n.number) AS adjusted_number
FROM line_items l
  JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  JOIN prices p ON p.seller = v.seller AND p.id = v.price
  LEFT JOIN line_items a ON a.seller = l.seller AND a.id = l.adjusts
  LEFT JOIN invoices i ON i.seller = a.seller AND i.id = a.document
  LEFT JOIN credit_notes n ON n.seller = a.seller AND n.id = a.document
WHERE l.seller = current_seller() AND l.document = :document
""")
_LINE: Final = text("""
SELECT l.id, l.document, l.price_key, s.key AS subscription, c.key AS customer_key,
  c.id AS customer, trim_scale(l.quantity)::text AS quantity, l.amount_minor, l.period_start_at,
  l.period_end_at, l.reason, l.charge_group, l.adjusts, l.price_interval, l.charge_start_at,
  p.key AS plan, p.version, coalesce(i.currency, n.currency) AS currency,
  coalesce(i.issued_at, n.issued_at) AS issued_at, n.id IS NOT NULL AS is_credit
FROM line_items l
  JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  JOIN prices r ON r.seller = v.seller AND r.id = v.price
  JOIN plans p ON p.seller = r.seller AND p.id = r.plan
  JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  JOIN customers c ON c.seller = s.seller AND c.id = s.customer
  LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
  LEFT JOIN credit_notes n ON n.seller = l.seller AND n.id = l.document
WHERE l.seller = current_seller() AND l.id = :line
""")
_LINE_POSTINGS: Final = text("""
SELECT p.entry, p.account, c.key AS customer, p.contract, p.document, p.line, p.currency,
  p.amount_minor
FROM line_items l JOIN postings p ON p.seller = l.seller AND p.document = l.document
  JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE l.seller = current_seller() AND l.id = :line AND p.line = l.id
ORDER BY p.entry, p.ordinal
""")
_PARTIES: Final = text("""
SELECT f.body AS issuer, t.body AS recipient FROM (
  SELECT billed_from, billed_to FROM invoices WHERE seller = current_seller() AND id = :document
  UNION ALL
  SELECT billed_from, billed_to FROM credit_notes
  WHERE seller = current_seller() AND id = :document
) d JOIN parties f ON f.seller = current_seller() AND f.id = d.billed_from
  JOIN parties t ON t.seller = current_seller() AND t.id = d.billed_to
""")
_ENTRIES: Final = text("""
SELECT e.id, e.kind, e.source, e.entry_on, e.posted_at FROM journal_entries e
WHERE e.seller = current_seller() AND (CAST(:reference AS text) IS NULL OR e.id = :reference)
  AND (CAST(:source AS text) IS NULL OR e.source = :source)
  AND (CAST(:after AS text) IS NULL OR e.id > :after)
ORDER BY e.id LIMIT :limit
""")
_POSTINGS: Final = text("""
SELECT p.entry, p.account, c.key AS customer, p.contract, p.document, p.line, p.currency,
  p.amount_minor
FROM postings p JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller() AND p.entry = ANY(:entries) ORDER BY p.entry, p.ordinal
""")
_BALANCES: Final = text("""
SELECT a.code, a.type, a.normal_side, p.currency, coalesce(sum(p.amount_minor), 0) AS amount_minor
FROM accounts a LEFT JOIN postings p ON p.seller = a.seller AND p.account = a.code
WHERE a.seller = current_seller() GROUP BY a.code, a.type, a.normal_side, p.currency
ORDER BY a.code, p.currency
""")


class ExplainedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A posted line with the keys of what it was derived from."""

    item: LineItem
    customer: str
    price_interval: str
    charge_start_at: datetime
    group: str
    plan: str
    version: int
    issued_at: datetime


class PrintedLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a line's printing needs beyond the answer: its price and the number it adjusts."""

    price: Any
    adjusted_number: str | None


class AccountBalance(msgspec.Struct, frozen=True, kw_only=True):
    """The sum of an account's postings in one currency; no currency where there are none."""

    code: str
    type: str
    normal_side: str
    currency: str | None
    amount_minor: int


async def _lines_of(
    connection: AsyncConnection, documents: Sequence[Row[Any]], *, sign: int
) -> dict[str, list[LineItem]]:
    currencies = {row.id: row.currency for row in documents}
    found: dict[str, list[LineItem]] = {}
    for row in await connection.execute(_LINES, {"documents": list(currencies)}):
        currency = currencies[row.document]
        found.setdefault(row.document, []).append(
            LineItem(
                id=row.id,
                price=row.price_key,
                subscription=row.subscription,
                customer=row.customer,
                quantity=row.quantity,
                amount=format_amount(sign * row.amount_minor, currency=currency),
                period=(row.period_start_at, row.period_end_at),
                reason=Reason(row.reason),
                group=_group_of(row.charge_group),
                adjusts=row.adjusts,
            )
        )
    return found


def _group_of(text_of_group: str) -> dict[str, str] | None:
    if not text_of_group:
        return None
    return msgspec.json.decode(text_of_group, type=dict[str, str])


def _posting(row: Row[Any]) -> EntryPosting:
    amount = format_amount(abs(row.amount_minor), currency=row.currency)
    return EntryPosting(
        account=row.account,
        debit=amount if row.amount_minor >= 0 else None,
        credit=amount if row.amount_minor < 0 else None,
        customer=row.customer,
        contract=row.contract or None,
        document=row.document,
        line=row.line or None,
    )


async def find_line(*, connection: AsyncConnection, line: str) -> ExplainedLine | None:
    """A posted line by its id, with what it was derived from."""
    row = (await connection.execute(_LINE, {"line": line})).one_or_none()
    if row is None:
        return None
    signed = -row.amount_minor if row.is_credit else row.amount_minor
    item = LineItem(
        id=row.id,
        price=row.price_key,
        subscription=row.subscription,
        customer=row.customer_key,
        quantity=row.quantity,
        amount=format_amount(signed, currency=row.currency),
        period=(row.period_start_at, row.period_end_at),
        reason=Reason(row.reason),
        group=_group_of(row.charge_group),
        adjusts=row.adjusts,
    )
    return ExplainedLine(
        item=item,
        customer=row.customer,
        price_interval=row.price_interval,
        charge_start_at=row.charge_start_at,
        group=row.charge_group,
        plan=row.plan,
        version=row.version,
        issued_at=row.issued_at,
    )


async def postings_of_line(
    *, connection: AsyncConnection, line: str
) -> tuple[str, list[EntryPosting]]:
    """The journal entry that posted a line, and the line's own postings in it."""
    rows = (await connection.execute(_LINE_POSTINGS, {"line": line})).all()
    return rows[0].entry, [_posting(row) for row in rows]


async def list_invoices(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
    status: InvoiceStatus | None = None,
) -> list[Invoice]:
    """Invoices with their lines, in the order of issue."""
    parameters = {
        "limit": limit,
        "after": after,
        "reference": reference,
        "customer": customer,
        "status": None if status is None else status.value,
    }
    rows = (await connection.execute(_INVOICES, parameters)).all()
    lines = await _lines_of(connection, rows, sign=1)
    return [
        Invoice(
            id=row.id,
            number=row.number,
            customer=row.customer,
            currency=row.currency,
            status=InvoiceStatus(row.status),
            issued_at=row.issued_at,
            due_at=row.due_at,
            subtotal=format_amount(row.subtotal_minor, currency=row.currency),
            total=format_amount(row.total_minor, currency=row.currency),
            balance_applied=format_amount(row.balance_applied_minor, currency=row.currency),
            amount_due=format_amount(row.amount_due_minor, currency=row.currency),
            po_number=row.po_number,
            voided_at=row.voided_at,
            lines=tuple(lines.get(row.id, ())),
        )
        for row in rows
    ]


async def list_credit_notes(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
    status: CreditNoteStatus | None = None,
) -> list[CreditNote]:
    """Credit notes with their lines, in the order of issue; amounts in the customer's favour."""
    parameters = {
        "limit": limit,
        "after": after,
        "reference": reference,
        "customer": customer,
        "status": None if status is None else status.value,
    }
    rows = (await connection.execute(_CREDIT_NOTES, parameters)).all()
    lines = await _lines_of(connection, rows, sign=-1)
    return [
        CreditNote(
            id=row.id,
            number=row.number,
            customer=row.customer,
            currency=row.currency,
            status=CreditNoteStatus(row.status),
            reason=row.reason,
            issued_at=row.issued_at,
            subtotal=format_amount(row.subtotal_minor, currency=row.currency),
            total=format_amount(row.total_minor, currency=row.currency),
            applied=format_amount(row.applied_minor, currency=row.currency),
            credited=format_amount(row.credited_minor, currency=row.currency),
            lines=tuple(lines.get(row.id, ())),
        )
        for row in rows
    ]


async def parties_of(*, connection: AsyncConnection, document: str) -> tuple[Party, Party]:
    """The seller and the customer as the document prints them."""
    row = (await connection.execute(_PARTIES, {"document": document})).one()
    return msgspec.convert(row.issuer, Party), msgspec.convert(row.recipient, Party)


async def printed_lines(*, connection: AsyncConnection, document: str) -> dict[str, PrintedLine]:
    """For each line id of the document: the price body and the number of what it adjusts."""
    rows = await connection.execute(_PRINTED, {"document": document})
    return {
        row.id: PrintedLine(price=row.price, adjusted_number=row.adjusted_number) for row in rows
    }


async def list_entries(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    source: str | None = None,
) -> list[JournalEntryAnswer]:
    """Journal entries with their postings, in the order of their ids."""
    parameters = {"limit": limit, "after": after, "reference": reference, "source": source}
    rows = (await connection.execute(_ENTRIES, parameters)).all()
    postings: dict[str, list[EntryPosting]] = {}
    currencies: dict[str, str] = {}
    for row in await connection.execute(_POSTINGS, {"entries": [row.id for row in rows]}):
        currencies[row.entry] = row.currency
        postings.setdefault(row.entry, []).append(_posting(row))
    return [
        JournalEntryAnswer(
            id=row.id,
            kind=row.kind,
            source=row.source,
            entry_on=row.entry_on,
            posted_at=row.posted_at,
            currency=currencies[row.id],
            postings=tuple(postings[row.id]),
        )
        for row in rows
    ]


async def account_balances(*, connection: AsyncConnection) -> list[AccountBalance]:
    """Every account's debits less credits, by currency."""
    rows = await connection.execute(_BALANCES)
    return [
        AccountBalance(
            code=row.code,
            type=row.type,
            normal_side=row.normal_side,
            currency=row.currency,
            amount_minor=int(row.amount_minor),
        )
        for row in rows
    ]
