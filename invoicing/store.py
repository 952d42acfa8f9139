"""SQL of billing: what is posted, numbers, and the bulk writing of documents."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.columns import SINCE, decode_words
from engine.db import LISTED, copy_rows, joined, loading
from invoicing.loss_store import losses_left
from invoicing.settlement import OpenInvoice
from metering.earliest import Instants

_NEXT_DUE: Final = text("""
SELECT min(next_due_at) FROM due_instants
WHERE seller = current_seller() AND next_due_at <= :through
  AND (CAST(:after AS timestamptz) IS NULL OR next_due_at > :after)
""")
_NAMES: Final = text("""
SELECT c.id, c.key, array_prepend(c.number, ARRAY(
  SELECT k.number FROM customers k WHERE k.seller = c.seller AND k.payer = c.id)) AS numbers
FROM customers c WHERE c.seller = current_seller() AND c.payer IS NULL
  AND (CAST(:after AS text) IS NULL OR c.id > :after)
  AND (CAST(:customers AS text[]) IS NULL OR c.id = ANY(:customers)) ORDER BY c.id LIMIT :limit
""")
_SHARE: Final = text("""
SELECT pg_advisory_xact_lock_shared(hashtextextended('posting ' || current_seller(), 0))
""")
_ALONE: Final = text("""
WITH held AS MATERIALIZED (
  SELECT pg_advisory_xact_lock(hashtextextended('posting ' || current_seller(), 0)))
INSERT INTO billing_state (sweeps) SELECT 0 FROM held ON CONFLICT (seller) DO UPDATE SET sweeps =
  billing_state.sweeps + :step RETURNING sweeps
""")
_NEXT: Final = text("""
INSERT INTO billing_state (sweeps) VALUES (0) ON CONFLICT (seller) DO UPDATE SET sweeps =
  billing_state.sweeps RETURNING sweeps
""")
_TOUCH: Final = text("""
UPDATE subscriptions s SET dirty_from_at = least(s.dirty_from_at, t.first_at)
FROM unnest(CAST(:customers AS bigint[]), CAST(:micros AS bigint[])) AS u (number, micros)
  CROSS JOIN LATERAL (
    SELECT timestamptz 'epoch' + u.micros * interval '1 microsecond' AS first_at) t
  JOIN customers c ON c.seller = current_seller() AND c.number = u.number
WHERE s.seller = current_seller() AND s.customer = c.id AND s.derived_through_at > t.first_at
""")
_DERIVED: Final = text("""
SELECT max(derived_through_at) AS until, count(derived_through_at) AS subscriptions
FROM subscriptions WHERE seller = current_seller()
""")
# Pairs of eight bytes each, as the wire has them: a row for each would cost more than it spares.
_INSTANTS: Final = text("""
SELECT string_agg(int8send(customer_number) || timestamptz_send(derived_through_at), '') AS pairs
FROM subscriptions WHERE seller = current_seller() AND derived_through_at IS NOT NULL
""")
_NAMED: Final = f"ANY({LISTED.format(':customers')})"
_ORDINALS: Final = text(f"""
SELECT customer, billed_at, count(*) AS documents FROM (
  SELECT customer, billed_at FROM invoices
  WHERE seller = current_seller() AND customer = {_NAMED} AND billed_at = ANY(:instants)
  UNION ALL
  SELECT customer, billed_at FROM credit_notes
  WHERE seller = current_seller() AND customer = {_NAMED} AND billed_at = ANY(:instants)
) d GROUP BY customer, billed_at
""")
_BALANCES: Final = text(f"""
SELECT customer, currency, amount_minor FROM customer_balances
WHERE seller = current_seller() AND customer = {_NAMED} AND amount_minor > 0
ORDER BY customer, currency FOR UPDATE
""")
_MAKE_BALANCE: Final = text("""
INSERT INTO customer_balances (customer, currency, amount_minor)
SELECT customer, currency, 0 FROM unnest(CAST(:customers AS text[]), CAST(:currencies AS text[]))
  AS u (customer, currency)
ON CONFLICT DO NOTHING
""")
# A row that is proposed must pass the CHECK before it can conflict, so what is taken is an update.
_ADD_BALANCE: Final = text("""
UPDATE customer_balances b SET amount_minor = b.amount_minor + u.amount
FROM unnest(CAST(:customers AS text[]), CAST(:currencies AS text[]), CAST(:amounts AS bigint[]))
  AS u (customer, currency, amount)
WHERE b.seller = current_seller() AND b.customer = u.customer AND b.currency = u.currency
""")
_OPEN: Final = text("""
SELECT id, customer, status, amount_due_minor, version FROM invoices
WHERE seller = current_seller() AND id = ANY(:invoices) AND amount_due_minor > 0
  AND status IN ('open', 'uncollectible')
