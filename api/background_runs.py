"""The billing runs that nobody waits for: one at a time of a seller, of several sellers at once."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from api.business_time import business_now
from engine.database_errors import anticipated
from engine.db import Database
from engine.errors import BillingError
from invoicing.blame import reason_of
from invoicing.queue_run import go_on_with
from invoicing.run_directory_store import list_background_runs
from invoicing.run_progress_store import note_failure

AT_ONCE: Final = 3
"""Runs under way in one process; each holds two or three connections."""
WAITS: Final = ("billing_busy", "billing_on_hold")
"""What is no failure of the run: others come before it."""
_log: Final = logging.getLogger("usance.worker")


class BackgroundRuns:
    """Runs under way in this process, by seller.

    The truth lies in the tables: a run whose process died is found by the next look of any other,
    and the seller's billing lock lets one of them work. Sellers take turns, and so do the runs of
    one that cannot go on: whoever has to wait, for days perhaps, holds nobody else up.
    """

    def __init__(self, *, database: Database, clock: Callable[[], datetime]) -> None:
        """Nothing is under way yet."""
        self._database = database
        self._clock = clock
        self._working: dict[int, asyncio.Task[None]] = {}
        self._turns = 0
        self._last_turn: dict[int, int] = {}
        self._put_off: dict[tuple[int, str], int] = {}
        self._told: dict[tuple[int, str], set[str]] = {}
        self._is_stopped = False

    async def look(self) -> None:
        """Begin with what waits, as far as there is room."""
        async with self._database.transaction(seller=None) as connection:
            found = await list_background_runs(connection=connection)
        known = {(each.seller, each.run) for each in found}
        self._last_turn = {seller: self._last_turn.get(seller, 0) for seller, _ in known}
        self._put_off = {each: self._put_off.get(each, 0) for each in known}
        self._told = {each: told for each, told in self._told.items() if each in known}
        ready = [(each.seller, each.run) for each in found if not each.rests]
        for seller, run in sorted(
            ready, key=lambda each: (self._last_turn[each[0]], self._put_off[each])
        ):
            if len(self._working) == AT_ONCE or self._is_stopped:
                return
            if seller not in self._working:
                self._begin(seller, run)

    def _begin(self, seller: int, run: str) -> None:
        self._turns += 1
        self._last_turn[seller] = self._turns
        task = asyncio.get_running_loop().create_task(self._work(seller, run))
        self._working[seller] = task
        # Not at the end of the work: of a task that was cancelled at once nothing is ever run.
        task.add_done_callback(lambda _: self._working.pop(seller, None))

    async def wait(self) -> None:
        """Until nothing is under way any more."""
        while self._working:
            await asyncio.wait(self._working.values())

    async def stop(self) -> None:
        """Leave what is under way after the last chunk that was posted: it is taken up again."""
        self._is_stopped = True
        for task in self._working.values():
            task.cancel()
        await self.wait()

    async def _work(self, seller: int, run: str) -> None:
        """One run; its failure is noted and logged, and a later look finds it again."""
        try:
            now = await business_now(database=self._database, seller=seller, wall_now=self._clock())
            done = await go_on_with(database=self._database, seller=seller, run=run, now=now)
        except Exception as error:  # noqa: BLE001 noted; a later look takes it up
            code = getattr(error, "code", None)
            if code != "billing_busy":
                self._put_off[seller, run] = self._turns
            if code in WAITS:
                _log.debug("run %s of seller %s has to wait: %s", run, seller, error)
            else:
                await self._note(seller, run, error)
        else:
            for account in done.parked:
                told = (seller, account.customer, account.code, account.detail)
                _log.error("seller %s: customer %s is parked: %s: %s", *told)

    async def _note(self, seller: int, run: str, error: Exception) -> None:
        """Have the run tell what it failed of, and rest; the same is logged once."""
        known = anticipated(error)
        code, detail = reason_of(known or error)
        told = self._told.setdefault((seller, run), set())
        if (failure := f"{code}: {detail}") not in told:
            told.add(failure)
            foreseen = known is not None or isinstance(error, BillingError)
            _log.log(
                logging.WARNING if foreseen else logging.ERROR,
                "run %s of seller %s failed and is tried again: %s",
                run,
                seller,
                failure,
                exc_info=None if foreseen else error,
            )
        try:
            async with self._database.transaction(seller=seller) as connection:
                await note_failure(connection=connection, run=run, code=code, detail=detail)
        except Exception:  # noqa: BLE001 the database is away, perhaps; a later look finds it again
            _log.debug("the failure of run %s was not noted", run, exc_info=True)
