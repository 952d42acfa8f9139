"""Verb: write groups of events into a store outside PostgreSQL, each identity once.

The events go first and the commit follows: PostgreSQL is told of a batch when the store has it
durably, in the transaction that holds the seller's other commits back. So a look at the store
finds all that was committed before, and what a crash left there belongs to no commit and counts
for nothing.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from engine.db import begin
from metering import batch_store, manifest_store
from metering.chunks import earliest
from metering.event_stores import EventStore, KnownEvent, NewEvents
from metering.identity import StoredKey, Verdict, same_payload, settle
from metering.intake import read_data, times_of
from metering.manifest_store import CommitRow, Held
from metering.model import EventIn, StoredEvent
from metering.store import find_subjects, seller_of

if TYPE_CHECKING:
    from metering.commit import Group

_NOBODY = -1


async def append_group(
    raw: Any, *, group: "Group", store: EventStore, tried: list[int]
) -> NDArray[np.int8]:
    """One commit; the verdict of every event.

    `tried` are the numbers under which the group may have been committed before: when a
    connection was lost, what is found under the last of them is the group's own.
    """
    await begin(raw, seller=group.seller)
    held = await manifest_store.hold_commits(raw)
    own = tried[-1] if tried else _NOBODY
    verdicts = await _judge(raw, group, store, held, own)
    chosen = np.flatnonzero(verdicts == Verdict.NEW)
    if group.backfill is not None and not await batch_store.hold_backfill(
        raw, key=group.backfill, batch=held.batch, used=bool(len(chosen))
    ):
        verdicts[chosen] = Verdict.BACKFILL_NOT_OPEN
        chosen = chosen[:0]
    if len(chosen):
        tried.append(held.batch)
        events = _new_events(group, chosen=chosen, batch=held.batch)
        await store.append(seller=group.seller, events=events)
        await manifest_store.write_commit(raw, row=_row(events, received_at=group.received_at))
    await raw.execute("COMMIT")
    return verdicts


async def _judge(
    raw: Any, group: "Group", store: EventStore, held: Held, own: int
) -> NDArray[np.int8]:
    """Verdicts by what both stores hold of the keys, payloads compared where it matters."""
    found = await store.find(seller=group.seller, streams=group.streams, words=group.words)
    known: dict[int, KnownEvent] = {}
    if found:
        batches = await manifest_store.committed(raw, batches=(each.batch for each in found))
        known = {each.place: each for each in found if each.batch in batches}
    stored = {place: StoredKey(each.batch, each.ordinal) for place, each in known.items()}
    if held.has_keys:
        places = [place for place in range(len(group.events)) if place not in stored]
        stored |= await batch_store.find_stored_keys(
            raw, places=places, streams=group.streams, words=group.words
        )
    settled = settle(
        order=group.order.tolist(),
        same_as_before=group.repeats.tolist(),
        outside=group.outside,
        stored=stored,
        own_batch=own,
    )
    firsts: dict[tuple[int, int], StoredEvent] = {
        (each.batch, each.ordinal): each.event for each in known.values()
    }
    older = [where for _, where in settled.unsure if isinstance(where, tuple)]
    older = [where for where in older if where not in firsts]
    if older:
        firsts |= await batch_store.load_events(raw, addresses=older)
    for place, where in settled.unsure:
        first = firsts[where] if isinstance(where, tuple) else group.events[where]
        same = same_payload(first, group.events[place])
        settled.verdicts[place] = Verdict.DUPLICATE if same else Verdict.CONFLICT
    return settled.verdicts


def _new_events(group: "Group", *, chosen: NDArray[np.intp], batch: int) -> NewEvents:
    places = chosen.tolist()
    events = [group.events[each] for each in places]
    find = group.known.customers.get
    return NewEvents(
        batch=batch,
        streams=group.streams[chosen],
        words=group.words[chosen],
        times=group.times[chosen],
        customers=np.array([find(each.subject, 0) for each in events], dtype=np.int64),
        events=events,
        datas=[group.datas[each] for each in places],
    )


def _row(events: NewEvents, *, received_at: datetime) -> CommitRow:
    """The commit; whom it touches is told where every subject is a customer."""
    touched = earliest(events.customers, events.times) if bool(events.customers.all()) else {}
    return CommitRow(
        batch=events.batch,
        received_at=received_at,
        events=len(events.events),
        first_micros=int(events.times.min()),
        last_micros=int(events.times.max()),
        customers=touched.get("customers"),
        times=touched.get("times"),
    )


async def find_appended(
    raw: Any, *, store: EventStore, source: str, form: str, key: UUID
) -> tuple[int, int] | None:
    """(batch, ordinal) of the event that took the key, where it lies in the store."""
    stream = await manifest_store.find_stream(raw, source=source, form=form)
    if stream is None:
        return None
    found = await store.find(
        seller=await seller_of(raw),
        streams=np.array([stream], dtype=np.int32),
        words=_words(key),
    )
    batches = await manifest_store.committed(raw, batches=(each.batch for each in found))
    return next(((each.batch, each.ordinal) for each in found if each.batch in batches), None)


async def append_amendment(
    raw: Any,
    *,
    store: EventStore,
    event: EventIn,
    stream: int,
    key: UUID,
    batch: int,
    at: datetime,
) -> None:
    """The commit of one event that takes the place of another, received when that was.

    The number was taken under the lock of the seller's commits.
    """
    numbers = await find_subjects(raw, subjects=[event.subject])
    events = NewEvents(
        batch=batch,
        streams=np.array([stream], dtype=np.int32),
        words=_words(key),
        times=times_of([event]),
        customers=np.array([numbers.get(event.subject, 0)], dtype=np.int64),
        events=[event],
        datas=read_data([event]),
    )
    await store.append(seller=await seller_of(raw), events=events)
    await manifest_store.write_commit(raw, row=_row(events, received_at=at))


def _words(key: UUID) -> NDArray[np.uint64]:
    return np.frombuffer(key.bytes, dtype=">u8").reshape(1, 2).astype(np.uint64)
