"""SQL of refunds, and of payments of which something is taken back."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.loss_store import losses_left
from invoicing.payment_store import paid_of
from invoicing.payments import Part, Payable
from invoicing.refunds import Refund, RefundingNote, RefundSource, RefundStatus, free_money

_PAID: Final = text("""
SELECT i.id, i.number, i.customer, i.currency, i.status, i.amount_due_minor, i.version,
  s.amount_minor
FROM (
  SELECT invoice, sum(amount_minor)::bigint AS amount_minor,
    max(settled_at) FILTER (WHERE amount_minor > 0) AS last_at
  FROM settlements WHERE seller = current_seller() AND payment = :payment
  GROUP BY invoice HAVING sum(amount_minor) > 0
) s JOIN invoices i ON i.seller = current_seller() AND i.id = s.invoice
ORDER BY s.last_at DESC, i.due_at DESC, i.issued_at DESC, i.sequence DESC FOR UPDATE OF i
""")
# Invoices that used the customer's balance and still have it, the last one first.
_USED: Final = text("""
SELECT id, number, customer, currency, status, amount_due_minor, version,
  balance_applied_minor - balance_returned_minor AS amount_minor
FROM invoices
WHERE seller = current_seller() AND customer = :customer AND currency = :currency
  AND balance_applied_minor > balance_returned_minor AND status <> 'void'
ORDER BY issued_at DESC, sequence DESC FOR UPDATE
""")
# Notes that give back money of lines of the invoices, or of charge keys that they bill, each with
# all the invoices that it is about.
_BY_NOTES: Final = text("""
WITH notes AS (
  SELECT h.document AS note FROM line_items l
    JOIN line_items h ON h.seller = l.seller AND h.adjusts = l.id
      AND h.price_interval IS NULL AND h.adjusts IS NOT NULL
  WHERE l.seller = current_seller() AND l.document = ANY(:invoices)
  UNION
  SELECT h.document FROM line_items l JOIN line_items h ON h.seller = l.seller
    AND h.price_interval = l.price_interval AND h.charge_start_at = l.charge_start_at
    AND h.charge_group = l.charge_group
  WHERE l.seller = current_seller() AND l.document = ANY(:invoices)
), refunding AS (
  SELECT n.id, n.refunded_minor FROM credit_notes n
  WHERE n.seller = current_seller() AND n.id IN (SELECT note FROM notes)
    AND n.status <> 'void' AND n.refunded_minor > 0
)
SELECT r.id, r.refunded_minor, array_agg(DISTINCT i.id ORDER BY i.id) AS invoices
FROM refunding r
  JOIN line_items h ON h.seller = current_seller() AND h.document = r.id
  CROSS JOIN LATERAL (
    SELECT l.document FROM line_items l WHERE l.seller = h.seller AND l.id = h.adjusts
    UNION ALL
    SELECT l.document FROM line_items l WHERE l.seller = h.seller
      AND l.price_interval = h.price_interval AND l.charge_start_at = h.charge_start_at
      AND l.charge_group = h.charge_group) w
  JOIN invoices i ON i.seller = current_seller() AND i.id = w.document AND i.status <> 'void'
GROUP BY r.id, r.refunded_minor ORDER BY r.id
""")
_PUT_BACK: Final = text("""
SELECT p.document, sum(p.amount_minor)::bigint AS amount_minor
FROM journal_entries e JOIN postings p ON p.seller = e.seller AND p.entry = e.id
WHERE e.seller = current_seller() AND e.source = :refund AND e.kind = 'refund_decided'
  AND p.account = 'accounts_receivable'
GROUP BY p.document ORDER BY p.document
""")
_UNSETTLE: Final = text("""
INSERT INTO settlements (id, invoice, kind, payment, amount_minor, settled_at)
SELECT u.id, u.invoice, 'payment', :payment, -u.amount, :now
FROM unnest(CAST(:ids AS text[]), CAST(:invoices AS text[]), CAST(:amounts AS bigint[]))
  AS u (id, invoice, amount)
