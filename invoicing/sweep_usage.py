"""Verb: take up what usage came since, before anything is derived from it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, is_free
from invoicing.spending_store import mark_seen
from invoicing.store import lock_billing, touch_subscriptions
from metering.alert_store import has_alerts, mark_customers
from metering.measure import sweep_inbox
from metering.store import is_inbox_empty


async def sweep_usage(*, connection: AsyncConnection) -> int:
    """Mark what new usage touches, under the posting lock.

    Subscriptions whose billed past it changes are derived again, those with spend thresholds and
    customers with usage alerts compared. Gives the count of sweeps that posting must still find.
    """
    sweeps = await lock_billing(connection=connection, sweep=True)
    customers, micros = await sweep_inbox(connection=connection)
    numbers, first = customers.tolist(), micros.tolist()
    await touch_subscriptions(connection=connection, customers=numbers, micros=first)
    await mark_seen(connection=connection, customers=numbers)
    if numbers and await has_alerts(connection=connection):
        await mark_customers(connection=connection, customers=numbers, micros=first)
    return sweeps


def billing_lock(seller: int) -> str:
    """The name of the lock that a billing run of the seller holds from its begin to its end."""
    return f"billing-{seller}"


async def sweep_waiting(*, database: Database, seller: int) -> None:
    """Sweep where usage waits. A billing run under way is left alone: it sweeps by itself."""
    async with database.transaction(seller=seller) as connection:
        if await is_inbox_empty(connection=connection):
            return
        if await is_free(connection=connection, name=billing_lock(seller)):
            await sweep_usage(connection=connection)
