"""Verb: write groups of events, each in one transaction, each identity once.

A group goes by COPY at once, in the hope that every key is new. When one is taken, or an event
looks suspicious, the group is looked up first, and the rest of it is written.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Final, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, begin, driver
from engine.errors import BillingError, ErrorKind
from metering import batch_store
from metering.append_events import append_group
from metering.batch_numbers import BatchNumbers
from metering.batch_store import BatchRow, KeyRows, KeysTakenError
from metering.columns import MeterColumns, measure_columns
from metering.event_stores import EventStore, required
from metering.identity import (
    Settled,
    Verdict,
    event_keys,
    same_payload,
    settle,
    suspects_of,
)
from metering.intake import micros_of, times_of
from metering.model import AHEAD_SECONDS, OLDEST_DAYS, EventIn
from metering.payload import encode_payload
from plans.model import Meter

_TRIES: Final = 12
_WINDOW_MICROS: Final = OLDEST_DAYS * 86_400_000_000
_AHEAD_MICROS: Final = AHEAD_SECONDS * 1_000_000
_FIRST_MICROS: Final = micros_of(datetime.min.replace(tzinfo=UTC))
_REMEMBERED: Final = 200_000
_FACTS_SECONDS: Final = 1.0
_LOOK_FIRST: Final = 4


class Job:
    """A part of a request that is committed as a whole: n events with their data.

    `done` gives n verdicts, a byte each.
    """

    def __init__(
        self, *, events: Sequence[EventIn], datas: Sequence[dict[str, Any]], now: datetime
    ) -> None:
        """`now` is the seller's clock: an event without a time happened then."""
        self.events, self.datas, self.now = events, datas, now
        named = events[0].backfill
        self.backfill = None if isinstance(named, msgspec.UnsetType) else named
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        for each in events:
            if each.time is None:
                each.time = now

    def fail(self, error: BaseException) -> None:
        """Tell who waits that the outcome is unknown, or known to be nothing."""
        if not self.done.done():
            self.done.set_exception(error)


class Memory:
    """What a committer remembers of a seller; nothing here is needed to be right, only to be quick.

    Streams never change. A customer or meter made since is found at measuring.
    """

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], int] = {}
        self.customers: dict[str, int] = {}
        self.strangers: set[str] = set()
        self.meters: tuple[Meter, ...] = ()
        self.fresh_until = 0.0

    def forget(self, *, strangers: bool) -> None:
        """Keep the memory bounded; `strangers` may have become customers since."""
        if strangers:
            self.strangers.clear()
        if len(self.customers) + len(self.streams) > _REMEMBERED:
            self.customers.clear()
            self.streams.clear()


