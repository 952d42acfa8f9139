"""SQL of credit while documents are made: what grants have left, what they paid, what they keep."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.assembly import BilledCustomer
from invoicing.credits import Key, PostedDraw, UsableGrant, Wallet

_USABLE: Final = text("""
SELECT g.id, g.customer, g.currency, g.kind, g.effective_at, g.expires_at, g.ended_at,
  g.rolled_from IS NOT NULL OR g.renews IS NOT NULL AS is_successor, g.prices, g.meters,
  s.left_minor
FROM credit_grants g JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
WHERE g.seller = current_seller() AND g.customer = ANY(:customers) AND s.left_minor > 0
  AND NOT s.is_pending
  AND (g.ended_at IS NULL OR EXISTS (SELECT FROM credit_reservations r
    WHERE r.seller = g.seller AND r.credit_grant = g.id))
ORDER BY g.kind = 'prepaid', g.priority, g.expires_at NULLS LAST, g.aged_at, g.number
""")
_RESERVED: Final = text("""
SELECT credit_grant, price_interval, charge_start_at, left_minor FROM credit_reservation_sums
WHERE seller = current_seller() AND credit_grant = ANY(:grants)
ORDER BY credit_grant, price_interval, charge_start_at
""")
_POSTED_DRAWS: Final = text("""
SELECT line, credit_grant, amount_minor FROM credit_draws
WHERE seller = current_seller() AND line = ANY(:lines) AND kind = 'promotional'
ORDER BY line, credit_grant
""")
_RESERVE: Final = text("""
INSERT INTO credit_reservations AS r (credit_grant, price_interval, charge_start_at, amount_minor)
VALUES (:grant, :price_interval, :charge_start_at, :amount_minor)
ON CONFLICT (seller, credit_grant, price_interval, charge_start_at)
  DO UPDATE SET amount_minor = r.amount_minor + excluded.amount_minor
""")
# What a grant that had not ended yet paid of a document which is void now.
_RESERVE_VOIDED: Final = text("""
INSERT INTO credit_reservations AS r (credit_grant, price_interval, charge_start_at, amount_minor)
SELECT d.credit_grant, l.price_interval, l.charge_start_at, sum(d.amount_minor)
FROM credit_draws d JOIN line_items l ON l.seller = d.seller AND l.id = d.line
  JOIN invoices i ON i.seller = d.seller AND i.id = d.document
  JOIN credit_grants g ON g.seller = d.seller AND g.id = d.credit_grant
WHERE d.seller = current_seller() AND d.document = :invoice AND l.price_interval IS NOT NULL
  AND g.ended_at >= i.issued_at
GROUP BY d.credit_grant, l.price_interval, l.charge_start_at HAVING sum(d.amount_minor) > 0
ON CONFLICT (seller, credit_grant, price_interval, charge_start_at)
  DO UPDATE SET amount_minor = r.amount_minor + excluded.amount_minor
""")
# Credit that a document gave back, and that is not there to be taken again now that it is void.
_OVERDRAWN: Final = text("""
SELECT g.id, g.key, g.ended_at, s.left_minor FROM credit_grants g
  JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
WHERE g.seller = current_seller() AND s.left_minor < 0 AND g.id IN (
  SELECT d.credit_grant FROM credit_draws d
  WHERE d.seller = current_seller() AND d.document = :invoice)
ORDER BY g.number
""")
_DRAWN_BY: Final = text("""
SELECT credit_grant, sum(amount_minor)::bigint AS amount FROM credit_draws
WHERE seller = current_seller() AND document = :document AND kind = 'prepaid'
GROUP BY credit_grant ORDER BY credit_grant
""")
_PAID_OUT: Final = text("""
SELECT EXISTS (SELECT FROM postings_of(:grant) p
  JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry AND e.kind = 'credit_voided'
  WHERE p.account = 'customer_balance')
""")
_END: Final = text("""
UPDATE credit_grants SET ended_at = :ended_at, ended_by = :ended_by
WHERE seller = current_seller() AND id = :grant AND ended_at IS NULL
""")
_MOVE: Final = text("""
INSERT INTO credit_moves (id, credit_grant, kind, amount_minor, moved_at)
VALUES (:id, :grant, :kind, :amount_minor, :moved_at)
""")
_NEXT_END: Final = text("""
SELECT min(expires_at) FROM credit_grants
WHERE seller = current_seller() AND ended_at IS NULL AND expires_at <= :through
  AND (CAST(:after AS timestamptz) IS NULL OR expires_at > :after)
  AND (CAST(:customers AS text[]) IS NULL OR customer = ANY(:customers))
""")
_ENDING: Final = text("""
SELECT DISTINCT g.customer, c.key COLLATE "C" AS key FROM credit_grants g
  JOIN customers c ON c.seller = g.seller AND c.id = g.customer
WHERE g.seller = current_seller() AND g.ended_at IS NULL AND g.expires_at <= :at
  AND (CAST(:customers AS text[]) IS NULL OR g.customer = ANY(:customers)) ORDER BY 2
""")
_BILLED: Final = text("""
SELECT id, key, number, party, net_terms_days, po_number FROM customers
WHERE seller = current_seller() AND id = :customer
""")
_SURPLUS: Final = text("""
SELECT g.id, (s.left_minor - coalesce(r.amount, 0))::bigint AS surplus_minor
FROM credit_grants g JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
  LEFT JOIN (SELECT seller, credit_grant, sum(left_minor) AS amount FROM credit_reservation_sums
    GROUP BY seller, credit_grant) r ON r.seller = g.seller AND r.credit_grant = g.id
