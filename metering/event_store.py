"""The event store, as it is shown: whole batches, and what the events in them are measured for."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from engine.period import Calendar, period_holding
from metering.model import StoredEvent
from metering.store import events_of, pages, weigh_payload
from metering.windows import closes_at
from plans.prices import Interval

_EVER: Final = datetime(9999, 12, 31, tzinfo=UTC)
_INSTANT: Final = timedelta(microseconds=1)
_EVENTS: Final = """
SELECT batch, payload, received_at,
  ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch) AS voided,
  ARRAY(SELECT v.ordinal FROM event_voids v
    WHERE v.seller = b.seller AND v.batch = b.batch AND v.replacement IS NOT NULL) AS amended,
  (SELECT f.status FROM backfill_batches x
    JOIN backfills f ON f.seller = x.seller AND f.id = x.backfill
    WHERE x.seller = b.seller AND x.batch = b.batch) AS backfill
FROM event_batches b
WHERE seller = current_seller() AND batch >= $1
  AND ($2::timestamptz IS NULL OR last_at >= $2) AND ($3::timestamptz IS NULL OR first_at < $3)
ORDER BY batch
"""
_INTERVALS: Final = text("""
SELECT c.number, p.body->>'meter' AS meter, i.start_at, i.end_at,
  coalesce(nullif(p.body->'interval', 'null'), l.interval) AS interval, s.alignment,
  s.anchor_at, s.anchor_day, s.timezone,
  CASE WHEN i.end_is_cancellation THEN s.cancelled_at END AS cancelled_at
FROM customers c
  JOIN subscriptions s ON s.seller = c.seller AND s.customer = c.id
  JOIN price_intervals i ON i.seller = s.seller AND i.subscription = s.id
  JOIN prices p ON p.seller = i.seller AND p.id = i.price
  JOIN plans l ON l.seller = p.seller AND l.id = p.plan
WHERE c.seller = current_seller() AND c.number = ANY(:customers) AND p.body->>'meter' IS NOT NULL
""")


class StoredBatch(msgspec.Struct, frozen=True, kw_only=True):
    """The events of a batch by ordinal; some were taken back, and some of those replaced.

    `backfill` is the status of the backfill it came in, if any.
    """

    batch: int
    events: list[StoredEvent]
    received_at: datetime
    voided: frozenset[int]
    amended: frozenset[int]
    backfill: str | None


class UsageInterval(msgspec.Struct, frozen=True, kw_only=True):
    """The time over which a customer pays a price that rates `meter` (its key)."""

    meter: str
    start_at: datetime
    end_at: datetime | None
    cancelled_at: datetime | None
    calendar: Calendar

    def holds(self, at: datetime) -> bool:
        """Whether the instant lies in [start, end)."""
        return self.start_at <= at and (self.end_at is None or at < self.end_at)

    def last_counted(self, at: datetime, *, carried: bool) -> datetime | None:
        """The last instant at which what happened `at` counts here; None when it never does.

        A level that is carried over counts for as long as the price is paid.
        """
        if not carried:
            return at if self.holds(at) else None
        if self.end_at is None:
            return _EVER
        return max(self.start_at, self.end_at - _INSTANT) if at < self.end_at else None

    def is_late(self, at: datetime, *, received_at: datetime) -> bool:
        """Whether the billing period that holds `at` was closed when an event came."""
        if at == _EVER:
            return False
        period = period_holding(calendar=self.calendar, at=at)
        ends = period.end if self.end_at is None else min(period.end, self.end_at)
        closed = closes_at(active_end=ends, period_end=period.end, cancelled_at=self.cancelled_at)
        return received_at >= closed


async def stream_events(
    *,
    connection: AsyncConnection,
    first: int,
    start: datetime | None = None,
    end: datetime | None = None,
) -> AsyncIterator[StoredBatch]:
    """The batches from number `first` on, in order.

    Only of those that have an event in [start, end), as far as that is given.
    """
    raw = await driver(connection)
    async for rows in pages(raw, _EVENTS, first, start, end, weigh=weigh_payload):
        events = await events_of(rows, connection=connection)
        for row in rows:
            yield StoredBatch(
                batch=row["batch"],
                events=events[row["batch"]],
                received_at=row["received_at"],
                voided=frozenset(row["voided"]),
                amended=frozenset(row["amended"]),
                backfill=row["backfill"],
            )


async def find_usage_intervals(
    *, connection: AsyncConnection, customers: Iterable[int]
) -> dict[int, list[UsageInterval]]:
    """When which meters are billed, by customer number."""
    found: dict[int, list[UsageInterval]] = {}
    for row in await connection.execute(_INTERVALS, {"customers": list(customers)}):
        each = msgspec.convert(row.interval, Interval)
        calendar = {
            "unit": each.unit,
            "count": each.count,
            "alignment": row.alignment,
            "anchor_at": row.anchor_at,
            "anchor_day": row.anchor_day,
            "timezone": row.timezone,
        }
        found.setdefault(row.number, []).append(
            UsageInterval(
                meter=row.meter,
                start_at=row.start_at,
                end_at=row.end_at,
                cancelled_at=row.cancelled_at,
                calendar=msgspec.convert(calendar, Calendar),
            )
        )
    return found
