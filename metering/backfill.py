"""Verbs of named backfills: open one, let its usage count, take it back as a whole."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import new_id
from metering.backfill_store import find_backfill, insert_backfill, settle_backfill
from metering.model import Backfill, BackfillDraft


async def open_backfill(
    *, connection: AsyncConnection, draft: BackfillDraft, now: datetime, wall_now: datetime
) -> Backfill:
    """Open a backfill: events that name its key may be of any age. Errors: `key_taken`."""
    if await find_backfill(connection=connection, reference=draft.key) is not None:
        detail = f"there is a backfill {draft.key!r}"
        raise BillingError("key_taken", detail, kind=ErrorKind.CONFLICT)
    backfill = new_id(prefix="bkf", now=wall_now)
    await insert_backfill(connection=connection, backfill=backfill, key=draft.key, now=now)
    return await _find(connection, backfill)


async def close_backfill(*, connection: AsyncConnection, reference: str, now: datetime) -> Backfill:
    """Take no more events, and let those that came count.

    Errors: `not_found`, `backfill_not_open`.
    """
    found = await _find(connection, reference, lock=True)
    if found.status != "open":
        detail = f"the backfill {found.key!r} is {found.status}"
        raise BillingError("backfill_not_open", detail, kind=ErrorKind.CONFLICT)
    await settle_backfill(connection=connection, backfill=found.id, reverse=False, now=now)
    return await _find(connection, found.id)


async def reverse_backfill(
    *, connection: AsyncConnection, reference: str, now: datetime
) -> Backfill:
    """Take all its events back, open or closed; their ids stay taken.

    Errors: `not_found`, `already_reversed`.
    """
    found = await _find(connection, reference, lock=True)
    if found.status == "reversed":
        detail = f"the backfill {found.key!r} was reversed before"
        raise BillingError("already_reversed", detail, kind=ErrorKind.CONFLICT)
    await settle_backfill(connection=connection, backfill=found.id, reverse=True, now=now)
    return await _find(connection, found.id)


async def _find(connection: AsyncConnection, reference: str, *, lock: bool = False) -> Backfill:
    found = await find_backfill(connection=connection, reference=reference, lock=lock)
    if found is None:
        raise not_found(noun="backfill", reference=reference)
    return found