class Group:
    """The events of one commit, of one seller, in the order they came."""

    def __init__(self, *, seller: int, jobs: Sequence[Job]) -> None:
        """All `jobs` are of one seller, and of one backfill or of none."""
        self.seller = seller
        self.jobs = jobs
        self.backfill = jobs[0].backfill
        self.received_at = max(job.now for job in jobs)
        self.events = list(chain.from_iterable(job.events for job in jobs))
        self.datas = list(chain.from_iterable(job.datas for job in jobs))
        self.is_uuid, self.words = event_keys([each.id for each in self.events])
        self.times = times_of(self.events)
        self.outside = self._outside()
        self.streams = np.zeros(len(self.events), dtype=np.int32)
        self.order = np.zeros(0, dtype=np.intp)
        self.repeats = np.zeros(0, dtype=np.bool_)
        self.suspects = np.zeros(0, dtype=np.bool_)
        self.known = Memory()

    def _outside(self) -> NDArray[np.int8]:
        """The verdict of each event's time, seen from the seller's clock when it came."""
        verdicts = np.zeros(len(self.times), dtype=np.int8)
        nows = [job.now for job in self.jobs]
        young = int(self.times.min()) >= micros_of(max(nows)) - _WINDOW_MICROS
        if young and int(self.times.max()) <= micros_of(min(nows)) + _AHEAD_MICROS:
            return verdicts
        now = np.repeat([micros_of(each) for each in nows], [len(job.events) for job in self.jobs])
        oldest = now - _WINDOW_MICROS if self.backfill is None else _FIRST_MICROS
        verdicts[self.times < oldest] = Verdict.TOO_OLD
        verdicts[self.times > now + _AHEAD_MICROS] = Verdict.TOO_FAR_AHEAD
        return verdicts

    def stream_names(self) -> tuple[list[str], list[tuple[str, str]]]:
        """(the source of each event, every (source, form) there is)."""
        sources = [each.source for each in self.events]
        uuids, texts = bool(self.is_uuid.any()), not self.is_uuid.all()
        forms = ["uuid"] * uuids + ["text"] * texts
        return sources, [(source, form) for source in sorted(set(sources)) for form in forms]

    def set_streams(self, sources: Sequence[str], numbers: Mapping[tuple[str, str], int]) -> None:
        """Name each event's stream by its number, then sort."""
        if len(numbers) == 1:
            self.streams = np.full(len(self.events), *numbers.values(), dtype=np.int32)
            self._sort(one_stream=True)
            return
        codes = {source: code for code, source in enumerate(sorted(set(sources)))}
        table = np.array(
            [[numbers.get((each, form), 0) for form in ("text", "uuid")] for each in codes],
            dtype=np.int32,
        )
        code = np.array([codes[each] for each in sources] if len(codes) > 1 else 0, dtype=np.intp)
        self.streams = np.ascontiguousarray(table[code, self.is_uuid.astype(np.intp)])
        self._sort(one_stream=bool((self.streams == self.streams[0]).all()))

    def _sort(self, *, one_stream: bool) -> None:
        """Order the events by key, so that no two committers wait for each other crosswise."""
        high, low = self.words[:, 0], self.words[:, 1]
        if one_stream and self._sort_by(high):
            return
        self.order = np.lexsort((low, high, self.streams))
        same = np.zeros(len(self.order), dtype=np.bool_)
        for column in (self.streams, high, low):
            ordered = column[self.order]
            same[1:] += ordered[1:] != ordered[:-1]
        self.repeats = ~same
        self.repeats[0] = False
        self.suspects = suspects_of(
            order=self.order, same_as_before=self.repeats, outside=self.outside != Verdict.NEW
        )

    def _sort_by(self, high: NDArray[np.uint64]) -> bool:
        """The order by the first word of the keys alone, if those all differ."""
        self.order = np.argsort(high, kind="stable")
        ordered = high[self.order]
        if not (ordered[1:] != ordered[:-1]).all():
            return False
        self.repeats = np.zeros(len(high), dtype=np.bool_)
        self.suspects = self.outside != Verdict.NEW
        return True

    def answer(self, verdicts: NDArray[np.int8]) -> None:
        """Give every job its part."""
        told, start = verdicts.tobytes(), 0
        for job in self.jobs:
            if not job.done.done():
                job.done.set_result(told[start : start + len(job.events)])
            start += len(job.events)


def unavailable() -> BillingError:
    """The outcome is not known."""
    detail = "the events may or may not be stored; send the same ids again"
    return BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE)


