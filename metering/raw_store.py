"""SQL that reads stored events as they came, batch by batch."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from metering.intake import number_text
from metering.store import pages

# What an open or reversed backfill brought does not count.
_RAW: Final = """
SELECT batch, events, payload,
  ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch) AS voided
FROM event_batches b
WHERE seller = current_seller() AND payload IS NOT NULL
  AND NOT EXISTS (SELECT FROM backfill_batches x JOIN backfills f
      ON f.seller = x.seller AND f.id = x.backfill
    WHERE x.seller = b.seller AND x.batch = b.batch AND f.status <> 'closed')
ORDER BY batch
"""
_SPAN: Final = """
SELECT min(batch) AS first, max(batch) AS last FROM event_batches WHERE seller = current_seller()
"""


class RawEvent(msgspec.Struct, gc=False):
    """Of a stored event, what meters read; a number that is no integer comes as its text."""

    type: str
    subject: str
    time: datetime
    data: dict[str, Any]


_events: Final = msgspec.json.Decoder(list[RawEvent], float_hook=number_text)


class RawPage(msgspec.Struct, frozen=True, kw_only=True):
    """n events of some batches: event i is of batch[i], and counts unless it was taken back."""

    events: list[RawEvent]
    batch: Any
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


async def stream_raw(raw: Any) -> AsyncIterator[RawPage | Unreadable]:
    """Every batch that counts and is stored here, in order, by the page of a few megabytes."""
    async for rows in pages(raw, _RAW, weigh=_weigh):
        events = _decoded(b"[" + b",".join([row["payload"][1:-1] for row in rows]) + b"]")
        if events is not None and len(events) == sum(row["events"] for row in rows):
            yield _page(rows, events)
            continue
        for row in rows:
            alone = _decoded(row["payload"])
            if alone is not None and len(alone) == row["events"]:
                yield _page([row], alone)
                continue
            found = 0 if alone is None else len(alone)
            yield Unreadable(batch=row["batch"], events=row["events"], found=found)


def _decoded(text: bytes) -> list[RawEvent] | None:
    try:
        return _events.decode(text)
    except (msgspec.DecodeError, ValueError):
        return None


def _page(rows: list[Any], events: list[RawEvent]) -> RawPage:
    counts = np.ones(len(events), dtype=np.bool_)
    start = 0
    for row in rows:
        for ordinal in row["voided"]:
            counts[start + ordinal] = False
        start += row["events"]
    sizes = [row["events"] for row in rows]
    batch = np.repeat(np.array([row["batch"] for row in rows], dtype=np.int64), sizes)
    return RawPage(events=events, batch=batch, counts=counts)


def _weigh(row: Any) -> int:
    return 4 * len(row["payload"]) + 64
