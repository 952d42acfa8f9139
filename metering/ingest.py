"""Verb: take events in, answered only after the commit, each identity once for ever.

Requests queue up per seller; a committer takes everything that waits of one seller and writes it
in one transaction: the keys by COPY, the events as one batch row, the measured columns beside it.
While one committer waits for the disk the next group gathers, so the group grows with the load.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, begin, driver
from engine.errors import BillingError, ErrorKind
from metering import batch_store
from metering.batch_store import BatchRow, KeysTakenError
from metering.columns import measure_columns
from metering.identity import Settled, Verdict, same_payload, settle, suspects_of
from metering.intake import Intake, Prepared, micros_of, prepare
from metering.model import (
    AHEAD_SECONDS,
    OLDEST_DAYS,
    EventAnswer,
    EventIn,
    Rejection,
    RejectionCode,
)
from metering.store import encode_payload
from plans.model import Meter

GROUP_EVENTS: Final = 5_000
QUEUED_EVENTS: Final = 100_000
COMMIT_SECONDS: Final = 2.5
_TRIES: Final = 12
_REMEMBERED: Final = 200_000
_FACTS_SECONDS: Final = 1.0

_REFUSALS: Final = {
    Verdict.CONFLICT: (
        RejectionCode.CONFLICT,
        "this id was taken by an event with another payload",
    ),
    Verdict.TOO_OLD: (
        RejectionCode.TOO_OLD,
        f"the event is older than {OLDEST_DAYS} days: use a backfill",
    ),
    Verdict.TOO_FAR_AHEAD: (
        RejectionCode.TOO_FAR_AHEAD,
        f"the event lies more than {AHEAD_SECONDS} seconds ahead",
    ),
}


class _Job:
    """A part of a request that is committed as a whole."""

    def __init__(self, *, prepared: Prepared, now: datetime) -> None:
        self.prepared = prepared
        self.now = now
        self.done: asyncio.Future[NDArray[np.int8]] = asyncio.get_running_loop().create_future()

    @property
    def events(self) -> int:
        return len(self.prepared.events)


class _Seller:
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


class _Group:
    """The events of one commit, of one seller, in the order they came."""

    def __init__(self, *, seller: int, jobs: Sequence[_Job]) -> None:
        parts = [job.prepared for job in jobs]
        self.seller = seller
        self.jobs = jobs
        self.received_at = max(job.now for job in jobs)
        self.events: list[EventIn] = list(chain.from_iterable(part.events for part in parts))
        self.datas = list(chain.from_iterable(part.datas for part in parts))
        self.is_uuid = np.concatenate([part.is_uuid for part in parts])
        self.words = np.concatenate([part.words for part in parts])
        self.digests = np.concatenate([part.digests for part in parts])
        self.times = np.concatenate([part.times for part in parts])
        self.outside = np.concatenate([_outside(job) for job in jobs])
        self.streams = np.zeros(len(self.events), dtype=np.int32)
        self.order = np.zeros(0, dtype=np.intp)
        self.repeats = np.zeros(0, dtype=np.bool_)
        self.suspects = np.zeros(0, dtype=np.bool_)
        self.known = _Seller()

    def stream_names(self) -> list[tuple[str, str]]:
        """(source, form) of each event."""
        forms = ["uuid" if each else "text" for each in self.is_uuid.tolist()]
        return [(event.source, form) for event, form in zip(self.events, forms, strict=True)]

    def sort(self, streams: Sequence[int]) -> None:
        """Order the events by key, so that no two committers wait for each other crosswise."""
        self.streams = np.array(streams, dtype=np.int32)
        high, low = self.words[:, 0], self.words[:, 1]
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

    def answer(self, verdicts: NDArray[np.int8]) -> None:
        """Give every job its part."""
        start = 0
        for job in self.jobs:
            if not job.done.done():
                job.done.set_result(verdicts[start : start + job.events])
            start += job.events

    def fail(self, error: BaseException) -> None:
        """Tell every job that the outcome is unknown, or known to be nothing."""
        for job in self.jobs:
            if not job.done.done():
                job.done.set_exception(error)


def _outside(job: _Job) -> NDArray[np.int8]:
    """The verdict of each event's time, seen from the seller's clock."""
    times = job.prepared.times
    oldest = micros_of(job.now - timedelta(days=OLDEST_DAYS))
    latest = micros_of(job.now + timedelta(seconds=AHEAD_SECONDS))
    verdicts = np.zeros(len(times), dtype=np.int8)
    verdicts[times < oldest] = Verdict.TOO_OLD
    verdicts[times > latest] = Verdict.TOO_FAR_AHEAD
    return verdicts


def _unavailable() -> BillingError:
    detail = "the events may or may not be stored; send the same ids again"
    return BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE)


class Ingester:
    """Group commit of usage events; one per process."""

    def __init__(
        self,
        *,
        database: Database,
        committers: int = 2,
        queued_events: int = QUEUED_EVENTS,
        commit_seconds: float = COMMIT_SECONDS,
    ) -> None:
        """Holds `committers` connections of the pool while it runs."""
        self._database = database
        self._committers = committers
        self._limit = queued_events
        self._commit_seconds = commit_seconds
        self._waiting: dict[int, deque[_Job]] = {}
        self._queued = 0
        self._sellers: dict[int, _Seller] = {}
        self._wake = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Begin to commit."""
        self._wake = asyncio.Condition()  # belongs to the loop it is used in
        self._stopping = False
        self._tasks = [asyncio.create_task(self._commit_groups()) for _ in range(self._committers)]

    async def stop(self) -> None:
        """Refuse newcomers, commit what waits, end."""
        self._stopping = True
        async with self._wake:
            self._wake.notify_all()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def submit(self, *, seller: int, intake: Intake, now: datetime) -> EventAnswer:
        """Store the events of one body; returns after the commit.

        `now` is the seller's clock. Errors: `overloaded` (429: the queue is full, nothing was
        stored), `unavailable` (503: unknown; the same ids may be sent again).
        """
        rejected = list(intake.rejected)
        accepted = duplicates = 0
        if intake.events:
            verdicts = await self._store(seller=seller, intake=intake, now=now)
            counts = np.bincount(verdicts, minlength=len(Verdict))
            accepted = int(counts[Verdict.NEW] + counts[Verdict.KEPT])
            duplicates = int(counts[Verdict.DUPLICATE])
            for place in np.flatnonzero(verdicts >= Verdict.CONFLICT).tolist():
                code, detail = _REFUSALS[Verdict(int(verdicts[place]))]
                rejected.append(
                    Rejection(
                        index=intake.indexes[place],
                        id=intake.events[place].id,
                        code=code,
                        detail=detail,
                    )
                )
        rejected.sort(key=lambda each: each.index)
        return EventAnswer(accepted=accepted, duplicates=duplicates, rejected=tuple(rejected))

    async def _store(self, *, seller: int, intake: Intake, now: datetime) -> NDArray[np.int8]:
        if self._stopping or not self._tasks:
            raise BillingError(
                "unavailable", "this process is about to end", kind=ErrorKind.UNAVAILABLE
            )
        count = len(intake.events)
        if self._queued and self._queued + count > self._limit:
            detail = "more events wait than can be stored in time; nothing was stored"
            raise BillingError("overloaded", detail, kind=ErrorKind.TOO_MANY)
        jobs = [
            _Job(
                prepared=prepare(
                    events=intake.events[start : start + GROUP_EVENTS],
                    datas=intake.datas[start : start + GROUP_EVENTS],
                    now=now,
                ),
                now=now,
            )
            for start in range(0, count, GROUP_EVENTS)
        ]
        self._waiting.setdefault(seller, deque()).extend(jobs)
        self._queued += count
        async with self._wake:
            self._wake.notify()
        results = await asyncio.gather(*(job.done for job in jobs), return_exceptions=True)
        for each in results:
            if isinstance(each, BaseException):
                raise each
        return np.concatenate([each for each in results if not isinstance(each, BaseException)])

    def _take(self) -> tuple[int, list[_Job]] | None:
        """All that waits of the seller whose turn it is, up to a group's size."""
        if not self._waiting:
            return None
        seller = next(iter(self._waiting))
        waiting = self._waiting.pop(seller)
        jobs, events = [waiting.popleft()], 0
        events = jobs[0].events
        while waiting and events + waiting[0].events <= GROUP_EVENTS:
            jobs.append(waiting.popleft())
            events += jobs[-1].events
        if waiting:
            self._waiting[seller] = waiting
        self._queued -= events
        return seller, jobs

    async def _commit_groups(self) -> None:
        """A committer: one connection, one group after the other."""
        committer = _Committer(database=self._database, sellers=self._sellers)
        try:
            while True:
                async with self._wake:
                    await self._wake.wait_for(lambda: self._waiting or self._stopping)
                    taken = self._take()
                if taken is None:
                    return
                group = _Group(seller=taken[0], jobs=taken[1])
                try:
                    async with asyncio.timeout(self._commit_seconds):
                        await committer.commit(group)
                except TimeoutError:
                    await committer.drop()
                    group.fail(_unavailable())
                except BillingError as error:
                    group.fail(error)
                except Exception as error:  # noqa: BLE001 - told to the requests that wait
                    await committer.drop()
                    group.fail(error)
        finally:
            await committer.drop()


