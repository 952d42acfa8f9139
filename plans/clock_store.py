"""SQL for a test seller's own clock."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_MOVE: Final = text("""
UPDATE sellers SET clock_at = greatest(clock_at, :now)
WHERE seller = current_seller() AND mode = 'test'
""")


async def move_clock(*, connection: AsyncConnection, now: datetime) -> None:
    """Set the clock forward to `now`; it never goes back, and a live seller has none."""
    await connection.execute(_MOVE, {"now": now})
