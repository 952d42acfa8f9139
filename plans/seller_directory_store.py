"""SQL for finding sellers before one is named: by id, all of them, those with work due."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from plans.model import Mode

_ALL: Final = text("SELECT seller, id, legal_name, mode, clock_at FROM list_sellers()")
_ALERTED: Final = text("SELECT seller, id FROM alerted_sellers()")
_FIND: Final = text("SELECT seller, id, mode, clock_at FROM find_seller(:id)")
_DUE: Final = text("SELECT seller, id FROM due_sellers(:now)")


class SellerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A seller as the directory knows it; `seller` is its number inside."""

    seller: int
    id: str
    legal_name: str
    mode: Mode
    clock_at: datetime | None


class FoundSeller(msgspec.Struct, frozen=True, kw_only=True):
    """A seller looked up by its id; `seller` is its number inside."""

    seller: int
    id: str
    mode: Mode
    clock_at: datetime | None


async def find_seller(*, connection: AsyncConnection, seller_id: str) -> FoundSeller | None:
    """The seller of that id, or None. Works in a transaction that named none."""
    row = (await connection.execute(_FIND, {"id": seller_id})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), FoundSeller)


async def list_sellers(*, connection: AsyncConnection) -> list[SellerEntry]:
    """Every seller, the oldest first. Works in a transaction that named none."""
    rows = await connection.execute(_ALL)
    return [msgspec.convert(dict(row), SellerEntry) for row in rows.mappings()]


async def list_due_sellers(*, connection: AsyncConnection, now: datetime) -> list[int]:
    """Numbers of the live sellers with something due at `now`."""
    return [row.seller for row in await connection.execute(_DUE, {"now": now})]


async def list_alerted_sellers(*, connection: AsyncConnection) -> list[int]:
    """Numbers of the live sellers with usage alerts and usage to be compared with them."""
    return [row.seller for row in await connection.execute(_ALERTED)]