ORDER BY issued_at, sequence FOR UPDATE
""")
_REDUCE: Final = text("""
UPDATE invoices i SET amount_due_minor = i.amount_due_minor - u.amount, version = i.version + 1,
  status = CASE WHEN i.amount_due_minor = u.amount THEN 'paid' ELSE i.status END,
  paid_at = CASE WHEN i.amount_due_minor = u.amount THEN u.paid_at ELSE i.paid_at END
FROM unnest(CAST(:invoices AS text[]), CAST(:amounts AS bigint[]), CAST(:instants AS timestamptz[]))
  AS u (id, amount, paid_at)
WHERE i.seller = current_seller() AND i.id = u.id
""")
_NUMBERS: Final = text("""
INSERT INTO number_series AS n (series, next_sequence, last_issued_at)
VALUES (:series, 1 + CAST(:count AS integer), :issued_at)
ON CONFLICT (seller, series) DO UPDATE SET
  next_sequence = n.next_sequence + CAST(:count AS integer),
  last_issued_at = greatest(n.last_issued_at, excluded.last_issued_at)
RETURNING next_sequence - CAST(:count AS integer) AS first
""")
_SERIES: Final = text("""
SELECT next_sequence FROM number_series WHERE seller = current_seller() AND series = :series
""")
_LAST_ISSUED: Final = text("""
SELECT max(last_issued_at) FROM number_series WHERE seller = current_seller()
""")
_ADVANCE: Final = text("""
UPDATE subscriptions s SET next_due_at = u.next_due_at, derived_through_at = u.derived_through_at,
  next_change_at = u.next_change_at, dirty_from_at = NULL, interim_at = NULL
FROM unnest(CAST(:ids AS text[]), CAST(:revisions AS integer[]),
  CAST(:next_due AS timestamptz[]), CAST(:derived AS timestamptz[]),
  CAST(:changes AS timestamptz[]))
  AS u (id, revision, next_due_at, derived_through_at, next_change_at)
WHERE s.seller = current_seller() AND s.id = u.id AND s.revision = u.revision
""")


class BilledName(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets documents: its id and key, and the numbers in the event store of all it pays for."""

    id: str
    key: str
    numbers: tuple[int, ...]


async def customer_names(
    *,
    connection: AsyncConnection,
    after: str | None,
    limit: int,
    customers: Sequence[str] | None,
) -> list[BilledName]:
    """Up to `limit` customers that get documents beyond the id `after`, of all or of those."""
    wanted = None if customers is None else list(customers)
    rows = await connection.execute(_NAMES, {"after": after, "limit": limit, "customers": wanted})
    return [BilledName(id=row.id, key=row.key, numbers=tuple(row.numbers)) for row in rows]


async def next_due_instant(
    *, connection: AsyncConnection, through: datetime, after: datetime | None
) -> datetime | None:
    """The earliest due instant not later than `through` and, if given, later than `after`."""
    found = await connection.execute(_NEXT_DUE, {"through": through, "after": after})
    return found.scalar_one_or_none()


async def lock_billing(*, connection: AsyncConnection, sweep: bool) -> int:
    """Take the seller's posting lock until the transaction ends; give the count of sweeps."""
    row = await connection.execute(_ALONE, {"step": 1 if sweep else 0})
    return row.scalar_one()


async def share_billing(*, connection: AsyncConnection) -> None:
    """Keep whoever takes the posting lock away, but not who shares it, until the end.

    Who shares it may copy rows that only who posts writes, and nothing else that another could wait
    for, and then goes on with `lock_shared_billing`.
    """
    await connection.execute(_SHARE)


async def lock_shared_billing(*, connection: AsyncConnection) -> int:
    """Take the posting lock of those that share it, in turn; give the count of sweeps."""
    return (await connection.execute(_NEXT)).scalar_one()


async def derived_until(*, connection: AsyncConnection) -> tuple[datetime | None, int]:
    """Up to when the seller's furthest subscription is derived, and how many are at all.

    None where none is. Under the posting lock nothing moves it on.
    """
    row = (await connection.execute(_DERIVED)).one()
    return row.until, row.subscriptions


async def derived_instants(*, connection: AsyncConnection) -> Instants:
    """Up to when the furthest subscription of each customer is derived, by the customer's number.

    Whoever pays. Customers with nothing derived are left out.
    """
    pairs: bytes | None = (await connection.execute(_INSTANTS)).scalar_one()
    customers, micros = decode_words(pairs, columns=2)
    return Instants(customers=customers, micros=micros + SINCE)


