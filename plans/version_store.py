"""SQL for the versions of a plan and the subscriptions that run on them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_OLDER: Final = text("""
SELECT id FROM plans WHERE seller = current_seller() AND key = :key AND version < :version
ORDER BY version
""")
_CUSTOMERS: Final = text("""
SELECT w.ordinal - 1 AS place, c.id
FROM unnest(CAST(:references AS text[])) WITH ORDINALITY AS w (reference, ordinal)
  LEFT JOIN LATERAL (SELECT id FROM customers
    WHERE seller = current_seller() AND (key = w.reference OR id = w.reference) LIMIT 1) c ON true
ORDER BY w.ordinal
""")
# A subscription has been on a plan that it began with or that one of its changes names.
_SUBSCRIPTIONS: Final = text("""
SELECT s.id FROM subscriptions s
WHERE s.seller = current_seller() AND (CAST(:after AS text) IS NULL OR s.id > :after)
  AND (s.ends_at IS NULL OR s.ends_at > :now)
  AND (CAST(:customers AS text[]) IS NULL OR s.customer = ANY(:customers))
  AND (s.plan = ANY(:plans) OR EXISTS (SELECT 1 FROM subscription_changes h
    WHERE h.seller = s.seller AND h.subscription = s.id AND h.undone_at IS NULL
      AND h.plan = ANY(:plans)))
ORDER BY s.id LIMIT :limit
""")
_NAMES: Final = text("""
SELECT s.id, s.key, c.key AS customer
FROM subscriptions s JOIN customers c ON c.seller = s.seller AND c.id = s.customer
WHERE s.seller = current_seller() AND s.id = ANY(:subscriptions)
""")


async def older_versions(*, connection: AsyncConnection, key: str, version: int) -> list[str]:
    """The ids of the plan's versions before that one."""
    found = await connection.execute(_OLDER, {"key": key, "version": version})
    return list(found.scalars())


async def customer_ids(
    *, connection: AsyncConnection, references: Sequence[str]
) -> list[str | None]:
    """The id of each customer named by key or id, in the order given; None where there is none."""
    rows = await connection.execute(_CUSTOMERS, {"references": list(references)})
    return [row.id for row in rows]


async def subscriptions_on(
    *,
    connection: AsyncConnection,
    plans: Sequence[str],
    customers: Sequence[str] | None,
    now: datetime,
    after: str | None,
    limit: int,
) -> list[str]:
    """Up to `limit` ids beyond `after` of subscriptions not over that were ever on those plans."""
    found = await connection.execute(
        _SUBSCRIPTIONS,
        {
            "plans": list(plans),
            "customers": None if customers is None else list(customers),
            "now": now,
            "after": after,
            "limit": limit,
        },
    )
    return list(found.scalars())


async def names_of(
    *, connection: AsyncConnection, subscriptions: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """(its key, its customer's key) of each subscription by its id."""
    rows = await connection.execute(_NAMES, {"subscriptions": list(subscriptions)})
    return {row.id: (row.key, row.customer) for row in rows}
