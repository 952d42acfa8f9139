"""SQL of what is kept by the hash of its own content: parties and logos, by the page."""

from collections.abc import AsyncIterator
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver

_PARTIES: Final = """
SELECT id, CAST(body AS text) AS body FROM parties WHERE seller = current_seller()
"""
_LOGOS: Final = "SELECT id, content FROM logos WHERE seller = current_seller()"
_PARTIES_AT_ONCE: Final = 2_000
_LOGOS_AT_ONCE: Final = 20


async def stream_parties(*, connection: AsyncConnection) -> AsyncIterator[list[Any]]:
    """(id, JSON) of the parties of the transaction's seller."""
    raw = await driver(connection)
    cursor = await raw.cursor(_PARTIES)
    while rows := await cursor.fetch(_PARTIES_AT_ONCE):
        yield rows


async def stream_logos(*, connection: AsyncConnection) -> AsyncIterator[list[Any]]:
    """(id, content) of the logos of the transaction's seller."""
    raw = await driver(connection)
    cursor = await raw.cursor(_LOGOS)
    while rows := await cursor.fetch(_LOGOS_AT_ONCE):
        yield rows
