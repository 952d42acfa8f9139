"""SQL of corrected events: where an event stands today, what takes it back, what replaces it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from metering.batch_store import BatchRow, insert_batch, load_events
from metering.columns import MeterColumns
from metering.manifest_store import ELSEWHERE
from metering.model import StoredEvent

_FIND: Final = """
SELECT k.batch, k.ordinal FROM event_streams s
JOIN event_keys k ON k.seller = s.seller AND k.stream = s.stream AND k.key = $3
WHERE s.seller = current_seller() AND s.source = $1 AND s.form = $2
"""
# The batch is shared until the commit, so that no other meter measures it in between.
_CHAIN: Final = """
WITH RECURSIVE chain (batch, ordinal, revision) AS (
  SELECT $1::bigint, $2::integer, 0
  UNION ALL
  SELECT v.replacement, 0, c.revision + 1
  FROM chain c JOIN event_voids v ON v.seller = current_seller() AND v.batch = c.batch
    AND v.ordinal = c.ordinal
  WHERE v.replacement IS NOT NULL
)
SELECT c.batch, c.ordinal, c.revision, b.received_at, b.meters, EXISTS (
  SELECT FROM event_voids v
  WHERE v.seller = b.seller AND v.batch = c.batch AND v.ordinal = c.ordinal) AS voided
FROM chain c JOIN event_batches b ON b.seller = current_seller() AND b.batch = c.batch
ORDER BY c.revision DESC LIMIT 1 FOR SHARE OF b
"""
_PREFIX: Final = "SELECT payload FROM event_batches WHERE seller = current_seller() AND batch = $1"
_VOID: Final = """
INSERT INTO event_voids (batch, ordinal, voided_at, replacement) VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING RETURNING batch
"""
_POSITIONS: Final = """
INSERT INTO event_void_positions (meter, batch, ordinal, position)
SELECT u.meter, $1, $2, u.position FROM unnest($3::integer[], $4::integer[]) AS u (meter, position)
"""
# An update where the row is there already, so that a run which takes it off the inbox waits for us.
_LOOK_AGAIN: Final = """
INSERT INTO event_inbox (batch, again) VALUES ($1, true)
ON CONFLICT (seller, batch) DO UPDATE SET again = true
"""
_JOIN: Final = """
INSERT INTO backfill_batches (batch, backfill) SELECT $2, backfill FROM backfill_batches
WHERE seller = current_seller() AND batch = $1
RETURNING (SELECT f.status FROM backfills f
  WHERE f.seller = backfill_batches.seller AND f.id = backfill_batches.backfill)
"""
_NUMBER: Final = "SELECT nextval('event_batch_numbers')"
_MAKE_STREAM: Final = """
INSERT INTO event_streams (source, form) VALUES ($1, 'amendment') ON CONFLICT DO NOTHING
"""
_STREAM: Final = """
SELECT stream FROM event_streams
WHERE seller = current_seller() AND source = $1 AND form = 'amendment'
"""
_KEY: Final = """
INSERT INTO event_keys (stream, key, batch, ordinal) VALUES ($1, $2, $3, 0)
ON CONFLICT DO NOTHING RETURNING batch
"""


class EventPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where an event stands after `revision` amendments, and whether it was taken back there.

    `meters` are those that were known to who stored it, by number.
    """

    batch: int
    ordinal: int
    revision: int
    received_at: datetime
    meters: tuple[int, ...]
    voided: bool

    @property
    def elsewhere(self) -> bool:
        """Whether the event lies in another store than PostgreSQL."""
        return self.meters == (ELSEWHERE,)


async def find_key(raw: Any, *, source: str, form: str, key: UUID) -> tuple[int, int] | None:
    """The batch and ordinal of the event that took the key, where PostgreSQL has it."""
    first = await raw.fetchrow(_FIND, source, form, key)
    return None if first is None else (first["batch"], first["ordinal"])


async def find_place(raw: Any, *, batch: int, ordinal: int) -> EventPlace:
    """Where the event that was stored there stands, amendments followed to the last."""
    return msgspec.convert(dict(await raw.fetchrow(_CHAIN, batch, ordinal)), EventPlace)


async def load_event(raw: Any, *, place: EventPlace) -> StoredEvent:
    """The event as it was stored."""
    address = (place.batch, place.ordinal)
    return (await load_events(raw, addresses=[address]))[address]


async def load_payload(raw: Any, *, batch: int) -> bytes:
    """All the events of a batch, as they are stored."""
    payload: bytes = await raw.fetchval(_PREFIX, batch)
    return payload


async def insert_void(
    raw: Any,
    *,
    place: EventPlace,
    positions: Sequence[tuple[int, int]],
    replacement: int | None,
    now: datetime,
) -> bool:
    """Take the event back where it stands; False when another correction did so first.

    `positions` are (meter number, position in its columns). The next billing run looks at the
    batch again.
    """
    if await raw.fetchval(_VOID, place.batch, place.ordinal, now, replacement) is None:
        return False
    meters = [meter for meter, _ in positions]
    places = [position for _, position in positions]
    await raw.execute(_POSITIONS, place.batch, place.ordinal, meters, places)
    await raw.execute(_LOOK_AGAIN, place.batch)
    return True


async def join_backfill(raw: Any, *, batch: int, replacement: int) -> str | None:
    """A replacement belongs to the backfill of what it replaces, if there is one: its status."""
    status: str | None = await raw.fetchval(_JOIN, batch, replacement)
    return status


async def take_batch_number(raw: Any) -> int:
    """One fresh batch number."""
    number: int = await raw.fetchval(_NUMBER)
    return number


async def make_stream(raw: Any, *, source: str) -> int:
    """The stream of a source's amendments."""
    await raw.execute(_MAKE_STREAM, source)
    stream: int = await raw.fetchval(_STREAM, source)
    return stream


async def insert_replacement(
    raw: Any,
    *,
    source: str,
    key: UUID,
    row: BatchRow,
    measures: Sequence[MeterColumns],
) -> bool:
    """Write the batch of one event that an amendment is; False when its key is taken."""
    stream = await make_stream(raw, source=source)
    if await raw.fetchval(_KEY, stream, key, row.batch) is None:
        return False
    await insert_batch(raw, row=row, measures=measures)
    return True
