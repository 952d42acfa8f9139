"""SQL of commits whose events lie in another store: PostgreSQL keeps that they happened.

A commit is the row of `event_batches` without a payload. It is written after the store has the
events, in the transaction that tells the inbox, so what became visible there is swept.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from metering.store import at_micros

ELSEWHERE: Final = 0
"""The number of no meter, in the place of the meters a batch was measured for."""

# One commit of a seller after the other. The number is taken under the lock, so that a later
# commit has the higher one; what is read afterwards sees all that came before.
_HOLD: Final = """
WITH held AS MATERIALIZED (
  SELECT pg_advisory_xact_lock(hashtextextended('events ' || current_seller(), 0)))
SELECT nextval('event_batch_numbers') AS batch,
  EXISTS (SELECT FROM event_keys WHERE seller = current_seller()) AS has_keys
FROM held
"""
_COMMITTED: Final = """
SELECT batch FROM event_batches
WHERE seller = current_seller() AND batch = ANY($1::bigint[]) AND payload IS NULL
"""
_WRITE: Final = """
INSERT INTO event_batches (batch, received_at, events, first_at, last_at, meters)
VALUES ($1, $2, $3, $4, $5, $6)
"""
_TELL: Final = "INSERT INTO event_inbox (batch, customers, times) VALUES ($1, $2, $3)"
_STREAM: Final = """
SELECT stream FROM event_streams WHERE seller = current_seller() AND source = $1 AND form = $2
"""
_SIZES: Final = """
SELECT batch, events FROM event_batches
WHERE seller = current_seller() AND meters = $1 ORDER BY batch
"""


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """The number of a commit under way; whether PostgreSQL holds identities of older events."""

    batch: int
    has_keys: bool


class CommitRow(msgspec.Struct, frozen=True, kw_only=True):
    """One commit; `customers` and `times` are whom it touches, None where that must be read."""

    batch: int
    received_at: datetime
    events: int
    first_micros: int
    last_micros: int
    customers: bytes | None = None
    times: bytes | None = None


async def hold_commits(raw: Any) -> Held:
    """Keep other commits of the seller out until the transaction ends."""
    return msgspec.convert(dict(await raw.fetchrow(_HOLD)), Held)


async def committed(raw: Any, *, batches: Iterable[int]) -> frozenset[int]:
    """Those of the batches that were committed with their events in another store."""
    wanted = sorted(set(batches))
    rows = await raw.fetch(_COMMITTED, wanted) if wanted else ()
    return frozenset(row["batch"] for row in rows)


async def write_commit(raw: Any, *, row: CommitRow) -> None:
    """Tell that the events of a batch are in the store, and put it into the inbox."""
    first, last = at_micros(row.first_micros), at_micros(row.last_micros)
    await raw.execute(_WRITE, row.batch, row.received_at, row.events, first, last, [ELSEWHERE])
    await raw.execute(_TELL, row.batch, row.customers, row.times)


async def find_stream(raw: Any, *, source: str, form: str) -> int | None:
    """The number of a stream, if an event of it was ever stored."""
    stream: int | None = await raw.fetchval(_STREAM, source, form)
    return stream


async def commit_sizes(raw: Any) -> Sequence[tuple[int, int]]:
    """(batch, events) of every commit whose events lie in another store."""
    return [(row["batch"], row["events"]) for row in await raw.fetch(_SIZES, [ELSEWHERE])]
