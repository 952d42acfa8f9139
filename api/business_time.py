"""Business time for work that takes transactions of its own."""

from datetime import datetime

from engine.db import Database
from plans.model import Mode
from plans.seller_store import load_seller


async def business_now(*, database: Database, seller: int, wall_now: datetime) -> datetime:
    """What the seller's clock tells: a test seller's own, else the wall's."""
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
    return found.clock_at if found.mode is Mode.TEST and found.clock_at is not None else wall_now
