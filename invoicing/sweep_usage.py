"""Verb: take up what usage came since, before anything is derived from it."""

from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.spending_store import mark_seen
from invoicing.store import lock_billing, touch_subscriptions
from metering.measure import sweep_inbox


async def sweep_usage(*, connection: AsyncConnection) -> int:
    """Mark what new usage touches, under the posting lock.

    Subscriptions whose billed past it changes are derived again, those with spend thresholds
    compared. Gives the count of sweeps that posting must still find.
    """
    sweeps = await lock_billing(connection=connection, sweep=True)
    customers, micros = await sweep_inbox(connection=connection)
    numbers = customers.tolist()
    await touch_subscriptions(connection=connection, customers=numbers, micros=micros.tolist())
    await mark_seen(connection=connection, customers=numbers)
    return sweeps
