"""SQL for what the plans of running subscriptions entitle to."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from plans.entitlements import Grants
from plans.prices import Interval
from plans.subscription_store import PAUSED_AT, PriceBook, agreements_of

_RUNNING: Final = text(f"""
SELECT s.id, s.customer, p.entitlements, p.interval
FROM subscriptions s
  LEFT JOIN LATERAL (
    SELECT h.plan FROM subscription_changes h
    WHERE h.seller = s.seller AND h.subscription = s.id AND h.plan IS NOT NULL
      AND h.undone_at IS NULL AND h.effective_at <= :now
    ORDER BY h.effective_at DESC, h.number DESC LIMIT 1) h ON true
  JOIN plans p ON p.seller = s.seller AND p.id = coalesce(h.plan, s.plan)
WHERE s.seller = current_seller() AND s.customer = ANY(:customers) AND s.starts_at <= :now
  AND (s.ends_at IS NULL OR s.ends_at > :now) AND {PAUSED_AT} IS NULL
""")


async def running_grants(
    *, connection: AsyncConnection, customer: str, now: datetime
) -> list[Grants]:
    """What each subscription of the customer (id) that runs at `now` gives, by its key."""
    found = await grants_by_customer(
        connection=connection, customers=[customer], now=now, featured=True
    )
    return found.get(customer, [])


async def grants_by_customer(
    *,
    connection: AsyncConnection,
    customers: Sequence[str],
    now: datetime,
    featured: bool = False,
) -> dict[str, list[Grants]]:
    """The subscriptions that run at `now` by customer (id), in the order of their keys.

    With `featured` only of customers with a plan that names a feature.
    """
    given = {"customers": list(customers), "now": now}
    rows = (await connection.execute(_RUNNING, given)).all()
    if featured:
        having = {row.customer for row in rows if row.entitlements}
        rows = [row for row in rows if row.customer in having]
    plans = {row.id: (row.entitlements, msgspec.convert(row.interval, Interval)) for row in rows}
    found: dict[str, list[Grants]] = {}
    if not plans:
        return found
    agreements = await agreements_of(
        connection=connection, customers=sorted({row.customer for row in rows}), book=PriceBook()
    )
    for each in sorted(agreements, key=lambda agreement: agreement.key):
        if each.id in plans:
            features, interval = plans[each.id]
            grants = Grants(agreement=each, features=features, interval=interval)
            found.setdefault(each.customer, []).append(grants)
    return found
