"""Verb: take one event back, or put another in its place. What was stored stays as it came."""

from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from engine.errors import BillingError, ErrorKind, FieldError, invalid_field, not_found
from metering import correction_store, manifest_store, store
from metering.append_events import append_amendment, find_appended
from metering.batch_store import BatchRow
from metering.columns import MeterColumns, measure_columns
from metering.correction_store import EventPlace
from metering.event_stores import event_store_of, required
from metering.identity import amendment_key, event_key
from metering.intake import micros_of, read_data, read_events
from metering.list_events import tell_event, tell_voided
from metering.model import (
    AHEAD_SECONDS,
    OLDEST_DAYS,
    EventAmendDraft,
    EventIn,
    EventRow,
    StoredEvent,
)
from metering.payload import encode_payload

_OLDEST: Final = timedelta(days=OLDEST_DAYS)
_AHEAD: Final = timedelta(seconds=AHEAD_SECONDS)


async def void_event(
    *, connection: AsyncConnection, event_id: str, source: str, now: datetime
) -> EventRow:
    """Take an event back: it is measured no longer, and its id stays taken.

    What was billed of it becomes a difference. Errors: `not_found`, `already_void`.
    """
    raw = await driver(connection)
    place = await _find(connection, event_id=event_id, source=source)
    event = await _load(connection, place)
    await _take_back(raw, event_id=event_id, place=place, replacement=None, now=now)
    return tell_voided(event=event)


async def amend_event(
    *,
    connection: AsyncConnection,
    event_id: str,
    source: str,
    draft: EventAmendDraft,
    now: datetime,
) -> EventRow:
    """Put an event with the same id in the place of one that was stored.

    It counts as received when the first one was. Errors: `not_found`, `already_void`,
    `invalid_body`.
    """
    raw = await driver(connection)
    place = await _find(connection, event_id=event_id, source=source)
    event = _amended(await _load(connection, place), draft=draft, now=now)
    apart = event_store_of(connection)
    if apart is None:
        batch = await correction_store.take_batch_number(raw)
    else:
        batch = (await manifest_store.hold_commits(raw)).batch
    await _take_back(raw, event_id=event_id, place=place, replacement=batch, now=now)
    key = amendment_key(event_id, revision=place.revision + 1)
    if apart is not None:
        stream = await correction_store.make_stream(raw, source=source)
        received_at = place.received_at
        await append_amendment(
            raw, store=apart, event=event, stream=stream, key=key, batch=batch, at=received_at
        )
    else:
        row, measures = await _rows(raw, event=event, batch=batch, received_at=place.received_at)
        written = await correction_store.insert_replacement(
            raw, source=source, key=key, row=row, measures=measures
        )
        assert written, "who takes an event back first may replace it"
    backfill = await correction_store.join_backfill(raw, batch=place.batch, replacement=batch)
    return await tell_event(
        connection=connection,
        event=_stored(event),
        received_at=place.received_at,
        backfill=backfill,
    )


async def _find(connection: AsyncConnection, *, event_id: str, source: str) -> EventPlace:
    raw = await driver(connection)
    is_uuid, key = event_key(event_id)
    form = "uuid" if is_uuid else "text"
    first = await correction_store.find_key(raw, source=source, form=form, key=key)
    apart = event_store_of(connection)
    if first is None and apart is not None:
        first = await find_appended(raw, store=apart, source=source, form=form, key=key)
    if first is None:
        raise not_found(noun="event", reference=event_id)
    batch, ordinal = first
    place = await correction_store.find_place(raw, batch=batch, ordinal=ordinal)
    if place.voided:
        raise _already_void(event_id)
    return place


async def _load(connection: AsyncConnection, place: EventPlace) -> StoredEvent:
    raw = await driver(connection)
    if not place.elsewhere:
        return await correction_store.load_event(raw, place=place)
    seller = await store.seller_of(raw)
    events = required(event_store_of(connection))
    return (await events.load(seller=seller, batches=[place.batch]))[place.batch][place.ordinal]


def _already_void(event_id: str) -> BillingError:
    detail = f"the event {event_id!r} was corrected already: see GET /v1/events"
    return BillingError("already_void", detail, kind=ErrorKind.CONFLICT)


async def _take_back(
    raw: Any, *, event_id: str, place: EventPlace, replacement: int | None, now: datetime
) -> None:
    positions: list[tuple[int, int]] = []
    if not place.elsewhere:
        payload = await correction_store.load_payload(raw, batch=place.batch)
        positions = await _positions(raw, payload=payload, place=place)
    done = await correction_store.insert_void(
        raw, place=place, positions=positions, replacement=replacement, now=now
    )
    if not done:
        raise _already_void(event_id)


async def _positions(raw: Any, *, payload: bytes, place: EventPlace) -> list[tuple[int, int]]:
    """(meter, position) of the event in the columns of every meter that measured it."""
    events = store.decode_payload(payload)[: place.ordinal + 1]
    found: list[tuple[int, int]] = []
    for meter in await store.load_meters(raw):
        if meter.number not in place.meters:
            continue
        if store.columns_of_events(events[-1:], meter) is not None:
            columns = store.columns_of_events(events, meter)
            assert columns is not None
            found.append((meter.number, columns.events - 1))
    return found


def _amended(event: StoredEvent, *, draft: EventAmendDraft, now: datetime) -> EventIn:
    """What takes the event's place, judged as if it had been sent."""
    at = event.time
    if draft.time is not None and draft.time != event.time:
        at = draft.time
        if not now - _OLDEST <= at <= now + _AHEAD:
            detail = (
                f"an event moves to {OLDEST_DAYS} days back at most, and not ahead of the clock"
            )
            raise invalid_field(pointer="/time", code="out_of_range", detail=detail)
    data = event.data if isinstance(draft.data, msgspec.UnsetType) else draft.data
    sent: dict[str, object] = {
        "id": event.id,
        "source": event.source,
        "type": event.type if draft.type is None else draft.type,
        "subject": event.subject if draft.subject is None else draft.subject,
        "time": at,
        "data": data,
    }
    intake = read_events(msgspec.json.encode([sent]))
    if intake.rejected:
        detail = intake.rejected[0].detail
        error = FieldError(pointer="", code="invalid", detail=detail)
        raise BillingError("invalid_body", detail, errors=(error,))
    return intake.events[0]


async def _rows(
    raw: Any, *, event: EventIn, batch: int, received_at: datetime
) -> tuple[BatchRow, list[MeterColumns]]:
    """The rows of a batch that holds this event alone."""
    stored = _stored(event)
    customers = await store.find_subjects(raw, subjects=[event.subject])
    number = np.array([customers.get(event.subject, 0)], dtype=np.int64)
    micros = micros_of(stored.time)
    meters = await store.load_meters(raw)
    measures = [
        columns
        for meter in meters
        if (
            columns := measure_columns(
                meter=meter,
                types=[event.type],
                subjects=[event.subject],
                datas=read_data([event]),
                customers=number,
                times=np.array([micros], dtype=np.int64),
            )
        )
        is not None
    ]
    row = BatchRow(
        batch=batch,
        received_at=received_at,
        events=1,
        first_micros=micros,
        last_micros=micros,
        meters=[meter.number for meter in meters],
        payload=encode_payload([event]),
    )
    return row, measures


def _stored(event: EventIn) -> StoredEvent:
    assert event.time is not None
    return StoredEvent(
        id=event.id,
        source=event.source,
        type=event.type,
        subject=event.subject,
        time=event.time,
        data=event.data,
    )
