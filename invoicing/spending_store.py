"""SQL of spend thresholds: which subscriptions have usage to look at, and which to bill at once."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_HAS: Final = text("""
SELECT EXISTS (SELECT FROM subscriptions
  WHERE seller = current_seller() AND spend_thresholds <> '{}')
""")
_MARK: Final = text("""
UPDATE subscriptions s SET usage_seen = true
FROM customers c
WHERE s.seller = current_seller() AND s.spend_thresholds <> '{}' AND NOT s.usage_seen
  AND c.seller = s.seller AND c.id = s.customer AND c.number = ANY(CAST(:customers AS bigint[]))
""")
_SEEN: Final = text("""
SELECT id FROM subscriptions WHERE seller = current_seller() AND spend_thresholds <> '{}'
  AND usage_seen ORDER BY id LIMIT :limit
""")
_DONE: Final = text("""
UPDATE subscriptions SET usage_seen = false WHERE seller = current_seller() AND id = ANY(:ids)
""")
_DUE: Final = text("""
UPDATE subscriptions SET interim_at = :now, next_due_at = least(next_due_at, :now),
  revision = revision + 1
WHERE seller = current_seller() AND id = ANY(:ids)
""")

# Under the locks of the subscriptions, so that their versions follow one another.
_TELL: Final = text("""
INSERT INTO outbox (id, type, object, version, occurred_at)
SELECT u.id, 'spend_threshold.reached', u.subscription, 1 + coalesce((
  SELECT max(o.version) FROM outbox o
  WHERE o.seller = current_seller() AND o.object = u.subscription), 0), :now
FROM unnest(CAST(:ids AS text[]), CAST(:subscriptions AS text[])) WITH ORDINALITY
  AS u (id, subscription, place)
ORDER BY u.place
""")


async def has_thresholds(*, connection: AsyncConnection) -> bool:
    """Whether any subscription of the seller has spend thresholds."""
    return (await connection.execute(_HAS)).scalar_one()


async def mark_seen(*, connection: AsyncConnection, customers: Sequence[int]) -> None:
    """Remember that the customers (numbers) used something, where a threshold waits for it."""
    if customers:
        await connection.execute(_MARK, {"customers": list(customers)})


async def seen(*, connection: AsyncConnection, limit: int) -> list[str]:
    """Ids of subscriptions whose thresholds are to be compared."""
    return list((await connection.execute(_SEEN, {"limit": limit})).scalars())


async def settle_seen(
    *,
    connection: AsyncConnection,
    compared: Sequence[str],
    reached: Sequence[str],
    told: Mapping[str, str],
    now: datetime,
) -> None:
    """Nothing is left to compare; those that reached a threshold are due now.

    `told` are the ids of the events to be told, by subscription.
    """
    await connection.execute(_DONE, {"ids": list(compared)})
    if reached:
        await connection.execute(_DUE, {"ids": list(reached), "now": now})
    if told:
        given = {"ids": list(told.values()), "subscriptions": list(told), "now": now}
        await connection.execute(_TELL, given)
