"""Verb: list stored events with what became of them, so that nothing is dropped in silence."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from engine.errors import BillingError, ErrorKind
from metering import event_store, store
from metering.columns import measures
from metering.dimensions import passes
from metering.intake import read_data
from metering.model import EventFilter, EventList, EventReason, EventRow, EventStatus, StoredEvent
from plans.model import LateUsage, Meter

_CURSOR: Final = re.compile(r"(\d{1,18})\.(\d{1,9})\Z", re.ASCII)
_LOOKED_AT: Final = 20_000
_BACKFILLED: Final[Mapping[str, tuple[EventStatus, EventReason]]] = {
    "open": ("unmatched", "backfill_open"),
    "reversed": ("voided", "backfill_reversed"),
}


class _Place(msgspec.Struct, frozen=True):
    """An event's batch and ordinal."""

    batch: int
    ordinal: int


def _read_cursor(cursor: str | None) -> _Place:
    if cursor is None:
        return _Place(0, -1)
    match = _CURSOR.match(cursor)
    if match is None:
        raise BillingError("invalid_cursor", "this is no cursor of ours", kind=ErrorKind.MALFORMED)
    return _Place(int(match[1]), int(match[2]))


def _reason(
    event: StoredEvent,
    data: Mapping[str, Any],
    *,
    meters: Sequence[Meter],
    number: int,
    intervals: Sequence[event_store.UsageInterval],
    received_at: datetime,
) -> EventReason | None:
    """Why an event is not measured by all that should, or came too late to count; None otherwise.

    A meter that is billed and finds no value outweighs one that does: what it refused is shown.
    """
    mine = [
        meter
        for meter in meters
        if meter.event_type == event.type and passes(filters=meter.filters, data=data)
    ]
    if not mine:
        return "no_meter"
    if not number:
        return "unknown_customer"
    good = {
        meter.key: meter.late_usage is LateUsage.IGNORE
        for meter in mine
        if measures(meter=meter, data=data)
    }
    carried = {meter.key for meter in mine if meter.carry_over}
    billed = {each.meter for each in intervals if each.holds(event.time)}
    if not good or any(meter.key in billed and meter.key not in good for meter in mine):
        return "bad_value"
    held = [
        (each, at)
        for each in intervals
        if each.meter in good
        and (at := each.last_counted(event.time, carried=each.meter in carried)) is not None
    ]
    for each, at in held:
        if not (good[each.meter] and each.is_late(at, received_at=received_at)):
            return None
    return "late_usage" if held else "no_subscription"


def _voided(
    stored: event_store.StoredBatch, ordinal: int
) -> tuple[EventStatus, EventReason | None] | None:
    """Status and reason of an event that does not count; None for one that stands."""
    if ordinal not in stored.voided:
        return _BACKFILLED.get(stored.backfill or "")
    return "voided", "amended" if ordinal in stored.amended else None


def _became(
    event: StoredEvent,
    data: Mapping[str, Any],
    *,
    meters: Sequence[Meter],
    number: int,
    intervals: Sequence[event_store.UsageInterval],
    received_at: datetime,
) -> tuple[EventStatus, EventReason | None]:
    """Status and reason of an event that stands."""
    reason = _reason(
        event,
        data,
        meters=meters,
        number=number,
        intervals=intervals,
        received_at=received_at,
    )
    if reason is None:
        return "measured", None
    return "ignored" if reason == "late_usage" else "unmatched", reason


def _is_asked_for(
    event: StoredEvent, data: Mapping[str, Any], *, number: int, wanted: EventFilter
) -> bool:
    meter = wanted.meter
    if wanted.customer is not None and wanted.customer != number:
        return False
    if meter is not None and not (
        meter.event_type == event.type and passes(filters=meter.filters, data=data)
    ):
        return False
    return wanted.holds(event.time)


async def list_events(
    *, connection: AsyncConnection, wanted: EventFilter, limit: int, cursor: str | None
) -> EventList:
    """A page of the events wanted, in the order of their commits.

    Looks at a bounded number of events: a page may be short, even empty, and still have a next
    one. Errors: `invalid_cursor`.
    """
    after = _read_cursor(cursor)
    meters = await store.load_meters(await driver(connection))
    subjects = store.SubjectNumbers(connection=connection)
    rows: list[EventRow] = []
    looked_at = 0
    stream = event_store.stream_events(
        connection=connection, first=after.batch, start=wanted.start, end=wanted.end
    )
    async for stored in stream:
        batch, events = stored.batch, stored.events
        numbers = await subjects.find({each.subject for each in events})
        intervals = await event_store.find_usage_intervals(
            connection=connection, customers={numbers[each.subject] for each in events}
        )
        datas = read_data(events)
        for ordinal, event in enumerate(events):
            if batch == after.batch and ordinal <= after.ordinal:
                continue
            looked_at += 1
            number = numbers[event.subject]
            if _is_asked_for(event, datas[ordinal], number=number, wanted=wanted):
                found, reason = _voided(stored, ordinal) or _became(
                    event,
                    datas[ordinal],
                    meters=meters,
                    number=number,
                    intervals=intervals.get(number, ()),
                    received_at=stored.received_at,
                )
                if wanted.status is None or wanted.status == found:
                    rows.append(_row(event, found, reason))
            if len(rows) == limit or looked_at >= _LOOKED_AT:
                return EventList(data=tuple(rows), next_cursor=f"{batch}.{ordinal}")
    return EventList(data=tuple(rows), next_cursor=None)


async def tell_event(
    *,
    connection: AsyncConnection,
    event: StoredEvent,
    received_at: datetime,
    backfill: str | None,
) -> EventRow:
    """One event that stands, with what became of it; `backfill` is the status of its backfill."""
    if backfill in _BACKFILLED:
        return _row(event, *_BACKFILLED[backfill])
    subjects = store.SubjectNumbers(connection=connection)
    number = (await subjects.find([event.subject]))[event.subject]
    intervals = await event_store.find_usage_intervals(connection=connection, customers=[number])
    status, reason = _became(
        event,
        read_data([event])[0],
        meters=await store.load_meters(await driver(connection)),
        number=number,
        intervals=intervals.get(number, ()),
        received_at=received_at,
    )
    return _row(event, status, reason)


def tell_voided(*, event: StoredEvent) -> EventRow:
    """One event that was taken back."""
    return _row(event, "voided", None)


def _row(event: StoredEvent, status: EventStatus, reason: EventReason | None) -> EventRow:
    return EventRow(
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=store.in_utc(event.time),
        data=event.data,
        status=status,
        reason=reason,
    )