class _Committer:
    """Writes groups over a connection of its own, which it replaces when it breaks."""

    def __init__(self, *, database: Database, sellers: dict[int, _Seller]) -> None:
        self._database = database
        self._sellers = sellers
        self._connection: AsyncConnection | None = None
        self._numbers: list[int] = []
        self._collisions = 0

    async def _raw(self) -> Any:
        if self._connection is None:
            self._connection = await self._database.engine.connect()
        return await driver(self._connection)

    async def drop(self) -> None:
        """Give the connection up; a transaction that was open on it ends with it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        raw = await driver(connection)
        if not raw.is_closed():
            raw.terminate()
        await connection.invalidate()
        await connection.close()

    async def _roll_back(self) -> None:
        if self._connection is not None:
            await batch_store.roll_back(await driver(self._connection))

    async def commit(self, group: _Group) -> None:
        """Write the group and answer it.

        A connection lost on the way may have been lost after the commit: the same group goes
        again under the same batch number, and what it finds stored under it is its own.
        """
        batch: int | None = None
        look = self._collisions >= 4
        for _ in range(_TRIES):
            try:
                raw = await self._raw()
                if batch is None:
                    batch = await self._next_number(raw)
                await self._learn(raw, group)
                if look:
                    group.suspects[:] = True
                verdicts = await self._write(raw, group, batch)
                self._collisions = self._collisions - 1 if self._collisions else 0
                group.answer(verdicts)
                return
            except KeysTakenError:
                await self._roll_back()
                self._collisions, look = min(self._collisions + 2, 8), True
            except batch_store.AGAIN:
                await self._roll_back()
            except batch_store.LOST:
                look = True
                await self.drop()
                await asyncio.sleep(0.05)
        raise _unavailable()

    async def _next_number(self, raw: Any) -> int:
        if not self._numbers:
            self._numbers = await batch_store.take_batch_numbers(raw)
        return self._numbers.pop()

    async def _learn(self, raw: Any, group: _Group) -> None:
        """Streams, customers and meters that this group needs and the cache does not hold."""
        if len(self._sellers) > 1_000:
            self._sellers.clear()
        known = group.known = self._sellers.setdefault(group.seller, _Seller())
        now = asyncio.get_running_loop().time()
        stale = now >= known.fresh_until
        known.forget(strangers=stale)
        names = group.stream_names()
        streams = {name: known.streams.get(name, 0) for name in set(names)}
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
            if facts.meters is not None:
                known.meters = facts.meters
                known.fresh_until = now + _FACTS_SECONDS
        group.sort([streams[name] for name in names])

    async def _write(self, raw: Any, group: _Group, batch: int) -> NDArray[np.int8]:
        """One transaction; the verdict of every event."""
        suspects = group.suspects
        looking = bool(suspects.any())
        await begin(raw, seller=group.seller, load=not looking)
        verdicts = np.zeros(len(group.events), dtype=np.int8)
        if looking:
            verdicts = await _judge(raw, group, batch)
        chosen = np.flatnonzero(verdicts == Verdict.NEW)
        if not len(chosen):
            await raw.execute("COMMIT")
            return verdicts
        row, measures = _rows(group, chosen=chosen, batch=batch)
        await batch_store.write_batch(raw, row=row, measures=measures, loading=not looking)
        return verdicts


async def _judge(raw: Any, group: _Group, batch: int) -> NDArray[np.int8]:
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
        digests=group.digests,
        stored=stored,
        own_batch=batch,
    )
    await _compare(raw, group, settled)
    return settled.verdicts


async def _compare(raw: Any, group: _Group, settled: Settled) -> None:
    addresses = [where for _, where in settled.unsure if isinstance(where, tuple)]
    found = await batch_store.load_events(raw, addresses=addresses) if addresses else {}
    for place, where in settled.unsure:
        first = found[where] if isinstance(where, tuple) else group.events[where]
        same = same_payload(first, group.events[place])
        settled.verdicts[place] = Verdict.DUPLICATE if same else Verdict.CONFLICT


def _rows(group: _Group, *, chosen: NDArray[np.intp], batch: int) -> tuple[BatchRow, list[Any]]:
    """The rows of one commit: `chosen` are the places of the new events, in order."""
    ordinals = np.full(len(group.events), -1, dtype=np.int32)
    ordinals[chosen] = np.arange(len(chosen), dtype=np.int32)
    sorted_places = group.order[ordinals[group.order] >= 0]
    whole = len(chosen) == len(group.events)
    places = range(0) if whole else chosen.tolist()
    events = group.events if whole else [group.events[each] for each in places]
    datas = group.datas if whole else [group.datas[each] for each in places]
    times = group.times[chosen]
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
        keys=batch_store.encode_keys(
            streams=group.streams[sorted_places],
            words=group.words[sorted_places],
            batch=batch,
            ordinals=ordinals[sorted_places],
            digests=group.digests[sorted_places],
        ),
    )
    return row, measures
