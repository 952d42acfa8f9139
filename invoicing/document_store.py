"""SQL that reads documents, their lines, and the journal, as they are answered."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.line_parts_store import LineParts, parts_of_lines
from invoicing.model import (
    CreditNote,
    CreditNoteStatus,
    Invoice,
    InvoiceStatus,
    LineItem,
    Reason,
)
from invoicing.numbers import named
from invoicing.payment_store import paid_of
from plans.model import Party

_INVOICE_COLUMNS: Final = """id, number, customer, currency, status, issued_at, due_at,
  invoice_group, subtotal_minor, discount_minor, promotional_minor, tax_minor, total_minor,
  prepaid_applied_minor, balance_applied_minor, balance_returned_minor, amount_due_minor,
  po_number, voided_at, series, sequence"""
_CREDIT_NOTE_COLUMNS: Final = """id, number, customer, currency, status, reason, issued_at,
  subtotal_minor, discount_minor, promotional_minor, tax_minor, total_minor, applied_minor,
  credited_minor, refunded_minor, invoice, voided_at, series, sequence"""
_ONE: Final = """
SELECT d.*, c.key AS customer_key FROM {table} d
  JOIN customers c ON c.seller = d.seller AND c.id = d.customer
WHERE d.seller = current_seller()
  AND (d.id = :reference OR (d.series = :series AND d.sequence = :sequence))