class Committer:
    """Writes groups over a connection of its own, which it replaces when it breaks."""

    def __init__(
        self, *, database: Database, sellers: dict[int, Memory], numbers: BatchNumbers
    ) -> None:
        """What is remembered of sellers, and the batch numbers, are shared by all committers."""
        self._database = database
        self._store = cast("EventStore | None", database.event_store)
        self._batch_numbers = numbers
        self._sellers = sellers
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._collisions = 0

    async def _raw(self) -> Any:
        if self._connection is None:
            self._connection = await self._database.engine.connect()
        if self._driver is None:
            self._driver = await driver(self._connection)
        return self._driver

    async def drop(self) -> None:
        """Give the connection up; a transaction that was open on it ends with it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        raw, self._driver = self._driver, None
        if raw is not None and not raw.is_closed():
            raw.terminate()
        await connection.invalidate()
        await connection.close()

    async def _roll_back(self) -> None:
        if self._driver is not None:
            await batch_store.roll_back(self._driver)

    async def commit(self, group: Group) -> None:
        """Write the group and answer it.

        A connection lost on the way may have been lost after the commit: the same group goes
        again under the same batch number, and what it finds stored under it is its own.
        """
        batch: int | None = None
        tried: list[int] = []
        look = self._collisions >= _LOOK_FIRST
        for _ in range(_TRIES):
            try:
                raw = await self._raw()
                if batch is None and self._store is None:
                    batch = await self._batch_numbers.take(raw)
                await self._learn(raw, group)
                if look:
                    group.suspects[:] = True
                if batch is None:
                    store = required(self._store)
                    verdicts = await append_group(raw, group=group, store=store, tried=tried)
                else:
                    verdicts = await self._write(raw, group, batch)
                self._collisions = self._collisions - 1 if self._collisions else 0
                group.answer(verdicts)
                return
            except KeysTakenError:
                await self._roll_back()
                self._collisions, look = min(self._collisions + 2, 2 * _LOOK_FIRST), True
            except batch_store.AGAIN:
                await self._roll_back()
            except BillingError:
                await self._roll_back()
                raise
            except batch_store.LOST:
                look = True
                await self.drop()
                await asyncio.sleep(0.05)
        raise unavailable()

    async def _learn(self, raw: Any, group: Group) -> None:
        """Streams, customers and meters that this group needs and the cache does not hold."""
        if len(self._sellers) > 1_000:
            self._sellers.clear()
        known = group.known = self._sellers.setdefault(group.seller, Memory())
        now = asyncio.get_running_loop().time()
        stale = now >= known.fresh_until
        known.forget(strangers=stale)
        sources, names = group.stream_names()
        streams = {name: known.streams.get(name, 0) for name in names}
        unmade = sorted(name for name, stream in streams.items() if not stream)
        subjects = {event.subject for event in group.events}
        subjects.difference_update(known.customers, known.strangers)
        if unmade or subjects or stale:
            facts = await batch_store.find_facts(
                raw,
                seller=group.seller,
                streams=unmade,
                subjects=list(subjects),
                meters=stale,
            )
            streams.update(facts.streams)
            known.streams.update(facts.streams)
            known.customers.update(facts.customers)
            known.strangers.update(subjects.difference(facts.customers))
            if facts.elsewhere:
                required(self._store)
            if facts.meters is not None:
                known.meters = facts.meters
                known.fresh_until = now + _FACTS_SECONDS
        group.set_streams(sources, streams)

    async def _write(self, raw: Any, group: Group, batch: int) -> NDArray[np.int8]:
        """One transaction; the verdict of every event."""
        suspects = group.suspects
        if group.backfill is not None:
            suspects[:] = True
        looking = bool(suspects.any())
        verdicts = np.zeros(len(group.events), dtype=np.int8)
        if looking:
            await begin(raw, seller=group.seller)
            verdicts = await _judge(raw, group, batch)
        if group.backfill is not None and not await batch_store.hold_backfill(
            raw, key=group.backfill, batch=batch, used=bool((verdicts == Verdict.NEW).any())
        ):
            verdicts[verdicts == Verdict.NEW] = Verdict.BACKFILL_NOT_OPEN
        chosen = np.flatnonzero(verdicts == Verdict.NEW)
        if not len(chosen):
            await raw.execute("COMMIT")
            return verdicts
        row, keys, measures = _rows(group, chosen=chosen, batch=batch)
        await batch_store.write_batch(
            raw, seller=group.seller, row=row, keys=keys, measures=measures, begun=looking
        )
        return verdicts


async def _judge(raw: Any, group: Group, batch: int) -> NDArray[np.int8]:
    """Verdicts by what the database holds of the suspects, payloads compared where it matters."""
    mine = group.suspects[group.order]
    order, repeats = group.order[mine].tolist(), group.repeats[mine].tolist()
    stored = await batch_store.find_stored_keys(
        raw, places=order, streams=group.streams, words=group.words
    )
    settled = settle(
        order=order,
        same_as_before=repeats,
        outside=group.outside,
        stored=stored,
        own_batch=batch,
    )
    await _compare(raw, group, settled)
    return settled.verdicts


async def _compare(raw: Any, group: Group, settled: Settled) -> None:
    addresses = [where for _, where in settled.unsure if isinstance(where, tuple)]
    found = await batch_store.load_events(raw, addresses=addresses) if addresses else {}
    for place, where in settled.unsure:
        first = found[where] if isinstance(where, tuple) else group.events[where]
        same = same_payload(first, group.events[place])
        settled.verdicts[place] = Verdict.DUPLICATE if same else Verdict.CONFLICT


def _rows(
    group: Group, *, chosen: NDArray[np.intp], batch: int
) -> tuple[BatchRow, KeyRows, list[MeterColumns]]:
    """The rows of one commit: `chosen` are the places of the new events, in order."""
    events, datas, times, order = group.events, group.datas, group.times, group.order
    ordinals = order
    if len(chosen) < len(group.events):
        places = chosen.tolist()
        events = [group.events[each] for each in places]
        datas = [group.datas[each] for each in places]
        times = group.times[chosen]
        new = np.full(len(group.events), -1, dtype=np.intp)
        new[chosen] = np.arange(len(chosen))
        order = order[new[order] >= 0]
        ordinals = new[order]
    subjects = [each.subject for each in events]
    known = group.known
    find = known.customers.get
    customers = np.array([find(each, 0) for each in subjects], dtype=np.int64)
    types = [each.type for each in events]
    measures = [
        columns
        for meter in known.meters
        if (
            columns := measure_columns(
                meter=meter,
                types=types,
                subjects=subjects,
                datas=datas,
                customers=customers,
                times=times,
            )
        )
        is not None
    ]
    row = BatchRow(
        batch=batch,
        received_at=group.received_at,
        events=len(events),
        first_micros=int(times.min()),
        last_micros=int(times.max()),
        meters=[meter.number for meter in known.meters],
        payload=encode_payload(events),
    )
    keys = KeyRows(
        streams=group.streams[order],
        words=group.words[order],
        ordinals=ordinals.astype(np.int32),
    )
    return row, keys, measures
