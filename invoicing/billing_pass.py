"""One billing run in progress: segments derived together or one by one, posted in chunks."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.alike import Due, Sheaf, following_of
from invoicing.ask_taxes import TaxDesk
from invoicing.blame import is_of_an_account, reason_of
from invoicing.derive import (
    Derived,
    Work,
    derive,
    following_due,
    load_work,
    up_to_following,
)
from invoicing.derive_alike import FEW, derive_alike
from invoicing.post import Posted, post
from invoicing.post_alike import Chunk, NotAlikeError, Written, outlook_of, post_alike
from invoicing.run_desk import NotAsApprovedError, RunDesk
from invoicing.run_store import park
from invoicing.sweep_usage import sweep_usage
from invoicing.tax_provider import TaxUnknownError
from invoicing.work_store import DueCustomer, due_customer, due_with_terms, pending_customers
from invoicing.write_ahead import Ahead, chunks_of
from plans.model import Seller
from plans.subscription_store import PriceBook

MOST: Final = 100_000
SEGMENT: Final = 20_000
CHUNK: Final = 5_000


class Portions(msgspec.Struct, frozen=True, kw_only=True):
    """How many customers are derived together, and how many are posted in one transaction.

    `most` at once where many have the same terms, `segment` of those that are derived one by one;
    `few` sharing the same terms are derived one by one.
    """

    most: int = MOST
    segment: int = SEGMENT
    chunk: int = CHUNK
    few: int = FEW


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come; `together` are those of the customers that were derived at once.

    `done` of `total` customers, in all of the run: a customer with several due instants counts
    once for each, found as the run gets there. `total` is None before they are counted.
    """

    run: str
    done: int
    total: int | None
    customers: int
    together: int
    documents: int
    lines: int
    parked: int


