"""SQL of billing runs that are proposed: whether one stands, and that it was made."""

from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_STANDING: Final = text("""
SELECT EXISTS (SELECT FROM billing_runs WHERE seller = current_seller()
  AND status IN ('queued', 'running', 'paused', 'reviewing', 'awaiting_approval'))
""")
_TAKE_UP: Final = text("""
UPDATE billing_runs SET background = true
WHERE seller = current_seller() AND status IN ('running', 'reviewing') AND NOT background
""")
_REFUSED: Final = text("""
SELECT EXISTS (SELECT FROM billing_runs WHERE seller = current_seller()
  AND approve IS NOT false AND status = 'cancelled' AND customers IS NULL AND finished_at > :since)
""")
_PROPOSED: Final = text("""
UPDATE billing_runs SET status = 'awaiting_approval', proposals = proposals + 1
WHERE seller = current_seller() AND id = :run RETURNING proposals
""")


async def leave_to_worker(*, connection: AsyncConnection) -> None:
    """Have a worker go on with runs that are not over, whoever began with them and died."""
    await connection.execute(_TAKE_UP)


async def is_any_open(*, connection: AsyncConnection) -> bool:
    """Whether a run is not over. One whose process died is left to a worker from now on."""
    await leave_to_worker(connection=connection)
    return bool((await connection.execute(_STANDING)).scalar_one())


async def was_refused(*, connection: AsyncConnection, since: datetime) -> bool:
    """Whether a proposal over all customers was rejected, or cancelled, after that."""
    return bool((await connection.execute(_REFUSED, {"since": since})).scalar_one())


async def note_proposed(*, connection: AsyncConnection, run: str) -> int:
    """Let a run await approval; for the how manieth time it does."""
    return (await connection.execute(_PROPOSED, {"run": run})).scalar_one()