async def touch_subscriptions(
    *, connection: AsyncConnection, customers: Sequence[int], micros: Sequence[int]
) -> int:
    """Mark subscriptions whose derived past holds new usage: customer numbers, earliest times.

    Gives how many.
    """
    if not customers:
        return 0
    given = {"customers": list(customers), "micros": list(micros)}
    return (await connection.execute(_TOUCH, given)).rowcount


async def document_counts(
    *, connection: AsyncConnection, customers: Sequence[str], instants: Sequence[datetime]
) -> dict[tuple[str, datetime], int]:
    """How many documents each customer already has for each of the due instants."""
    parameters = {"customers": joined(sorted(customers)), "instants": list(instants)}
    rows = await connection.execute(_ORDINALS, parameters)
    return {(row.customer, row.billed_at): row.documents for row in rows}


async def lock_balances(
    *, connection: AsyncConnection, customers: Sequence[str]
) -> dict[tuple[str, str], int]:
    """Credit that customers can use, in minor units by (customer, currency), locked."""
    rows = await connection.execute(_BALANCES, {"customers": joined(sorted(customers))})
    return {(row.customer, row.currency): row.amount_minor for row in rows}


async def add_balances(
    *, connection: AsyncConnection, changes: Mapping[tuple[str, str], int]
) -> None:
    """Add to (or take from) customer balances; the database refuses one below zero."""
    moved = {key: amount for key, amount in changes.items() if amount}
    if moved:
        owners = {
            "customers": [customer for customer, _ in moved],
            "currencies": [currency for _, currency in moved],
        }
        await connection.execute(_MAKE_BALANCE, owners)
        await connection.execute(_ADD_BALANCE, owners | {"amounts": list(moved.values())})


async def lock_open_invoices(
    *, connection: AsyncConnection, invoices: Sequence[str]
) -> dict[str, OpenInvoice]:
    """Those with something to pay still, or written off (with the loss), oldest first, locked."""
    if not invoices:
        return {}
    rows = (await connection.execute(_OPEN, {"invoices": list(invoices)})).all()
    gone = [row.id for row in rows if row.status == "uncollectible"]
    losses = await losses_left(connection=connection, invoices=gone)
    return {
        row.id: OpenInvoice(
            id=row.id,
            customer=row.customer,
            amount_due_minor=row.amount_due_minor,
            version=row.version,
            losses=losses.get(row.id, ()),
        )
        for row in rows
    }


async def reduce_invoices(
    *, connection: AsyncConnection, reductions: Sequence[tuple[str, int, datetime]]
) -> None:
    """Lower what is due on invoices by (invoice, amount, instant); at zero they are paid."""
    if reductions:
        await connection.execute(
            _REDUCE,
            {
                "invoices": [invoice for invoice, _, _ in reductions],
                "amounts": [amount for _, amount, _ in reductions],
                "instants": [instant for _, _, instant in reductions],
            },
        )


async def take_numbers(
    *, connection: AsyncConnection, series: str, count: int, issued_at: datetime
) -> int:
    """Reserve `count` numbers of a series in this transaction; give the first."""
    row = await connection.execute(
        _NUMBERS, {"series": series, "count": count, "issued_at": issued_at}
    )
    return row.scalar_one()


async def next_number(*, connection: AsyncConnection, series: str) -> int:
    """The number that a series gives out next, unless another takes it before."""
    found = await connection.execute(_SERIES, {"series": series})
    return found.scalar_one_or_none() or 1


async def last_issued_at(*, connection: AsyncConnection) -> datetime | None:
    """The latest instant at which any document of the seller was issued."""
    return (await connection.execute(_LAST_ISSUED)).scalar_one_or_none()


async def copy_documents(
    *,
    connection: AsyncConnection,
    tables: Iterable[tuple[str, Sequence[str], Sequence[Sequence[object]]]],
) -> None:
    """COPY the rows of each table, (table, columns, rows), as the loader."""
    async with loading(connection) as raw:
        for table, columns, records in tables:
            if records:
                await copy_rows(raw, table=table, columns=columns, rows=records)


async def advance_subscriptions(
    *,
    connection: AsyncConnection,
    progress: Sequence[tuple[str, int, datetime | None, datetime, datetime | None]],
) -> int:
    """Note (id, revision, next due, derived through, next change).

    Gives how many still had that revision.
    """
    result: Any = await connection.execute(
        _ADVANCE,
        {
            "ids": [item[0] for item in progress],
            "revisions": [item[1] for item in progress],
            "next_due": [item[2] for item in progress],
            "derived": [item[3] for item in progress],
            "changes": [item[4] for item in progress],
        },
    )
    return result.rowcount
