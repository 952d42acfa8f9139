"""SQL that reads stored events as they came, batch by batch, and who they are said to be."""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from metering.intake import number_text
from metering.store import pages

# What an open or reversed backfill brought does not count.
_RAW: Final = """
SELECT batch, events, received_at, first_at, last_at, payload, ends,
  NOT EXISTS (SELECT FROM backfill_batches x JOIN backfills f
      ON f.seller = x.seller AND f.id = x.backfill
    WHERE x.seller = b.seller AND x.batch = b.batch AND f.status <> 'closed') AS counts,
  ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch) AS voided
FROM event_batches b
WHERE seller = current_seller() AND payload IS NOT NULL
ORDER BY batch
"""
_SPAN: Final = """
SELECT min(batch) AS first, max(batch) AS last FROM event_batches WHERE seller = current_seller()
"""
# Hash partitioning rests on this function of PostgreSQL's: it is the same in every version.
_IDENTITIES: Final = """
SELECT least(greatest((batch - $1) / $2, 0), $3 - 1) AS place, count(*) AS keys,
  bit_xor(uuid_hash_extended(key, (batch << 34) # (CAST(stream AS bigint) << 17) # ordinal))
FROM event_keys WHERE seller = current_seller() GROUP BY 1
"""
_STREAMS: Final = """
SELECT source, form, stream FROM event_streams
WHERE seller = current_seller() AND source = ANY($1::text[])
"""
_REPLACED: Final = """
SELECT v.batch, v.ordinal, v.replacement, b.payload IS NOT NULL AND r.payload IS NOT NULL AS here
FROM event_voids v
  LEFT JOIN event_batches b ON b.seller = v.seller AND b.batch = v.batch
  LEFT JOIN event_batches r ON r.seller = v.seller AND r.batch = v.replacement
WHERE v.seller = current_seller() AND v.replacement IS NOT NULL
"""


class RawEvent(msgspec.Struct, gc=False):
    """Of a stored event, who it is and what meters read; a number that is no integer is a text."""

    id: str
    type: str
    subject: str
    time: datetime
    data: dict[str, Any]
    source: str = ""


_events: Final = msgspec.json.Decoder(list[RawEvent], float_hook=number_text)


class RawPage(msgspec.Struct, frozen=True, kw_only=True):
    """n events of the batches `rows`: event i is `ordinal[i]` of batch[i], that of rows[row[i]].

    It counts unless it was taken back, or its backfill does not count. `text` is all of them as one
    JSON array.
    """

    rows: Sequence[Any]
    text: bytes
    events: list[RawEvent]
    row: Any
    batch: Any
    ordinal: Any
    counts: Any


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A batch whose payload does not hold the events that it says; `found` of them can be read."""

    batch: int
    events: int
    found: int


async def batch_span(raw: Any) -> tuple[int, int] | None:
    """The lowest and the highest number of the seller's batches; None of none."""
    row = await raw.fetchrow(_SPAN)
    return None if row["first"] is None else (row["first"], row["last"])


async def identity_sums(raw: Any, *, first: int, width: int, ranges: int) -> list[Any]:
    """(range, identities, sum of their hashes) of each range of batches that has identities."""
    return list(await raw.fetch(_IDENTITIES, first, width, ranges))


async def find_streams(raw: Any, *, sources: Iterable[str]) -> list[Any]:
    """(source, form, stream) of the streams of sources."""
    return list(await raw.fetch(_STREAMS, list(sources)))


async def replaced_events(raw: Any) -> list[Any]:
    """(batch, ordinal, replacing batch, whether both lie here) of every amended event."""
    return list(await raw.fetch(_REPLACED))


async def stream_raw(raw: Any) -> AsyncIterator[RawPage | Unreadable]:
    """Every batch that is stored here, in order, by the page of a few megabytes."""
    async for rows in pages(raw, _RAW, weigh=_weigh):
        text = b"[" + b",".join([row["payload"][1:-1] for row in rows]) + b"]"
        events = _decoded(text)
        if events is not None and len(events) == sum(row["events"] for row in rows):
            yield _page(rows, text, events)
            continue
        for row in rows:
            alone = _decoded(row["payload"])
            if alone is not None and len(alone) == row["events"]:
                yield _page([row], row["payload"], alone)
                continue
            found = 0 if alone is None else len(alone)
            yield Unreadable(batch=row["batch"], events=row["events"], found=found)


def _decoded(text: bytes) -> list[RawEvent] | None:
    try:
        return _events.decode(text)
    except (msgspec.DecodeError, ValueError):
        return None


def _page(rows: Sequence[Any], text: bytes, events: list[RawEvent]) -> RawPage:
    sizes = np.array([row["events"] for row in rows])
    starts = np.cumsum(sizes) - sizes
    counts = np.repeat(np.array([row["counts"] for row in rows], dtype=np.bool_), sizes)
    for start, row in zip(starts.tolist(), rows, strict=True):
        if row["voided"]:
            counts[[start + ordinal for ordinal in row["voided"]]] = False
    return RawPage(
        rows=rows,
        text=text,
        events=events,
        row=np.repeat(np.arange(len(rows)), sizes),
        batch=np.repeat(np.array([row["batch"] for row in rows], dtype=np.int64), sizes),
        ordinal=np.arange(len(events)) - np.repeat(starts, sizes),
        counts=counts,
    )


def _weigh(row: Any) -> int:
    return 4 * len(row["payload"]) + 64
