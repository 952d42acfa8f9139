"""SQL of credit grants: writing them, and reading them with what became of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from plans.credit_grants import CreditGrant, CreditKind, CreditPurchase, TopUp
from plans.prices import Interval

_SELECT: Final = """
SELECT g.id, g.key, c.key AS customer, g.currency, g.kind, g.amount_minor, s.left_minor,
  s.drawn_minor, s.expired_minor, s.voided_minor, s.rolled_over_minor, g.priority,
  CASE WHEN g.ended_by IS NOT NULL THEN g.ended_by WHEN s.is_pending THEN 'pending'
    WHEN s.left_minor = 0 THEN 'exhausted' WHEN g.effective_at > :now THEN 'pending'
    ELSE 'active' END AS status,
  f.key AS rolled_from, r.key AS renews, t.key AS tops_up, g.effective_at, g.expires_at,
  g.prices, g.meters, trim_scale(g.rollover_fraction)::text AS rollover_fraction, g.recurring,
  g.top_up, g.purchase_minor, p.number AS invoice, g.ended_at, g.created_at
FROM credit_grants g JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
  JOIN customers c ON c.seller = g.seller AND c.id = g.customer
  LEFT JOIN invoices p ON p.seller = g.seller AND p.id = g.purchase_invoice
  LEFT JOIN credit_grants f ON f.seller = g.seller AND f.id = g.rolled_from
  LEFT JOIN credit_grants r ON r.seller = g.seller AND r.id = g.renews
  LEFT JOIN credit_grants t ON t.seller = g.seller AND t.id = g.tops_up
WHERE g.seller = current_seller()
"""
_ONE: Final = text(f"{_SELECT} AND (g.key = :reference OR g.id = :reference)")
_PAGE: Final = text(f"""{_SELECT}
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
  AND (CAST(:after AS text) IS NULL OR g.number >
    (SELECT number FROM credit_grants WHERE seller = current_seller() AND id = :after))
ORDER BY g.number LIMIT :limit
""")
_INSERT: Final = text("""
INSERT INTO credit_grants (id, key, customer, currency, kind, amount_minor, priority,
  effective_at, expires_at, prices, meters, rollover_fraction, recurring, recurs_from,
  recurs_until, top_up, purchase_minor, purchase_invoice, available, rolled_from, renews, tops_up,
  aged_at, created_at)
VALUES (:id, :key, :customer, :currency, :kind, :amount_minor, :priority, :effective_at,
  :expires_at, :prices, :meters, :rollover_fraction, CAST(CAST(:recurring AS text) AS jsonb),
  :recurs_from, :recurs_until, CAST(CAST(:top_up AS text) AS jsonb), :purchase_minor,
  :purchase_invoice, :available, :rolled_from, :renews, :tops_up, :aged_at, :created_at)
""")
_TAKEN: Final = text("""
SELECT EXISTS (SELECT FROM credit_grants WHERE seller = current_seller() AND key = :key)
""")
_STORED: Final = """
SELECT g.id, g.key, g.customer, g.currency, g.kind, g.amount_minor, g.priority, g.effective_at,
  g.expires_at, g.prices, g.meters, trim_scale(g.rollover_fraction)::text AS rollover_fraction,
  g.recurring, g.recurs_from, g.recurs_until, g.top_up, g.purchase_minor, g.purchase_invoice,
  g.available, g.rolled_from, g.renews, g.tops_up, g.aged_at, g.created_at, g.ended_at,
  s.left_minor, s.is_pending, coalesce(c.timezone, l.timezone) AS timezone
FROM credit_grants g JOIN credit_grant_sums s ON s.seller = g.seller AND s.id = g.id
  JOIN customers c ON c.seller = g.seller AND c.id = g.customer
  JOIN sellers l ON l.seller = g.seller
WHERE g.seller = current_seller()
"""
_STORED_ONE: Final = text(f"{_STORED} AND (g.key = :reference OR g.id = :reference)")
_ENDING: Final = text(f"""{_STORED}
  AND g.customer = :customer AND g.ended_at IS NULL AND g.expires_at <= :at
ORDER BY g.expires_at, g.number
""")
_BOUGHT_BY: Final = text(f"""{_STORED}
  AND (g.purchase_invoice = :invoice OR g.ended_at IS NULL AND g.rolled_from IN (
    SELECT o.id FROM credit_grants o
    WHERE o.seller = current_seller() AND o.purchase_invoice = :invoice))
ORDER BY g.number
""")
_TOPPED_UP: Final = text(f"""{_STORED}
  AND g.ended_at IS NULL AND (g.top_up IS NOT NULL OR g.tops_up IS NOT NULL)
  AND (CAST(:customer AS text) IS NULL OR g.customer = :customer)
