"""SQL for what the plans of running subscriptions entitle to."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from plans.entitlements import Grants
from plans.prices import Interval
from plans.subscription_store import PAUSED_AT, PriceBook, agreements_of

_RUNNING: Final = text(f"""
SELECT s.id, p.entitlements, p.interval
FROM subscriptions s
  LEFT JOIN LATERAL (
    SELECT h.plan FROM subscription_changes h
    WHERE h.seller = s.seller AND h.subscription = s.id AND h.plan IS NOT NULL
      AND h.undone_at IS NULL AND h.effective_at <= :now
    ORDER BY h.effective_at DESC, h.number DESC LIMIT 1) h ON true
  JOIN plans p ON p.seller = s.seller AND p.id = coalesce(h.plan, s.plan)
WHERE s.seller = current_seller() AND s.customer = :customer AND s.starts_at <= :now
  AND (s.ends_at IS NULL OR s.ends_at > :now) AND {PAUSED_AT} IS NULL
""")


async def running_grants(
    *, connection: AsyncConnection, customer: str, now: datetime
) -> list[Grants]:
    """What each subscription of the customer (id) that runs at `now` gives, by its key."""
    rows = (await connection.execute(_RUNNING, {"customer": customer, "now": now})).all()
    plans = {row.id: (row.entitlements, msgspec.convert(row.interval, Interval)) for row in rows}
    if not any(features for features, _ in plans.values()):
        return []
    found = await agreements_of(connection=connection, customers=[customer], book=PriceBook())
    return [
        Grants(agreement=each, features=plans[each.id][0], interval=plans[each.id][1])
        for each in sorted(found, key=lambda agreement: agreement.key)
        if each.id in plans
    ]
