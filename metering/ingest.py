"""Verb: take events in, answered only after the commit, each identity once for ever.

Requests queue up per seller; a committer takes everything that waits of one seller and writes it
in one transaction. While one committer waits for the disk the next group gathers, so the group
grows with the load.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from engine.db import Database
from engine.errors import BillingError, ErrorKind
from metering.batch_numbers import BatchNumbers
from metering.commit import Committer, Group, Job, Memory, unavailable
from metering.identity import Verdict
from metering.intake import Intake
from metering.model import (
    AHEAD_SECONDS,
    OLDEST_DAYS,
    EventAnswer,
    Rejection,
    RejectionCode,
)

GROUP_EVENTS: Final = 5_000
QUEUED_EVENTS: Final = 100_000
COMMIT_SECONDS: Final = 2.5
PATIENT_SECONDS: Final = 60.0
"""The same where nobody would do better to ask again: a slow disk is no reason to fail."""
LINGER_STEPS: Final = 2
_LINGER_SECONDS: Final = 0.001
_CROWD_FADES: Final = 0.9
_TOGETHER: Final = timedelta(seconds=1)
"""A group counts as received when its last part was: what came at another time is no part of it."""

_ONE_NEW: Final = bytes([Verdict.NEW])
_ONE_ACCEPTED: Final = EventAnswer(accepted=1, duplicates=0, rejected=())
_REFUSALS: Final = {
    Verdict.BACKFILL_NOT_OPEN: (
        RejectionCode.BACKFILL_NOT_OPEN,
        "there is no open backfill of that key",
    ),
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


def _refused(intake: Intake, verdicts: bytes) -> list[Rejection]:
    refused: list[Rejection] = []
    for index, event, verdict in zip(intake.indexes, intake.events, verdicts, strict=True):
        if verdict >= Verdict.CONFLICT:
            code, detail = _REFUSALS[Verdict(verdict)]
            refused.append(Rejection(index=index, id=event.id, code=code, detail=detail))
    return refused


def _jobs(intake: Intake, *, now: datetime) -> list[Job]:
    """The events in parts of a group's size at most, each of one backfill or of none."""
    count = len(intake.events)
    if count <= GROUP_EVENTS and not intake.backfilled:
        return [Job(events=intake.events, datas=intake.datas, now=now)]
    bounds = [0, count]
    if intake.backfilled:
        named = [each.backfill for each in intake.events]
        changes = [at for at in range(1, count) if named[at] != named[at - 1]]
        bounds = [0, *changes, count]
    return [
        Job(
            events=intake.events[start : min(start + GROUP_EVENTS, end)],
            datas=intake.datas[start : min(start + GROUP_EVENTS, end)],
            now=now,
        )
        for first, end in pairwise(bounds)
        for start in range(first, end, GROUP_EVENTS)
    ]


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
        self._waiting: dict[int, deque[Job]] = {}
        self._queued = 0
        self._jobs_waiting = 0
        self._jobs_under_way = 0
        self._crowd = 0.0
        self._sellers: dict[int, Memory] = {}
        self._numbers = BatchNumbers()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Begin to commit."""
        self._numbers = BatchNumbers()
        self._wake = asyncio.Event()  # belongs to the loop it is used in
        self._stopping = False
        self._tasks = [asyncio.create_task(self._commit_groups()) for _ in range(self._committers)]

    async def stop(self) -> None:
        """Refuse newcomers, commit what waits, end."""
        self._stopping = True
        self._wake.set()
        await asyncio.gather(*self._tasks)
        self._tasks = []

    async def submit(self, *, seller: int, intake: Intake, now: datetime) -> EventAnswer:
        """Store the events of one body; returns after the commit.

        `now` is the seller's clock. Errors: `overloaded` (429: the queue is full, nothing was
        stored), `unavailable` (503: unknown; the same ids may be sent again).
        """
        if not intake.events:
            return EventAnswer(accepted=0, duplicates=0, rejected=tuple(intake.rejected))
        verdicts = await self._store(seller=seller, intake=intake, now=now)
        if verdicts == _ONE_NEW and not intake.rejected:
            return _ONE_ACCEPTED
        accepted = verdicts.count(Verdict.NEW) + verdicts.count(Verdict.KEPT)
        duplicates = verdicts.count(Verdict.DUPLICATE)
        rejected = intake.rejected
        if accepted + duplicates < len(verdicts):
            rejected = sorted([*rejected, *_refused(intake, verdicts)], key=lambda one: one.index)
        return EventAnswer(accepted=accepted, duplicates=duplicates, rejected=tuple(rejected))

    async def _store(self, *, seller: int, intake: Intake, now: datetime) -> bytes:
        """The verdicts of the events, a byte each."""
        if self._stopping or not self._tasks:
            detail = "this process is about to end"
            raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE)
        count = len(intake.events)
        if self._queued and self._queued + count > self._limit:
            detail = "more events wait than can be stored in time; nothing was stored"
            raise BillingError("overloaded", detail, kind=ErrorKind.TOO_MANY)
        jobs = _jobs(intake, now=now)
        self._waiting.setdefault(seller, deque()).extend(jobs)
        self._queued += count
        self._jobs_waiting += len(jobs)
        self._wake.set()
        if len(jobs) == 1:
            return await jobs[0].done
        results = await asyncio.gather(*(job.done for job in jobs), return_exceptions=True)
        for each in results:
            if isinstance(each, BaseException):
                raise each
        return b"".join([each for each in results if isinstance(each, bytes)])

    def _take(self) -> tuple[int, list[Job]] | None:
        """All that waits of the seller whose turn it is, up to a group's size."""
        if not self._waiting:
            return None
        seller = next(iter(self._waiting))
        waiting = self._waiting.pop(seller)
        jobs = [waiting.popleft()]
        events = len(jobs[0].events)
        while (
            waiting
            and waiting[0].backfill == jobs[0].backfill
            and abs(waiting[0].now - jobs[0].now) <= _TOGETHER
            and events + len(waiting[0].events) <= GROUP_EVENTS
        ):
            jobs.append(waiting.popleft())
            events += len(jobs[-1].events)
        if waiting:
            self._waiting[seller] = waiting
        self._queued -= events
        self._crowd = max(self._crowd * _CROWD_FADES, self._jobs_waiting + self._jobs_under_way)
        self._jobs_waiting -= len(jobs)
        return seller, jobs

    async def _gather(self) -> None:
        """Wait a moment for those who were answered just now and are about to come back.

        Without it a few go in one commit and the many in the next, and each costs the same.
        """
        for _ in range(LINGER_STEPS):
            enough = 2 * self._jobs_waiting >= self._crowd or self._queued >= GROUP_EVENTS
            if enough or self._stopping:
                return
            await asyncio.sleep(_LINGER_SECONDS)

    async def _commit_groups(self) -> None:
        """A committer: one connection, one group after the other."""
        committer = Committer(database=self._database, sellers=self._sellers, numbers=self._numbers)
        try:
            while True:
                if self._waiting:
                    await self._gather()
                taken = self._take()
                if taken is None:
                    if self._stopping:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                seller, jobs = taken
                self._jobs_under_way += len(jobs)
                await self._commit(committer, seller=seller, jobs=jobs)
                self._jobs_under_way -= len(jobs)
        finally:
            await committer.drop()

    async def _commit(self, committer: Committer, *, seller: int, jobs: Sequence[Job]) -> None:
        """Answer all of them, whatever happens: a committer that ended would be missed by all."""
        try:
            async with asyncio.timeout(self._commit_seconds):
                await committer.commit(Group(seller=seller, jobs=jobs))
            return
        except TimeoutError:
            await committer.drop()
            failure: Exception = unavailable()
        except BillingError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - told to the requests that wait
            await committer.drop()
            failure = error
        for job in jobs:
            job.fail(failure)
