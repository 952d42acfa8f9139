"""The transactions in which a billing run posts: only while it may, and each noted as progress."""

import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.errors import BillingError
from invoicing.blame import IMPOSSIBLE, reason_of
from invoicing.copy_ahead import Begun, CopyAhead
from invoicing.fallback_store import note_fallback
from invoicing.post import Posted
from invoicing.post_alike import NotAlikeError, UnforeseenError
from invoicing.review_store import not_approved
from invoicing.run_progress_store import estimate_total, note_progress
from invoicing.run_states import RunStatus
from invoicing.run_store import may_go_on
from invoicing.store import lock_billing, lock_shared_billing

_log: Final = logging.getLogger("usance.billing")


class RunStoppedError(Exception):
    """The run was paused or cancelled, or another one holds it back. Never leaves the run."""


class NotAsApprovedError(BillingError):
    """Facts changed after the run was approved: it would post something else for `customers`."""

    CODE = "not_as_approved"

    def __init__(self, customers: Sequence[str]) -> None:
        detail = "what is owed has changed since the run was approved"
        super().__init__(self.CODE, detail)
        self.customers = frozenset(customers)


class RunDesk:
    """Where one run asks, in each transaction, whether it may go on.

    Whoever pauses or cancels a run takes the same posting lock: after the answer nothing is posted.
    """

    def __init__(
        self,
        *,
        database: Database,
        seller: int,
        run: str,
        holds: Collection[str],
        left_out: Sequence[str],
        done: int,
        status: RunStatus = RunStatus.RUNNING,
        approve: bool = False,
        again: Sequence[str] | None = None,
    ) -> None:
        """`holds` are other runs standing still, `left_out` the customers (ids) of theirs.

        The run goes on while it stands at `status`; with `approve` it posts what was approved, and
        `again` are those (ids) of whom a review is to tell what changed since.
        """
        self.status = status
        self.approve = approve
        self.again = again
        self._database = database
        self._seller = seller
        self._holds = holds
        self.run = run
        self.left_out = left_out
        self.done = done
        self.total: int | None = None
        self.ahead: CopyAhead | None = None
        self._is_failure_told = False

    @asynccontextmanager
    async def posting(self, begun: Begun | None = None) -> AsyncIterator[AsyncConnection]:
        """A transaction with the posting lock, that which was begun or another.

        Another one gives up first what was begun beyond. Raises RunStoppedError, and
        UnforeseenError where the one that was begun is lost, as one that lay idle may be.
        """
        async with AsyncExitStack() as stack:
            if begun is None:
                if self.ahead is not None:
                    await self.ahead.drop()
                connection = await stack.enter_async_context(
                    self._database.transaction(seller=self._seller)
                )
                await lock_billing(connection=connection, sweep=False)
            else:
                await stack.enter_async_context(begun.transaction)
                connection = begun.connection
                try:
                    await lock_shared_billing(connection=connection)
                except Exception as error:
                    raise UnforeseenError from error
            if not await may_go_on(
                connection=connection, run=self.run, status=self.status, known=self._holds
            ):
                raise RunStoppedError
            yield connection

    async def note(
        self,
        connection: AsyncConnection,
        *,
        customers: Sequence[str] = (),
        posted: Posted | None = None,
    ) -> None:
        """Note what this transaction posted for the customers (ids). Raises NotAsApprovedError."""
        done = posted or Posted(documents=0, lines=0)
        if self.approve and done.documents:
            found = await not_approved(connection=connection, run=self.run, customers=customers)
            if found:
                raise NotAsApprovedError(found)
        await note_progress(
            connection=connection,
            run=self.run,
            customers=len(customers),
            documents=done.documents,
            lines=done.lines,
        )

    async def fall_back(self, error: Exception, *, customers: int) -> None:
        """Note that so many customers are billed one by one, which takes longer.

        A failure of ours is logged, once in a run: what is billed is right all the same, and
        nobody would know why it takes so long. What was begun is given up: nobody waits for it
        while they are derived.
        """
        if self.ahead is not None:
            await self.ahead.drop()
        reason, detail = reason_of(error)
        if isinstance(error, NotAlikeError):
            reason, detail = "not_alike", "more than their terms decides what some are billed"
        elif reason == IMPOSSIBLE and not self._is_failure_told:
            self._is_failure_told = True
            words = "run %s: customers are billed one by one, which is slow"
            _log.error(words, self.run, exc_info=error)
        async with self._database.transaction(seller=self._seller) as connection:
            await note_fallback(
                connection=connection,
                run=self.run,
                reason=reason,
                detail=detail,
                customers=customers,
            )

    async def look_ahead(
        self,
        *,
        as_of: datetime,
        due_by: datetime,
        pending: bool,
        parked: Collection[str],
        customers: Sequence[str] | None,
    ) -> None:
        """Count what is left where that is not known, or was all done or parked."""
        if self.total is not None and self.done + len(parked) < self.total:
            return
        async with self.posting() as connection:
            self.total = await estimate_total(
                connection=connection,
                run=self.run,
                as_of=as_of,
                due_by=due_by,
                pending=pending,
                left_out=self.left_out,
                parked=parked,
                customers=customers,
            )