class BillingPass:
    """One billing run in progress."""

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        desk: RunDesk,
        as_of: datetime,
        now: datetime,
        customers: Sequence[str] | None,
        report: Callable[[Progress], None] | None,
        portions: Portions,
    ) -> None:
        self.customers_wanted = customers
        self.portions = portions
        self.database = database
        self.seller_number = seller_number
        self.seller = seller
        self.desk = desk
        self.run = desk.run
        self.as_of = as_of
        self.now = now
        self.report = report
        self.parked: dict[str, str] = {}
        self.taxes = TaxDesk(database=database, seller=seller_number)
        self._sweeps: int | None = None
        self.ahead = Ahead(seller=seller, run=desk.run)
        self.customers = self.together = self.documents = self.lines = 0

    async def sweep(self) -> int:
        """Mark what new usage touches, once until facts change; the count that posting must find.

        What comes later is measured all the same, and marked by the next run.
        """
        if self._sweeps is None:
            async with self.database.transaction(seller=self.seller_number) as connection:
                self._sweeps = await sweep_usage(connection=connection)
        return self._sweeps

    def forget(self) -> None:
        """Sweep again: facts changed."""
        self._sweeps = None

    async def bill_pending(self) -> bool:
        """Bill the next customers with a difference waiting; False when none is left."""
        sweeps = await self.sweep()
        due: list[DueCustomer] = []
        try:
            async with self._snapshot() as connection:
                due = await pending_customers(
                    connection=connection,
                    as_of=self.as_of,
                    due_by=self.as_of - self.seller.grace,
                    limit=self.portions.segment,
                    parked=[*self.parked, *self.desk.left_out],
                    customers=self.customers_wanted,
                )
                work = await load_work(connection=connection, due=due, book=PriceBook())
        except Exception as error:
            if not due or not is_of_an_account(error):
                raise
            await self._park_unreadable(due, error)
            return True
        await self._post_derived(await self._derive(up_to_following(work=work)), sweeps)
        return bool(due)

    async def bill_due(self) -> bool:
        """Bill the next customers in the order of due instants; False when none is left."""
        sweeps = await self.sweep()
        due, sheaf = await self._derive_alike()
        end, one_by_one = apart(due, sheaf, self.portions.segment)
        try:
            async with self._snapshot() as connection:
                work = await load_work(connection=connection, due=one_by_one, book=PriceBook())
                following = earlier(following_due(work=work), following_of(sheaf, end))
        except Exception as error:
            if not one_by_one or not is_of_an_account(error):
                raise
            await self._park_unreadable(one_by_one, error)
            return True
        if following is not None:
            end = sum(each.due_at < following for each in due[:end])
            work = [item for item in work if item.due.due_at < following]
        derived = await self._derive(work)
        if sheaf is None:
            await self._post_derived(derived, sweeps)
        else:
            await self._post_chunks(due[:end], sheaf, derived, sweeps)
        return bool(due)

    async def look_ahead(self, *, pending: bool) -> None:
        """Count what is left, for the sake of progress."""
        await self.desk.look_ahead(
            as_of=self.as_of,
            due_by=self.as_of - self.seller.grace,
            pending=pending,
            parked=self.parked,
            customers=self.customers_wanted,
        )

    def _snapshot(self) -> AbstractAsyncContextManager[AsyncConnection]:
        return self.database.transaction(seller=self.seller_number, snapshot=True)

    async def _park_unreadable(self, due: Sequence[DueCustomer], error: Exception) -> None:
        """Park the accounts whose facts cannot even be read: halve until one is left."""
        if len(due) == 1:
            await self._park(due[0], error)
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
                await self._park_unreadable(half, found)

    async def _derive_alike(self) -> tuple[list[Due], Sheaf | None]:
        """What is due next, and what those owe of it that share their terms.

        Where one of these cannot be derived all are derived one by one, to find which it is.
        """
        due: list[Due] = []
        try:
            async with self._snapshot() as connection:
                due = await due_with_terms(
                    connection=connection,
                    due_by=self.as_of - self.seller.grace,
                    limit=self.portions.most,
                    parked=[*self.parked, *self.desk.left_out],
                    customers=self.customers_wanted,
                )
                sheaf = await derive_alike(
                    connection=connection,
                    seller=self.seller,
                    due=due,
                    book=PriceBook(),
                    few=self.portions.few,
                )
                await self._look_out(connection)
        except Exception as error:
            if not due or not is_of_an_account(error):
                raise
            await self.desk.fall_back(error, customers=len(due))
            return due, None
        return due, sheaf

    async def _derive(self, work: Sequence[Work]) -> list[Derived]:
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
                await self._park(work[0].due, error)
                return []
            middle = len(work) // 2
            return [*await self._derive(work[:middle]), *await self._derive(work[middle:])]

    async def _post_chunks(
        self, due: Sequence[Due], sheaf: Sheaf, derived: Sequence[Derived], sweeps: int
    ) -> None:
        """Post what was derived together and one by one, in the order of the work list."""
        chunks = chunks_of(due=due, sheaf=sheaf, derived=derived, size=self.portions.chunk)
        try:
            for place, chunk in enumerate(chunks):
                written = await self.ahead.take()
                self.ahead.begin(chunk, *chunks[place + 1 : place + 2])
                await self._post_chunk(chunk, written, sweeps)
        finally:
            await self.ahead.take()

    async def _post_chunk(self, chunk: Chunk, written: Written | None, sweeps: int) -> None:
        customers = len(chunk.sheaf.place) + len(chunk.derived)
        if not len(chunk.sheaf.place):
            await self._post(chunk.derived, sweeps)
            return
        try:
            async with self.desk.posting() as connection:
                posted = await post_alike(
                    connection=connection,
                    seller=self.seller,
                    run=self.run,
                    as_of=self.as_of,
                    sweeps=sweeps,
                    chunk=chunk,
                    written=written,
                )
                members = [each.customer for each in chunk.members]
                members += [item.due.customer.id for item in chunk.derived]
                await self.desk.note(connection, customers=members, posted=posted)
                await self._look_out(connection)
        except Exception as error:
            if not isinstance(error, NotAlikeError) and not is_of_an_account(error):
                raise
            await self.desk.fall_back(error, customers=customers)
            await self._post_one_by_one(chunk.due, sweeps)
            return
        self.together += len(chunk.sheaf.place)
        self._count(customers, posted)

    async def _look_out(self, connection: AsyncConnection) -> None:
        self.ahead.outlook = await outlook_of(
            connection=connection, seller=self.seller, as_of=self.as_of
        )

    async def _post_one_by_one(self, due: Sequence[Due], sweeps: int) -> None:
        """Derive customers again as if no two were alike, and post them."""
        every = [due_customer(each) for each in due if each.customer not in self.parked]
        try:
            async with self._snapshot() as connection:
                work = await load_work(connection=connection, due=every, book=PriceBook())
        except Exception as error:
            if not every or not is_of_an_account(error):
                raise
            await self._park_unreadable(every, error)
            await self._post_one_by_one(due, sweeps)
            return
        await self._post_derived(await self._derive(work), sweeps)

    async def _post_derived(self, derived: Sequence[Derived], sweeps: int) -> None:
        size = self.portions.chunk
        for begin in range(0, len(derived), size):
            await self._post(derived[begin : begin + size], sweeps)

    async def _post(self, derived: Sequence[Derived], sweeps: int) -> None:
        try:
            async with self.desk.posting() as connection:
                posted = await post(
                    connection=connection,
                    seller=self.seller,
                    run=self.run,
                    as_of=self.as_of,
                    sweeps=sweeps,
                    derived=derived,
                )
                members = [item.due.customer.id for item in derived]
                await self.desk.note(connection, customers=members, posted=posted)
        except NotAsApprovedError as error:
            for item in derived:
                if item.due.customer.id in error.customers:
                    await self._park(item.due, error)
            others = [item for item in derived if item.due.customer.id not in self.parked]
            await self._post(others, sweeps)
            return
        except TaxUnknownError as unknown:
            failure = await self.taxes.ask(unknown, now=self.now)
            if failure is None:
                await self._post(derived, sweeps)
            else:
                await self._post_halves(derived, sweeps, failure)
            return
        except Exception as error:
            if not is_of_an_account(error):
                raise
            await self._post_halves(derived, sweeps, error)
            return
        self._count(len(derived), posted)

    async def _post_halves(self, derived: Sequence[Derived], sweeps: int, error: Exception) -> None:
        """Find the account at fault: halve what failed until one is parked."""
        if len(derived) == 1:
            await self._park(derived[0].due, error)
            return
        middle = len(derived) // 2
        await self._post(derived[:middle], sweeps)
        await self._post(derived[middle:], sweeps)

    def _count(self, customers: int, posted: Posted) -> None:
        self.customers += customers
        self.desk.done += customers
        self.documents += posted.documents
        self.lines += posted.lines
        if self.report is not None:
            self.report(
                Progress(
                    run=self.run,
                    done=self.desk.done,
                    total=self.desk.total,
                    customers=self.customers,
                    together=self.together,
                    documents=self.documents,
                    lines=self.lines,
                    parked=len(self.parked),
                )
            )

    async def _park(self, due: DueCustomer, error: Exception) -> None:
        code, detail = reason_of(error)
        self.parked[due.customer.id] = code
        async with self.desk.posting() as connection:
            await park(
                connection=connection,
                run=self.run,
                customer=due.customer.id,
                billed_at=due.due_at,
                code=code,
                detail=detail,
                now=self.now,
            )


def apart(due: Sequence[Due], sheaf: Sheaf | None, most: int) -> tuple[int, list[DueCustomer]]:
    """(end, customers): those up to `end` that are derived one by one, at most so many."""
    together = frozenset() if sheaf is None else frozenset(sheaf.place.tolist())
    found: list[DueCustomer] = []
    for place, each in enumerate(due):
        if place in together:
            continue
        if len(found) == most:
            return place, found
        found.append(due_customer(each))
    return len(due), found


def earlier(first: datetime | None, second: datetime | None) -> datetime | None:
    """The earlier of two instants, either of which may be none."""
    known = [at for at in (first, second) if at is not None]
    return min(known, default=None)