WHERE g.seller = current_seller() AND g.ended_at IS NOT NULL
  AND s.left_minor > coalesce(r.amount, 0) ORDER BY g.number
""")


async def load_wallet(*, connection: AsyncConnection, customers: Sequence[str]) -> Wallet | None:
    """What grants of the customers (ids) may pay; None when there is nothing."""
    rows = (await connection.execute(_USABLE, {"customers": list(customers)})).mappings().all()
    if not rows:
        return None
    ended = [row["id"] for row in rows if row["ended_at"] is not None]
    reserved: dict[str, dict[Key, int]] = {}
    if ended:
        for row in await connection.execute(_RESERVED, {"grants": ended}):
            key = (row.price_interval, row.charge_start_at)
            reserved.setdefault(row.credit_grant, {})[key] = row.left_minor
    return Wallet(
        [
            msgspec.convert({**row, "reserved": reserved.get(row["id"], {})}, UsableGrant)
            for row in rows
        ]
    )


async def posted_draws(
    *, connection: AsyncConnection, lines: Sequence[str]
) -> dict[str, list[PostedDraw]]:
    """What promotional grants paid of posted lines, by line id."""
    found: dict[str, list[PostedDraw]] = {}
    if lines:
        for row in (await connection.execute(_POSTED_DRAWS, {"lines": list(lines)})).mappings():
            draw = msgspec.convert(dict(row), PostedDraw)
            found.setdefault(row["line"], []).append(draw)
    return found


async def reserve(*, connection: AsyncConnection, grant: str, amounts: Mapping[Key, int]) -> None:
    """Keep so much of a grant for what its charges will be billed at."""
    for (interval, start_at), amount in amounts.items():
        kept: dict[str, Any] = {"grant": grant, "price_interval": interval}
        kept |= {"charge_start_at": start_at, "amount_minor": amount}
        await connection.execute(_RESERVE, kept)


async def reserve_voided(*, connection: AsyncConnection, invoice: str) -> None:
    """Let grants that ended since pay the charges of a void invoice again."""
    await connection.execute(_RESERVE_VOIDED, {"invoice": invoice})


async def overdrawn_by_void(
    *, connection: AsyncConnection, invoice: str
) -> list[tuple[str, str, bool, int]]:
    """(grant id, key, whether it ended, minor units missing) where a void invoice had given back.

    Call it when the invoice is void already.
    """
    rows = await connection.execute(_OVERDRAWN, {"invoice": invoice})
    return [(row.id, row.key, row.ended_at is not None, -row.left_minor) for row in rows]


async def prepaid_draws(*, connection: AsyncConnection, document: str) -> dict[str, int]:
    """What each prepaid grant (id) paid of a document, in minor units."""
    rows = await connection.execute(_DRAWN_BY, {"document": document})
    return {row.credit_grant: row.amount for row in rows}


async def is_paid_out(*, connection: AsyncConnection, grant: str) -> bool:
    """Whether what was left of the grant (id) became customer balance when it was voided."""
    return bool((await connection.execute(_PAID_OUT, {"grant": grant})).scalar_one())


async def end_grant(
    *, connection: AsyncConnection, grant: str, ended_at: datetime, ended_by: str
) -> None:
    """From now on the grant pays only what is reserved of it."""
    ended = {"grant": grant, "ended_at": ended_at, "ended_by": ended_by}
    await connection.execute(_END, ended)


async def write_move(
    *,
    connection: AsyncConnection,
    move: str,
    grant: str,
    kind: str,
    amount_minor: int,
    moved_at: datetime,
) -> None:
    """What left a grant unused: expired, voided or rolled over."""
    row: dict[str, Any] = {"id": move, "grant": grant, "kind": kind}
    await connection.execute(_MOVE, row | {"amount_minor": amount_minor, "moved_at": moved_at})


async def next_credit_end(
    *,
    connection: AsyncConnection,
    through: datetime,
    after: datetime | None,
    customers: Sequence[str] | None = None,
) -> datetime | None:
    """The earliest end of a grant not later than `through` and, if given, later than `after`.

    `customers` (ids) limits it to their grants.
    """
    wanted = {"through": through, "after": after, "customers": _listed(customers)}
    return (await connection.execute(_NEXT_END, wanted)).scalar_one_or_none()


async def customers_of_ending(
    *, connection: AsyncConnection, at: datetime, customers: Sequence[str] | None = None
) -> list[str]:
    """Customers (ids) with a grant that should have ended by then, in the order of their keys."""
    wanted = {"at": at, "customers": _listed(customers)}
    return [row.customer for row in await connection.execute(_ENDING, wanted)]


def _listed(customers: Sequence[str] | None) -> list[str] | None:
    return None if customers is None else list(customers)


async def billed_customer(*, connection: AsyncConnection, customer: str) -> BilledCustomer:
    """The customer (id) as a document names it."""
    row = (await connection.execute(_BILLED, {"customer": customer})).mappings().one()
    return msgspec.convert(dict(row), BilledCustomer)


async def surpluses(*, connection: AsyncConnection) -> list[tuple[str, int]]:
    """(grant id, minor units) of ended grants that hold more than is reserved."""
    return [(row.id, row.surplus_minor) for row in await connection.execute(_SURPLUS)]
