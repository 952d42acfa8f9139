"""Verb: compare what was committed with what the event store outside PostgreSQL holds."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.event_stores import event_store_of, required
from metering.manifest_store import commit_sizes
from metering.store import seller_of


class DifferingCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A commit of which the store does not hold each event once."""

    batch: int
    committed: int
    found: int


async def differing_commits(*, connection: AsyncConnection) -> list[DifferingCommit]:
    """The commits of the transaction's seller that lack events in the store, or have too many.

    Errors: `event_store_missing`.
    """
    raw = await driver(connection)
    sizes = await commit_sizes(raw)
    if not sizes:
        return []
    store = required(event_store_of(connection))
    found = await store.count(seller=await seller_of(raw))
    return [
        DifferingCommit(batch=batch, committed=events, found=found.get(batch, 0))
        for batch, events in sizes
        if found.get(batch, 0) != events
    ]