""")
_UNUSE: Final = text("""
INSERT INTO settlements (id, invoice, kind, amount_minor, settled_at)
SELECT u.id, u.invoice, 'customer_balance', -u.amount, :now
FROM unnest(CAST(:ids AS text[]), CAST(:invoices AS text[]), CAST(:amounts AS bigint[]))
  AS u (id, invoice, amount)
""")
_REOPEN: Final = text("""
UPDATE invoices i SET status = 'open', paid_at = NULL, written_off_at = NULL,
  amount_due_minor = i.amount_due_minor + u.amount, version = i.version + 1,
  balance_returned_minor = i.balance_returned_minor
    + CASE WHEN CAST(:of_balance AS boolean) THEN u.amount ELSE 0 END
FROM unnest(CAST(:invoices AS text[]), CAST(:amounts AS bigint[])) AS u (id, amount)
WHERE i.seller = current_seller() AND i.id = u.id
""")
_MOVE: Final = text("""
UPDATE payments SET unapplied_minor = unapplied_minor + :unapplied_minor,
  refunded_minor = refunded_minor + :refunded_minor, version = version + 1
WHERE seller = current_seller() AND id = :payment
""")
_RETURN: Final = text("""
UPDATE payments SET status = 'returned', returned_at = :now, return_code = :code,
  unapplied_minor = 0, credited_minor = 0, version = version + 1
WHERE seller = current_seller() AND id = :payment
""")
_INSERT: Final = text("""
INSERT INTO refunds (id, customer, currency, amount_minor, source, payment, reference, status,
  created_at)
VALUES (:id, :customer, :currency, :amount_minor, :source, :payment, :reference, 'pending', :now)
""")
_LOCK: Final = text("""
SELECT id, customer, currency, amount_minor, source, payment, status, version FROM refunds
WHERE seller = current_seller() AND id = :refund FOR UPDATE
""")
_END: Final = text("""
UPDATE refunds SET status = :status, confirmed_at = :confirmed_at, version = version + 1
WHERE seller = current_seller() AND id = :refund
""")
_COLUMNS: Final = """SELECT r.id, c.key AS customer, r.currency, r.amount_minor, r.source,
  r.credit_note, r.payment, r.reference, r.status, r.created_at, r.confirmed_at
FROM refunds r JOIN customers c ON c.seller = r.seller AND c.id = r.customer
WHERE r.seller = current_seller()"""
_ONE: Final = text(f"{_COLUMNS} AND r.id = :reference")
_PAGE: Final = text(f"""{_COLUMNS}
  AND (r.created_at, r.id) > (CAST(:created_at AS timestamptz), CAST(:id AS text))
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
  AND (CAST(:status AS text) IS NULL OR r.status = :status)
ORDER BY r.created_at, r.id LIMIT :limit""")
_PLACE: Final = text("""
SELECT created_at, id FROM refunds WHERE seller = current_seller() AND id = :after
""")
_BEGINNING: Final = {"created_at": datetime(1, 1, 1, tzinfo=UTC), "id": ""}


class LockedRefund(msgspec.Struct, frozen=True, kw_only=True):
    """A refund locked against every other change."""

    id: str
    customer: str
    currency: str
    amount_minor: int
    source: RefundSource
    payment: str | None
    status: RefundStatus
    version: int


async def lock_paid(*, connection: AsyncConnection, payment: str) -> list[Part]:
    """What the payment (id) still pays of invoices, the last it paid first, each locked."""
    rows = (await connection.execute(_PAID, {"payment": payment})).mappings().all()
    return await _parts(connection, rows)


async def _parts(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[Part]:
    gone = [row["id"] for row in rows if row["status"] == "uncollectible"]
    losses = await losses_left(connection=connection, invoices=gone)
    return [
        Part(
            invoice=msgspec.convert(
                {name: row[name] for name in row if name != "amount_minor"}
                | {"losses": losses.get(row["id"], ())},
                Payable,
            ),
            amount_minor=row["amount_minor"],
        )
        for row in rows
    ]


async def balance_used_by(
    *, connection: AsyncConnection, customer: str, currency: str
) -> list[Part]:
    """What invoices still have of the customer's balance, the last issued first, each locked."""
    owner = {"customer": customer, "currency": currency}
    return await _parts(connection, (await connection.execute(_USED, owner)).mappings().all())


