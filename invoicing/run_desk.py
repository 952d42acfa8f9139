"""The transactions in which a billing run posts: only while it may, and each noted as progress."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.run_progress_store import estimate_total, note_progress
from invoicing.run_store import may_post
from invoicing.store import lock_billing


class RunStoppedError(Exception):
    """The run was paused or cancelled, or another one holds it back. Never leaves the run."""


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
    ) -> None:
        """`holds` are other runs standing still, `left_out` the customers (ids) of theirs."""
        self._database = database
        self._seller = seller
        self._holds = holds
        self.run = run
        self.left_out = left_out
        self.done = done
        self.total: int | None = None

    @asynccontextmanager
    async def posting(self) -> AsyncIterator[AsyncConnection]:
        """A transaction with the posting lock. Raises RunStoppedError."""
        async with self._database.transaction(seller=self._seller) as connection:
            await lock_billing(connection=connection, sweep=False)
            if not await may_post(connection=connection, run=self.run, known=self._holds):
                raise RunStoppedError
            yield connection

    async def note(
        self, connection: AsyncConnection, *, customers: int, documents: int = 0, lines: int = 0
    ) -> None:
        """Note what this transaction did."""
        await note_progress(
            connection=connection,
            run=self.run,
            customers=customers,
            documents=documents,
            lines=lines,
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
