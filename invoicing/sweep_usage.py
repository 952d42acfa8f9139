"""Verb: take up what usage came since, before anything is derived from it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, is_free
from invoicing.spending_store import has_thresholds, mark_seen
from invoicing.store import (
    derived_instants,
    derived_until,
    lock_billing,
    touch_subscriptions,
)
from metering.alert_store import has_alerts, mark_customers
from metering.earliest import Narrowing
from metering.measure import earliest_usage
from metering.store import is_inbox_empty, take_inbox

NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)
"""Before all usage: what a seller has derived nothing of is not looked at."""

MUCH: Final = 250_000
"""Of so many events on it may pay to ask up to when each customer is billed."""
MOST: Final = 2_000_000
"""Of no more subscriptions: the answer takes sixteen bytes of each, for a moment several times."""


async def sweep_usage(*, connection: AsyncConnection) -> int:
    """Mark what new usage touches, under the posting lock.

    Subscriptions whose billed past it changes are derived again, those with spend thresholds and
    customers with usage alerts compared. Gives the count of sweeps that posting must still find.
    """
    sweep = await take_usage(connection=connection)
    await mark_usage(connection=connection, sweep=sweep)
    return sweep.count


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken off the inbox, and the count of sweeps that posting must still find."""

    count: int
    taken: Sequence[Any]


async def take_usage(*, connection: AsyncConnection) -> Sweep:
    """Take what waits off the inbox, under the posting lock: the first half of a sweep.

    Every snapshot begun from here on has the usage that was taken.
    """
    count = await lock_billing(connection=connection, sweep=True)
    return Sweep(count=count, taken=await take_inbox(connection=connection))


async def mark_usage(*, connection: AsyncConnection, sweep: Sweep) -> int:
    """Mark what it touches, in the same transaction; how many subscriptions are derived again.

    Where nothing is watched, usage of after all that is billed touches nothing and is not read.
    """
    if not sweep.taken:
        return 0
    # Asked after the inbox was taken: who begins to watch later looks at what is there by himself.
    alerts = await has_alerts(connection=connection)
    watched = alerts or await has_thresholds(connection=connection)
    before, narrowing = (None, None) if watched else await _billed(connection)
    customers, micros = await earliest_usage(
        connection=connection, taken=sweep.taken, before=before, narrowing=narrowing
    )
    numbers, first = customers.tolist(), micros.tolist()
    touched = await touch_subscriptions(connection=connection, customers=numbers, micros=first)
    if watched:
        await mark_seen(connection=connection, customers=numbers)
    if alerts and numbers:
        await mark_customers(connection=connection, customers=numbers, micros=first)
    return touched


async def _billed(connection: AsyncConnection) -> tuple[datetime, Narrowing | None]:
    """Before when usage can touch anything at all, and how to tell for each customer, if at all.

    To ask that of all subscriptions takes less than to look for as many customers with usage.
    """
    until, subscriptions = await derived_until(connection=connection)
    if subscriptions > MOST:
        return until or NEVER, None
    read = partial(derived_instants, connection=connection)
    return until or NEVER, Narrowing(events=max(subscriptions, MUCH), read=read)


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