"""
_PAGE: Final = """
SELECT d.*, c.key AS customer_key FROM (
  SELECT seller, {columns} FROM {table}
  WHERE seller = current_seller()
    AND (issued_at, series, sequence) >
      (CAST(:issued_at AS timestamptz), CAST(:series AS text), CAST(:sequence AS integer))
    AND (CAST(:customer AS text) IS NULL OR customer = :customer)
    AND (CAST(:status AS text) IS NULL OR status = :status)
  ORDER BY issued_at, series, sequence LIMIT :limit
) d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
ORDER BY d.issued_at, d.series, d.sequence
"""
_PLACE: Final = """
SELECT issued_at, series, sequence FROM {table} WHERE seller = current_seller() AND id = :after
"""
_CUSTOMER: Final = text("""
SELECT id FROM customers
WHERE seller = current_seller() AND (key = :customer OR id = :customer)
""")
_BEGINNING: Final = {"issued_at": datetime(1, 1, 1, tzinfo=UTC), "series": "", "sequence": 0}
_LINE_COLUMNS: Final = """l.id, l.document, l.price_key, s.key AS subscription,
  c.key AS customer, trim_scale(l.quantity)::text AS quantity, l.amount_minor, l.discount_minor,
  l.promotional_minor, l.tax_minor, l.period_start_at, l.period_end_at, l.reason, l.charge_group,
  l.adjusts, l.name"""
_LINES: Final = text(f"""
SELECT {_LINE_COLUMNS}
FROM line_items l LEFT JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  LEFT JOIN customers c ON c.seller = l.seller AND c.id = coalesce(s.customer, l.customer)
WHERE l.seller = current_seller() AND l.document = ANY(:documents)
ORDER BY l.document, l.ordinal
""")
_LINE: Final = text(f"""
SELECT {_LINE_COLUMNS}, c.id AS customer_id, l.price_interval, l.charge_start_at,
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
_HAND_LINE: Final = text(f"""
SELECT {_LINE_COLUMNS}, l.unit_amount, o.key AS billed,
  coalesce(i.currency, n.currency) AS currency, n.id IS NOT NULL AS is_credit
FROM line_items l
  LEFT JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  LEFT JOIN customers c ON c.seller = l.seller AND c.id = coalesce(s.customer, l.customer)
  LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
  LEFT JOIN credit_notes n ON n.seller = l.seller AND n.id = l.document
  JOIN customers o ON o.seller = l.seller AND o.id = coalesce(i.customer, n.customer)
WHERE l.seller = current_seller() AND l.id = :line AND l.price_interval IS NULL
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


async def _lines_of(
    connection: AsyncConnection, documents: Sequence[Row[Any]], *, sign: int
) -> tuple[dict[str, list[LineItem]], LineParts]:
    """The lines by document, and what stands beside them."""
    of_document = {row.id: row for row in documents}
    currencies = {row.id: row.currency for row in documents}
    found: dict[str, list[LineItem]] = {}
    parts = await parts_of_lines(connection=connection, currencies=currencies, sign=sign)
    for row in await connection.execute(_LINES, {"documents": list(currencies)}):
        billed = of_document[row.document]
        item = _line(row, parts, currency=billed.currency, customer=billed.customer_key, sign=sign)
        found.setdefault(row.document, []).append(item)
    return found, parts


def _line(row: Row[Any], parts: LineParts, *, currency: str, customer: str, sign: int) -> LineItem:
    """The answer of one line; by hand, it is of the document's `customer`."""
    start, end = row.period_start_at, row.period_end_at
    return LineItem(
        id=row.id,
        price=row.price_key,
        key=row.price_key,
        name=row.name,
        subscription=row.subscription,
        customer=row.customer or customer,
        quantity=row.quantity,
        amount=format_amount(sign * row.amount_minor, currency=currency),
        discount=format_amount(sign * row.discount_minor, currency=currency),
        promotional=format_amount(sign * row.promotional_minor, currency=currency),
        tax=format_amount(sign * row.tax_minor, currency=currency),
        discounts=parts.discounts.get(row.id, ()),
        taxes=parts.taxes.get(row.id, ()),
        period=None if start is None else (start, end),
        reason=Reason(row.reason),
        group=_group_of(row.charge_group),
        adjusts=row.adjusts,
    )


def _group_of(text_of_group: str) -> dict[str, str] | None:
    if not text_of_group:
        return None
    return msgspec.json.decode(text_of_group, type=dict[str, str])


class _Documents:
    """The statements of one table of documents."""

    def __init__(self, *, table: str, columns: str) -> None:
        self._one = text(_ONE.format(table=table))
        self._page = text(_PAGE.format(table=table, columns=columns))
        self._place = text(_PLACE.format(table=table))

    async def find(
        self,
        connection: AsyncConnection,
        *,
        limit: int,
        after: str | None,
        reference: str | None,
        customer: str | None,
        status: str | None,
    ) -> Sequence[Row[Any]]:
        """The one document with that id or number, or a page in the order of issue."""
        if reference is not None:
            found = await connection.execute(self._one, named(reference=reference))
            return found.all()
        place: Mapping[str, Any] = _BEGINNING
        if after is not None:
            row = (await connection.execute(self._place, {"after": after})).mappings().first()
            if row is None:
                return []
            place = {str(name): value for name, value in row.items()}
        if customer is not None:
            row = (await connection.execute(_CUSTOMER, {"customer": customer})).first()
            if row is None:
                return []
            customer = row.id
        wanted = {"limit": limit, "customer": customer, "status": status, **place}
        return (await connection.execute(self._page, wanted)).all()


_INVOICES: Final = _Documents(table="invoices", columns=_INVOICE_COLUMNS)
_CREDIT_NOTES: Final = _Documents(table="credit_notes", columns=_CREDIT_NOTE_COLUMNS)


async def find_line(*, connection: AsyncConnection, line: str) -> ExplainedLine | None:
    """A posted line by its id, with what it was derived from."""
    row = (await connection.execute(_LINE, {"line": line})).one_or_none()
    if row is None:
        return None
    sign = -1 if row.is_credit else 1
    currencies = {row.document: row.currency}
    parts = await parts_of_lines(connection=connection, currencies=currencies, sign=sign)
    item = _line(row, parts, currency=row.currency, customer=row.customer, sign=sign)
    return ExplainedLine(
        item=item,
        customer=row.customer_id,
        price_interval=row.price_interval,
        charge_start_at=row.charge_start_at,
        group=row.charge_group,
        plan=row.plan,
        version=row.version,
        issued_at=row.issued_at,
    )


async def find_hand_line(
    *, connection: AsyncConnection, line: str
) -> tuple[LineItem, str | None] | None:
    """A line written by hand by its id, and its unit amount if it has one."""
    row = (await connection.execute(_HAND_LINE, {"line": line})).one_or_none()
    if row is None:
        return None
    sign = -1 if row.is_credit else 1
    currencies = {row.document: row.currency}
    parts = await parts_of_lines(connection=connection, currencies=currencies, sign=sign)
    item = _line(row, parts, currency=row.currency, customer=row.billed, sign=sign)
    return item, row.unit_amount


def _amounts(row: Row[Any]) -> dict[str, str]:
    """The sums that invoices and credit notes have alike."""
    sums = {
        "subtotal": row.subtotal_minor,
        "discount": row.discount_minor,
        "promotional_applied": row.promotional_minor,
        "tax": row.tax_minor,
        "total": row.total_minor,
    }
    return {name: format_amount(minor, currency=row.currency) for name, minor in sums.items()}


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
    rows = await _INVOICES.find(
        connection,
        limit=limit,
        after=after,
        reference=reference,
        customer=customer,
        status=None if status is None else status.value,
    )
    lines, parts = await _lines_of(connection, rows, sign=1)
    paid = await paid_of(connection=connection, invoices=[row.id for row in rows])
    return [
        Invoice(
            id=row.id,
            number=row.number,
            customer=row.customer_key,
            currency=row.currency,
            status=InvoiceStatus(row.status),
            issued_at=row.issued_at,
            due_at=row.due_at,
            invoice_group=row.invoice_group,
            **_amounts(row),
            taxes=parts.document_taxes.get(row.id, ()),
            prepaid_applied=format_amount(row.prepaid_applied_minor, currency=row.currency),
            credits_applied=parts.credits.get(row.id, ()),
            balance_applied=format_amount(row.balance_applied_minor, currency=row.currency),
            balance_returned=format_amount(row.balance_returned_minor, currency=row.currency),
            amount_paid=format_amount(paid.get(row.id, 0), currency=row.currency),
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
    rows = await _CREDIT_NOTES.find(
        connection,
        limit=limit,
        after=after,
        reference=reference,
        customer=customer,
        status=None if status is None else status.value,
    )
    lines, parts = await _lines_of(connection, rows, sign=-1)
    return [
        CreditNote(
            id=row.id,
            number=row.number,
            customer=row.customer_key,
            currency=row.currency,
            status=CreditNoteStatus(row.status),
            reason=row.reason,
            issued_at=row.issued_at,
            **_amounts(row),
            taxes=parts.document_taxes.get(row.id, ()),
            applied=format_amount(row.applied_minor, currency=row.currency),
            credited=format_amount(row.credited_minor, currency=row.currency),
            refunded=format_amount(row.refunded_minor, currency=row.currency),
            invoice=row.invoice,
            voided_at=row.voided_at,
            lines=tuple(lines.get(row.id, ())),
        )
        for row in rows
    ]


async def parties_of(*, connection: AsyncConnection, document: str) -> tuple[Party, Party]:
    """The seller and the customer as the document prints them."""
    row = (await connection.execute(_PARTIES, {"document": document})).one()
    return msgspec.convert(row.issuer, Party), msgspec.convert(row.recipient, Party)
