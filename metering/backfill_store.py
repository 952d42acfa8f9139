"""SQL of named backfills."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.model import Backfill

# An amendment is a batch of one event in the same backfill, and no other event than the first.
_BACKFILLS: Final = """
SELECT f.id, f.key, f.status, f.created_at, f.closed_at, f.reversed_at, CAST(coalesce((
  SELECT sum(b.events) FROM backfill_batches x
    JOIN event_batches b ON b.seller = x.seller AND b.batch = x.batch
  WHERE x.seller = f.seller AND x.backfill = f.id), 0) - (
  SELECT count(*) FROM backfill_batches x
    JOIN event_voids v ON v.seller = x.seller AND v.batch = x.batch
  WHERE x.seller = f.seller AND x.backfill = f.id AND v.replacement IS NOT NULL
  ) AS bigint) AS events
FROM backfills f WHERE f.seller = current_seller()
"""
_FIND: Final = text(
    _BACKFILLS
    + "AND (f.id = :reference OR f.key = :reference) ORDER BY f.id = :reference DESC LIMIT 1"
)
_PAGE: Final = text(
    _BACKFILLS + "AND (CAST(:after AS text) IS NULL OR f.id > :after) ORDER BY f.id LIMIT :limit"
)
_LOCK: Final = text("""
SELECT id FROM backfills
WHERE seller = current_seller() AND (id = :reference OR key = :reference) FOR UPDATE
""")
_INSERT: Final = text("""
INSERT INTO backfills (id, key, status, created_at) VALUES (:id, :key, 'open', :now)
""")
_CLOSE: Final = text("""
UPDATE backfills SET status = 'closed', closed_at = :now
WHERE seller = current_seller() AND id = :id
""")
_REVERSE: Final = text("""
UPDATE backfills SET status = 'reversed', reversed_at = :now
WHERE seller = current_seller() AND id = :id
""")
# An update where the row is there already, so that a run which takes it off the inbox waits for us.
_LOOK_AGAIN: Final = text("""
INSERT INTO event_inbox (batch, again) SELECT batch, :reverse FROM backfill_batches
WHERE seller = current_seller() AND backfill = :id ORDER BY batch
ON CONFLICT (seller, batch) DO UPDATE SET again = event_inbox.again OR excluded.again
""")


async def find_backfill(
    *, connection: AsyncConnection, reference: str, lock: bool = False
) -> Backfill | None:
    """The backfill of that id or key; with `lock` nothing joins it until the transaction ends."""
    if lock:
        await connection.execute(_LOCK, {"reference": reference})
    row = (await connection.execute(_FIND, {"reference": reference})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), Backfill)


async def list_backfills(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[Backfill]:
    """Up to `limit` backfills after the id `after`, in the order of their ids."""
    rows = await connection.execute(_PAGE, {"after": after, "limit": limit})
    return [msgspec.convert(dict(row), Backfill) for row in rows.mappings()]


async def insert_backfill(
    *, connection: AsyncConnection, backfill: str, key: str, now: datetime
) -> None:
    """Open a backfill; a key already taken violates its unique key."""
    await connection.execute(_INSERT, {"id": backfill, "key": key, "now": now})


async def settle_backfill(
    *, connection: AsyncConnection, backfill: str, reverse: bool, now: datetime
) -> None:
    """Close or reverse a backfill; the next billing run looks at all its batches."""
    await connection.execute(_REVERSE if reverse else _CLOSE, {"id": backfill, "now": now})
    await connection.execute(_LOOK_AGAIN, {"id": backfill, "reverse": reverse})