ORDER BY g.customer, g.number
""")
_TOP_UPS: Final = text("""
SELECT count(*) FROM credit_grants WHERE seller = current_seller() AND tops_up = :grant
""")


class StoredGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A grant as it is written, in ids and minor units, and what is left of it."""

    id: str
    key: str
    customer: str
    currency: str
    kind: CreditKind
    amount_minor: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    prices: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    rollover_fraction: str = "0"
    recurring: Interval | None = None
    recurs_from: datetime | None = None
    recurs_until: datetime | None = None
    top_up: TopUp | None = None
    purchase_minor: int | None = None
    purchase_invoice: str | None = None
    available: str | None = None
    rolled_from: str | None = None
    renews: str | None = None
    tops_up: str | None = None
    aged_at: datetime
    created_at: datetime
    ended_at: datetime | None = None
    left_minor: int = 0
    is_pending: bool = False
    timezone: str = "UTC"


def purchase_of(grant: StoredGrant) -> CreditPurchase | None:
    """What the grant was sold for, as it would be asked for again."""
    if grant.purchase_minor is None:
        return None
    amount = format_amount(grant.purchase_minor, currency=grant.currency)
    available = "on_payment" if grant.available == "on_payment" else "on_issue"
    return CreditPurchase(amount=amount, available=available)


async def list_grants(
    *,
    connection: AsyncConnection,
    now: datetime,
    limit: int,
    after: str | None = None,
    customer: str | None = None,
) -> list[CreditGrant]:
    """Up to `limit` grants after the id `after`, in the order they were made."""
    wanted = {"now": now, "after": after, "limit": limit, "customer": customer}
    return [_answer(row) for row in (await connection.execute(_PAGE, wanted)).mappings()]


async def find_grant(
    *, connection: AsyncConnection, reference: str, now: datetime
) -> CreditGrant | None:
    """The grant with that key or id."""
    wanted = {"now": now, "reference": reference}
    row = (await connection.execute(_ONE, wanted)).mappings().one_or_none()
    return None if row is None else _answer(row)


async def is_key_taken(*, connection: AsyncConnection, key: str) -> bool:
    """Whether a grant has that key."""
    return bool((await connection.execute(_TAKEN, {"key": key})).scalar_one())


async def insert_grant(*, connection: AsyncConnection, grant: StoredGrant) -> None:
    """Write a grant; a key already taken violates its unique key."""
    row = msgspec.structs.asdict(grant) | {
        "kind": grant.kind.value,
        "prices": list(grant.prices),
        "meters": list(grant.meters),
        "rollover_fraction": Decimal(grant.rollover_fraction),
        "recurring": _json(grant.recurring),
        "top_up": _json(grant.top_up),
    }
    await connection.execute(_INSERT, row)


async def stored_grant(*, connection: AsyncConnection, reference: str) -> StoredGrant | None:
    """The grant with that key or id as it is written."""
    found = await _stored(connection, _STORED_ONE, {"reference": reference})
    return found[0] if found else None


async def ending_grants(
    *, connection: AsyncConnection, customer: str, at: datetime
) -> list[StoredGrant]:
    """The customer's grants that should have ended by then."""
    return await _stored(connection, _ENDING, {"customer": customer, "at": at})


async def grants_bought_by(*, connection: AsyncConnection, invoice: str) -> list[StoredGrant]:
    """The grants that the invoice (id) sold, and the living ones that they rolled into."""
    return await _stored(connection, _BOUGHT_BY, {"invoice": invoice})


async def topped_up_grants(
    *, connection: AsyncConnection, customer: str | None = None
) -> list[StoredGrant]:
    """The living grants that are topped up and those that did it, customer by customer."""
    return await _stored(connection, _TOPPED_UP, {"customer": customer})


async def count_top_ups(*, connection: AsyncConnection, grant: str) -> int:
    """How often a grant (id) was topped up."""
    return int((await connection.execute(_TOP_UPS, {"grant": grant})).scalar_one())


async def _stored(
    connection: AsyncConnection, query: Any, wanted: Mapping[str, Any]
) -> list[StoredGrant]:
    rows: Sequence[Mapping[Any, Any]] = (await connection.execute(query, wanted)).mappings().all()
    return [msgspec.convert(dict(row), StoredGrant) for row in rows]


def _json(value: msgspec.Struct | None) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _answer(row: Mapping[Any, Any]) -> CreditGrant:
    fields = dict(row)
    prices, meters = fields.pop("prices"), fields.pop("meters")
    scope = {"prices": prices, "meters": meters} if prices or meters else None
    currency = fields["currency"]
    amounts = {
        name: format_amount(fields.pop(f"{column}_minor"), currency=currency)
        for name, column in (
            ("amount", "amount"),
            ("remaining", "left"),
            ("drawn", "drawn"),
            ("expired", "expired"),
            ("voided", "voided"),
            ("rolled_over", "rolled_over"),
        )
    }
    bought = fields.pop("purchase_minor")
    cost = None if bought is None else format_amount(bought, currency=currency)
    return msgspec.convert(
        {**fields, **amounts, "scope": scope, "purchase_amount": cost}, CreditGrant
    )
