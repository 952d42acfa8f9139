"""Verb: take events in, answered only after the commit, each identity once for ever.

Requests queue up per seller; a committer takes everything that waits of one seller and writes it
in one transaction. While one committer waits for the disk the next group gathers, so the group
grows with the load.
"""

import asyncio
from collections import deque
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.db import Database
from engine.errors import BillingError, ErrorKind
from metering.commit import BatchNumbers, Committer, Group, Job, Memory, unavailable
from metering.identity import Verdict
from metering.intake import Intake, prepare
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
        self._sellers: dict[int, Memory] = {}
        self._numbers = BatchNumbers()
        self._wake = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self) -> None:
        """Begin to commit."""
        self._numbers = BatchNumbers()
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
            Job(
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

    def _take(self) -> tuple[int, list[Job]] | None:
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
        committer = Committer(database=self._database, sellers=self._sellers, numbers=self._numbers)
        try:
            while True:
                async with self._wake:
                    await self._wake.wait_for(lambda: self._waiting or self._stopping)
                    taken = self._take()
                if taken is None:
                    return
                group = Group(seller=taken[0], jobs=taken[1])
                try:
                    async with asyncio.timeout(self._commit_seconds):
                        await committer.commit(group)
                except TimeoutError:
                    await committer.drop()
                    group.fail(unavailable())
                except BillingError as error:
                    group.fail(error)
                except Exception as error:  # noqa: BLE001 - told to the requests that wait
                    await committer.drop()
                    group.fail(error)
        finally:
            await committer.drop()
