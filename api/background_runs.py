"""The billing runs that nobody waits for: one at a time of a seller, of several sellers at once."""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Final

from api.business_time import business_now
from engine.db import Database
from engine.errors import BillingError
from invoicing.queue_run import go_on_with
from invoicing.run_directory_store import list_background_runs

AT_ONCE: Final = 3
"""Runs under way in one process; each holds two or three connections."""
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
        self._is_stopped = False

    async def look(self) -> None:
        """Begin with what waits, as far as there is room."""
        async with self._database.transaction(seller=None) as connection:
            found = await list_background_runs(connection=connection)
        self._last_turn = {seller: self._last_turn.get(seller, 0) for seller, _ in found}
        self._put_off = {each: self._put_off.get(each, 0) for each in found}
        for seller, run in sorted(
            found, key=lambda each: (self._last_turn[each[0]], self._put_off[each])
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
        """One run, its failure only logged: a later look finds it again."""
        try:
            now = await business_now(database=self._database, seller=seller, wall_now=self._clock())
            done = await go_on_with(database=self._database, seller=seller, run=run, now=now)
        except BillingError as error:
            waits = error.code in {"billing_busy", "billing_on_hold"}
            level = logging.DEBUG if waits else logging.WARNING
            _log.log(level, "run %s of seller %s has to wait: %s", run, seller, error)
            if error.code != "billing_busy":
                self._put_off[seller, run] = self._turns
        except Exception:  # noqa: BLE001 logged; a later look takes it up
            _log.exception("run %s of seller %s was broken off", run, seller)
            self._put_off[seller, run] = self._turns
        else:
            for account in done.parked:
                told = (seller, account.customer, account.code, account.detail)
                _log.error("seller %s: customer %s is parked: %s: %s", *told)
