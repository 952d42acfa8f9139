"""Verb: park the accounts that cannot be billed, each with its reason, and derive the others."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.blame import is_of_an_account, reason_of
from invoicing.derive import Derived, Work, derive, following_due, load_work
from invoicing.run_desk import RunDesk
from invoicing.run_store import park
from invoicing.work_store import DueCustomer
from plans.model import Seller
from plans.subscription_store import PriceBook


class Parking:
    """The accounts that one run set aside: `parked` has the code of each customer (id)."""

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        desk: RunDesk,
        now: datetime,
    ) -> None:
        self.parked: dict[str, str] = {}
        self._database = database
        self._seller_number = seller_number
        self.seller = seller
        self._desk = desk
        self._now = now

    async def park(self, due: DueCustomer, error: Exception) -> None:
        """Set one account aside."""
        code, detail = reason_of(error)
        self.parked[due.customer.id] = code
        async with self._desk.posting() as connection:
            await park(
                connection=connection,
                run=self._desk.run,
                customer=due.customer.id,
                billed_at=due.due_at,
                code=code,
                detail=detail,
                now=self._now,
            )

    async def park_unreadable(self, due: Sequence[DueCustomer], error: Exception) -> None:
        """Park the accounts whose facts cannot even be read: halve until one is left."""
        if len(due) == 1:
            await self.park(due[0], error)
            return
        middle = len(due) // 2
        for half in (due[:middle], due[middle:]):
            try:
                async with self._snapshot() as connection:
                    work = await load_work(connection=connection, due=half, book=PriceBook())
                    following_due(work=work)
            except Exception as found:
                if not is_of_an_account(found):
                    raise
                await self.park_unreadable(half, found)

    async def derive(self, work: Sequence[Work]) -> list[Derived]:
        """Derive the work at once; halve what fails until one is parked."""
        if not work:
            return []
        try:
            async with self._snapshot() as connection:
                return await derive(connection=connection, seller=self.seller, work=work)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            if len(work) == 1:
                await self.park(work[0].due, error)
                return []
            middle = len(work) // 2
            return [*await self.derive(work[:middle]), *await self.derive(work[middle:])]

    def _snapshot(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self._database.transaction(seller=self._seller_number, snapshot=True)
