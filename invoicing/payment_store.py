"""SQL of payments: the invoices that they settle, locked, and what is written of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.loss_store import losses_left
from invoicing.numbers import named
from invoicing.payments import Allocation, Payable, Payment, PaymentMethod, PaymentStatus

_PAYABLE: Final = """id, number, customer, currency, status, amount_due_minor, version
FROM invoices WHERE seller = current_seller()"""
_OLDEST: Final = text(f"""
SELECT {_PAYABLE} AND customer = :customer AND currency = :currency AND status = 'open'
ORDER BY due_at, issued_at, sequence FOR UPDATE
""")
_NAMED: Final = text(f"""
SELECT {_PAYABLE} AND (id = ANY(:references) OR id = ANY(ARRAY(
    SELECT i.id FROM unnest(CAST(:series AS text[]), CAST(:sequences AS integer[]))
      AS n (series, sequence)
      JOIN invoices i ON i.series = n.series AND i.sequence = n.sequence
    WHERE i.seller = current_seller())))
ORDER BY id FOR UPDATE
""")
_INSERT: Final = text("""
INSERT INTO payments (id, customer, currency, amount_minor, method, reference, status,
  credited_minor, unapplied_minor, received_at)
VALUES (:id, :customer, :currency, :amount_minor, :method, :reference, 'succeeded',
  :credited_minor, :unapplied_minor, :received_at)
""")
_SETTLE: Final = text("""
INSERT INTO settlements (id, invoice, kind, payment, amount_minor, settled_at)
SELECT u.id, u.invoice, 'payment', :payment, u.amount, :now
FROM unnest(CAST(:ids AS text[]), CAST(:invoices AS text[]), CAST(:amounts AS bigint[]))
  AS u (id, invoice, amount)
""")
_LOCK: Final = text("""
SELECT id, customer, currency, status, credited_minor, unapplied_minor, refunded_minor, version
FROM payments
WHERE seller = current_seller() AND id = :payment FOR UPDATE
""")
_TAKE: Final = text("""
UPDATE payments SET unapplied_minor = unapplied_minor - :applied_minor, version = version + 1
WHERE seller = current_seller() AND id = :payment
""")
_COLUMNS: Final = """SELECT p.id, c.key AS customer, p.currency, p.amount_minor, p.method, p.status,
  p.reference, p.credited_minor, p.unapplied_minor, p.refunded_minor, p.received_at,
  p.returned_at, p.return_code
FROM payments p JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller()"""
_ONE: Final = text(f"{_COLUMNS} AND p.id = :reference")
_PAGE: Final = text(f"""{_COLUMNS}
  AND (p.received_at, p.id) > (CAST(:received_at AS timestamptz), CAST(:id AS text))
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
ORDER BY p.received_at, p.id LIMIT :limit""")
_PLACE: Final = text("""
SELECT received_at, id FROM payments WHERE seller = current_seller() AND id = :after
""")
_ALLOCATIONS: Final = text("""
SELECT payment, invoice, sum(amount_minor)::bigint AS amount_minor FROM settlements
WHERE seller = current_seller() AND payment = ANY(:payments)
GROUP BY payment, invoice HAVING sum(amount_minor) <> 0
ORDER BY payment, min(settled_at), min(id)
""")
_PAID: Final = text("""
SELECT invoice, sum(amount_minor)::bigint AS amount_minor FROM settlements
WHERE seller = current_seller() AND invoice = ANY(:invoices) AND kind = 'payment'
GROUP BY invoice HAVING sum(amount_minor) <> 0
""")
_BEGINNING: Final = {"received_at": datetime(1, 1, 1, tzinfo=UTC), "id": ""}


class LockedPayment(msgspec.Struct, frozen=True, kw_only=True):
    """A payment locked against every other change."""

    id: str
    customer: str
    currency: str
    status: PaymentStatus
    credited_minor: int
    unapplied_minor: int
    refunded_minor: int
    version: int


async def lock_oldest_due(
    *, connection: AsyncConnection, customer: str, currency: str
) -> list[Payable]:
    """The customer's open invoices in the currency, those due first first, locked."""
    found = await connection.execute(_OLDEST, {"customer": customer, "currency": currency})
    return [msgspec.convert(dict(row), Payable) for row in found.mappings()]


