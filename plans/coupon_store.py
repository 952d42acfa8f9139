"""SQL of coupons and of the subscriptions that have them."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount, parse_amount
from plans.coupons import AppliedCoupon, Coupon, CouponDraft

_COLUMNS: Final = """id, key, name, trim_scale(percent_off)::text AS percent_off, amount_off_minor,
  currency, duration, periods, prices, archived_at, created_at"""
_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM coupons WHERE seller = current_seller()
  AND (CAST(:after AS text) IS NULL OR id > :after) ORDER BY id LIMIT :limit
""")
_ONE: Final = text(f"""
SELECT {_COLUMNS} FROM coupons
WHERE seller = current_seller() AND (key = :reference OR id = :reference)
""")
_INSERT: Final = text("""
INSERT INTO coupons (id, key, name, percent_off, amount_off_minor, currency, duration, periods,
  prices, created_at)
VALUES (:id, :key, :name, :percent_off, :amount_off_minor, :currency, :duration, :periods,
  :prices, :created_at)
""")
_ARCHIVE: Final = text("""
UPDATE coupons SET archived_at = coalesce(archived_at, :now)
WHERE seller = current_seller() AND id = :id
""")
_APPLIED: Final = text("""
SELECT a.id, c.key AS coupon, s.key AS subscription, a.applied_at, a.removed_at,
  (SELECT count(DISTINCT d.document) FROM line_discounts d
    LEFT JOIN invoices i ON i.seller = d.seller AND i.id = d.document
    LEFT JOIN credit_notes n ON n.seller = d.seller AND n.id = d.document
    WHERE d.seller = a.seller AND d.application = a.id AND d.amount_minor > 0
      AND coalesce(i.status, n.status) <> 'void') AS documents
FROM coupon_applications a JOIN coupons c ON c.seller = a.seller AND c.id = a.coupon
  JOIN subscriptions s ON s.seller = a.seller AND s.id = a.subscription
WHERE a.seller = current_seller() AND a.subscription = :subscription ORDER BY a.number
""")
_APPLY: Final = text("""
INSERT INTO coupon_applications (id, coupon, subscription, number, applied_at)
SELECT :id, :coupon, :subscription, coalesce(max(number), 0) + 1, CAST(:now AS timestamptz)
FROM coupon_applications WHERE seller = current_seller() AND subscription = :subscription
""")
_REMOVE: Final = text("""
UPDATE coupon_applications SET removed_at = :now
WHERE seller = current_seller() AND subscription = :subscription AND removed_at IS NULL
  AND (id = :reference OR coupon = :reference OR coupon =
    (SELECT id FROM coupons WHERE seller = current_seller() AND key = :reference))
""")


def _coupon(row: Mapping[Any, Any]) -> Coupon:
    fields = dict(row)
    minor, prices = fields.pop("amount_off_minor"), fields.pop("prices")
    amount = None if minor is None else format_amount(minor, currency=fields["currency"])
    scope = {"prices": prices} if prices else None
    return msgspec.convert({**fields, "amount_off": amount, "applies_to": scope}, Coupon)


async def list_coupons(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[Coupon]:
    """Up to `limit` coupons after the id `after`, in the order they were made."""
    rows = (await connection.execute(_PAGE, {"after": after, "limit": limit})).mappings()
    return [_coupon(row) for row in rows]


async def find_coupon(*, connection: AsyncConnection, reference: str) -> Coupon | None:
    """The coupon with that key or id."""
    row = (await connection.execute(_ONE, {"reference": reference})).mappings().one_or_none()
    return None if row is None else _coupon(row)


async def insert_coupon(
    *,
    connection: AsyncConnection,
    coupon_id: str,
    draft: CouponDraft,
    currency: str,
    now: datetime,
) -> None:
    """Write a coupon, an amount in `currency`; a key already taken violates its unique key."""
    amount = draft.amount_off
    await connection.execute(
        _INSERT,
        {
            "id": coupon_id,
            "key": draft.key,
            "name": draft.name,
            "percent_off": None if draft.percent_off is None else Decimal(draft.percent_off),
            "amount_off_minor": None if amount is None else parse_amount(amount, currency=currency),
            "currency": None if amount is None else currency,
            "duration": draft.duration.value,
            "periods": draft.periods,
            "prices": list(draft.applies_to.prices) if draft.applies_to is not None else [],
            "created_at": now,
        },
    )


async def archive_coupon(*, connection: AsyncConnection, coupon_id: str, now: datetime) -> None:
    """Let nobody be given the coupon any more; who has it keeps it."""
    await connection.execute(_ARCHIVE, {"id": coupon_id, "now": now})


async def apply_coupon(
    *,
    connection: AsyncConnection,
    application_id: str,
    coupon_id: str,
    subscription_id: str,
    now: datetime,
) -> None:
    """Give a subscription a coupon, after those it has."""
    await connection.execute(
        _APPLY,
        {
            "id": application_id,
            "coupon": coupon_id,
            "subscription": subscription_id,
            "now": now,
        },
    )


async def remove_coupon(
    *, connection: AsyncConnection, subscription_id: str, reference: str, now: datetime
) -> int:
    """Take a coupon (its key or id, or that of the application) back; how many that were."""
    named = {"subscription": subscription_id, "reference": reference, "now": now}
    return (await connection.execute(_REMOVE, named)).rowcount


async def applied_coupons(
    *, connection: AsyncConnection, subscription_id: str
) -> list[AppliedCoupon]:
    """The coupons of a subscription in the order in which they were given."""
    rows = (await connection.execute(_APPLIED, {"subscription": subscription_id})).mappings()
    return [msgspec.convert(dict(row), AppliedCoupon) for row in rows]
