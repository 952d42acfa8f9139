"""Verb: take up new usage for a seller's usage alerts and tell what came to one of them."""

from datetime import datetime

from engine.db import Database
from invoicing.sweep_usage import sweep_waiting
from metering.alert_store import has_alerts
from metering.compare_alerts import compare_alerts


async def watch_usage(*, database: Database, seller: int, now: datetime) -> int:
    """Compare what new usage moved with the alerts; give how many thresholds were told."""
    async with database.transaction(seller=seller) as connection:
        if not await has_alerts(connection=connection):
            return 0
    await sweep_waiting(database=database, seller=seller)
    return await compare_alerts(database=database, seller=seller, now=now)