async def lock_named(
    *, connection: AsyncConnection, references: Sequence[str]
) -> dict[str, Payable]:
    """Invoices by id and by number, locked, with what a write-off took of them."""
    names = [named(reference=reference) for reference in references]
    wanted = {
        "references": list(references),
        "series": [name["series"] for name in names],
        "sequences": [name["sequence"] for name in names],
    }
    rows = (await connection.execute(_NAMED, wanted)).mappings().all()
    gone = [row["id"] for row in rows if row["status"] == "uncollectible"]
    losses = await losses_left(connection=connection, invoices=gone)
    found: dict[str, Payable] = {}
    for row in rows:
        payable = msgspec.convert({**row, "losses": losses.get(row["id"], ())}, Payable)
        found[payable.id] = found[payable.number] = payable
    return found


async def insert_payment(*, connection: AsyncConnection, row: Mapping[str, object]) -> None:
    """A payment: id, customer, currency, method, reference, received_at and its amounts."""
    await connection.execute(_INSERT, row)


async def settle_invoices(
    *,
    connection: AsyncConnection,
    payment: str,
    settlements: Sequence[tuple[str, str, int]],
    now: datetime,
) -> None:
    """Note what the payment paid: (id, invoice, amount)."""
    await connection.execute(
        _SETTLE,
        {
            "payment": payment,
            "ids": [each[0] for each in settlements],
            "invoices": [each[1] for each in settlements],
            "amounts": [each[2] for each in settlements],
            "now": now,
        },
    )


async def lock_payment(*, connection: AsyncConnection, payment: str) -> LockedPayment | None:
    """The payment of that id, locked until the transaction ends."""
    row = (await connection.execute(_LOCK, {"payment": payment})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), LockedPayment)


async def take_unapplied(*, connection: AsyncConnection, payment: str, applied_minor: int) -> None:
    """Less of the payment waits: it was applied."""
    await connection.execute(_TAKE, {"payment": payment, "applied_minor": applied_minor})


async def list_payments(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
) -> list[Payment]:
    """The payment of that id, or a page in the order in which they came."""
    if reference is not None:
        rows = (await connection.execute(_ONE, {"reference": reference})).all()
    else:
        place: dict[str, Any] = dict(_BEGINNING)
        if after is not None:
            row = (await connection.execute(_PLACE, {"after": after})).mappings().first()
            if row is None:
                return []
            place = {str(name): value for name, value in row.items()}
        query = {"limit": limit, "customer": customer, **place}
        rows = (await connection.execute(_PAGE, query)).all()
    currencies = {row.id: row.currency for row in rows}
    applied: dict[str, list[Allocation]] = {}
    for row in await connection.execute(_ALLOCATIONS, {"payments": list(currencies)}):
        amount = format_amount(row.amount_minor, currency=currencies[row.payment])
        applied.setdefault(row.payment, []).append(Allocation(invoice=row.invoice, amount=amount))
    return [_payment(row, applied.get(row.id, [])) for row in rows]


def _payment(row: Any, allocations: Sequence[Allocation]) -> Payment:
    def told(minor: int) -> str:
        return format_amount(minor, currency=row.currency)

    return Payment(
        id=row.id,
        customer=row.customer,
        currency=row.currency,
        amount=told(row.amount_minor),
        method=PaymentMethod(row.method),
        status=PaymentStatus(row.status),
        reference=row.reference,
        invoice=allocations[0].invoice if len(allocations) == 1 else None,
        allocations=tuple(allocations),
        credited=told(row.credited_minor),
        unapplied=told(row.unapplied_minor),
        refunded=told(row.refunded_minor),
        attempted_at=row.received_at,
        returned_at=row.returned_at,
        return_code=row.return_code,
    )


async def paid_of(*, connection: AsyncConnection, invoices: Sequence[str]) -> dict[str, int]:
    """What payments paid of each invoice, in minor units; those without money are left out."""
    if not invoices:
        return {}
    rows = await connection.execute(_PAID, {"invoices": list(invoices)})
    return {row.invoice: row.amount_minor for row in rows}