async def money_left(*, connection: AsyncConnection, invoices: Sequence[str]) -> dict[str, int]:
    """What of the money that paid each invoice (id) no credit note pays back, or will.

    A note about several invoices, as those of one charge may be, pays back once: of other invoices
    first.
    """
    about, notes = set(invoices), list[RefundingNote]()
    while True:
        rows = await connection.execute(_BY_NOTES, {"invoices": sorted(about)})
        notes = [
            RefundingNote(amount_minor=row.refunded_minor, invoices=tuple(row.invoices))
            for row in rows
        ]
        reached = about.union(*[note.invoices for note in notes])
        if reached == about:
            break
        about = reached
    paid = await paid_of(connection=connection, invoices=sorted(about))
    return free_money(paid=paid, notes=notes, wanted=invoices)


async def taken_by(*, connection: AsyncConnection, refund: str) -> dict[str, int]:
    """What the refund (id) took back of each invoice (id) when it was decided."""
    rows = await connection.execute(_PUT_BACK, {"refund": refund})
    return {row.document: row.amount_minor for row in rows}


async def reopen_invoices(
    *,
    connection: AsyncConnection,
    payment: str | None,
    settlements: Sequence[tuple[str, str, int]],
    now: datetime,
) -> None:
    """What was taken back is due again: (settlement id, invoice id, amount).

    It is of the payment, or None: of the customer's balance that the invoices used.
    """
    if settlements:
        moved: dict[str, Any] = {
            "ids": [each[0] for each in settlements],
            "invoices": [each[1] for each in settlements],
            "amounts": [each[2] for each in settlements],
        }
        if payment is None:
            await connection.execute(_UNUSE, moved | {"now": now})
        else:
            await connection.execute(_UNSETTLE, moved | {"payment": payment, "now": now})
        del moved["ids"]
        await connection.execute(_REOPEN, moved | {"of_balance": payment is None})


async def move_payment(
    *, connection: AsyncConnection, payment: str, unapplied_minor: int, refunded_minor: int
) -> None:
    """So much more of the payment waits, and so much more went back; less where below zero."""
    moved = {"unapplied_minor": unapplied_minor, "refunded_minor": refunded_minor}
    await connection.execute(_MOVE, {"payment": payment} | moved)


async def mark_returned(
    *, connection: AsyncConnection, payment: str, code: str | None, now: datetime
) -> None:
    """The bank took the payment back: nothing of it is left."""
    await connection.execute(_RETURN, {"payment": payment, "code": code, "now": now})


async def insert_refund(*, connection: AsyncConnection, row: Mapping[str, object]) -> None:
    """A pending refund: id, customer, currency, amount_minor, source, payment, reference, now."""
    await connection.execute(_INSERT, row)


async def lock_refund(*, connection: AsyncConnection, refund: str) -> LockedRefund | None:
    """The refund of that id, locked until the transaction ends."""
    row = (await connection.execute(_LOCK, {"refund": refund})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), LockedRefund)


async def end_refund(
    *, connection: AsyncConnection, refund: str, status: RefundStatus, now: datetime
) -> None:
    """The refund was paid out at `now`, or will not be."""
    confirmed_at = now if status is RefundStatus.SUCCEEDED else None
    ended = {"status": status.value, "confirmed_at": confirmed_at}
    await connection.execute(_END, {"refund": refund} | ended)


async def list_refunds(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
    status: str | None = None,
) -> list[Refund]:
    """The refund of that id, or a page in the order in which they were decided."""
    if reference is not None:
        rows = (await connection.execute(_ONE, {"reference": reference})).mappings().all()
    else:
        place: dict[str, Any] = dict(_BEGINNING)
        if after is not None:
            row = (await connection.execute(_PLACE, {"after": after})).mappings().first()
            if row is None:
                return []
            place = {str(name): value for name, value in row.items()}
        query = {"limit": limit, "customer": customer, "status": status, **place}
        rows = (await connection.execute(_PAGE, query)).mappings().all()
    return [
        msgspec.convert(
            {
                **row,
                "amount": format_amount(row["amount_minor"], currency=row["currency"]),
            },
            Refund,
        )
        for row in rows
    ]
