"""One billing run in progress: segments derived together or one by one, posted in chunks."""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.alike import Due, Sheaf, following_of
from invoicing.ask_taxes import TaxDesk
from invoicing.blame import is_of_an_account
from invoicing.copy_ahead import Begun, CopyAhead, chunks_of
from invoicing.derive import Derived, following_due, load_work, up_to_following
from invoicing.derive_ahead import DeriveAhead
from invoicing.derive_alike import derive_alike
from invoicing.derive_portion import Portion, Stretch, apart, cut, derive_portion, due_in, earlier
from invoicing.park_accounts import Parking
from invoicing.portions import Portions, Progress
from invoicing.post import Posted, compare_seller, post
from invoicing.post_alike import Chunk, NotAlikeError, UnforeseenError, post_alike
from invoicing.run_desk import NotAsApprovedError, RunDesk
from invoicing.sweep_usage import mark_usage, take_usage
from invoicing.tax_provider import TaxUnknownError
from invoicing.work_store import DueCustomer, due_customer, pending_customers
from metering.kept_usage import KeptUsage
from plans.model import Seller
from plans.seller_store import load_seller
from plans.subscription_store import PriceBook


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
        self._parking = Parking(
            database=database, seller_number=seller_number, seller=seller, desk=desk, now=now
        )
        self.taxes = TaxDesk(database=database, seller=seller_number)
        self._sweeps: int | None = None
        self._limit = min(portions.first, portions.most)
        self._kept = KeptUsage()
        self.next = DeriveAhead()
        self.ahead = desk.ahead = CopyAhead(
            database=database, number=seller_number, seller=seller, run=desk.run, as_of=as_of
        )
        self.customers = self.together = self.documents = self.lines = 0

    @property
    def parked(self) -> dict[str, str]:
        """Who was set aside: the code of each customer (id)."""
        return self._parking.parked

    async def sweep(self, *, ahead: bool = False) -> int:
        """Mark what new usage touches, once until facts change; the count that posting must find.

        What comes later is measured all the same, and marked by the next run. With `ahead` the
        first portion is derived meanwhile: the usage that is taken lies there already, and if it
        touches what was billed the portion is thrown away.
        """
        if self._sweeps is None:
            async with self.database.transaction(seller=self.seller_number) as connection:
                sweep = await take_usage(connection=connection)
                self.seller = await load_seller(connection=connection)
                self._parking.seller = self.ahead.seller = self.seller
                if ahead and sweep.taken and self.portions.ahead and self.database.spare:
                    self.next.begin(self._derive_portion(self._stretch()))
                touched = await mark_usage(connection=connection, sweep=sweep)
            if touched:
                await self.next.drop()
            self._sweeps = sweep.count
        return self._sweeps

    async def forget(self) -> None:
        """Sweep and derive again: facts changed."""
        await self.close()
        self._sweeps = None

    async def close(self) -> None:
        """Leave nothing behind that is still being done."""
        await self.ahead.drop()
        await self.next.drop()
        self._kept.forget()

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
            await self._parking.park_unreadable(due, error)
            return True
        await self._post_derived(await self._parking.derive(up_to_following(work=work)), sweeps)
        return bool(due)

    async def bill_due(self) -> bool:
        """Bill the next customers in the order of due instants; False when none is left."""
        sweeps = await self.sweep(ahead=True)
        portion = await self.next.take()
        if portion is None or (portion.last is None and not portion.is_first):
            try:
                portion = await self._derive_portion(self._stretch())
            except Exception as error:
                if not is_of_an_account(error):
                    raise
                return await self._bill_with_care(sweeps)
        if portion is None or portion.last is None:
            return False
        self._derive_ahead(portion)
        if portion.chunks:
            await self._post_chunks(portion.chunks, sweeps)
        else:
            await self._post_derived(portion.derived, sweeps)
        return True

    def _stretch(self) -> Stretch:
        """The begin of what is due."""
        return Stretch(
            due_by=self.as_of - self.seller.grace,
            limit=self._limit,
            parked=[*self.parked, *self.desk.left_out],
            customers=self.customers_wanted,
        )

    async def _derive_portion(
        self, stretch: Stretch, *, alike_only: bool = False
    ) -> Portion | None:
        async with self._snapshot() as connection:
            return await derive_portion(
                connection=connection,
                seller=self.seller,
                stretch=stretch,
                portions=self.portions,
                alike_only=alike_only,
                kept=self._kept,
            )

    def _derive_ahead(self, portion: Portion) -> None:
        """Begin with what comes after a portion that is about to be posted.

        Only where many have the same terms, of which more can be held, and where a connection is
        to spare besides the one that posts.
        """
        self._limit = min(2 * self._limit, self.portions.most)
        if not self.portions.ahead or not portion.goes_on or not portion.chunks:
            return
        if self.database.spare > 1:
            stretch = self._stretch().beyond(portion, limit=self._limit)
            self.next.begin(self._derive_portion(stretch, alike_only=True))

    async def _bill_with_care(self, sweeps: int) -> bool:
        """Bill the next customers where some cannot be derived, and park these."""
        due, sheaf = await self._derive_alike()
        end, one_by_one = apart(due, sheaf, self.portions.segment)
        try:
            async with self._snapshot() as connection:
                work = await load_work(connection=connection, due=one_by_one, book=PriceBook())
                following = earlier(following_due(work=work), following_of(sheaf, end))
        except Exception as error:
            if not one_by_one or not is_of_an_account(error):
                raise
            await self._parking.park_unreadable(one_by_one, error)
            return True
        end, work = cut(due=due[:end], work=work, following=following)
        derived = await self._parking.derive(work)
        if sheaf is None:
            await self._post_derived(derived, sweeps)
        else:
            size = self.portions.chunk
            chunks = chunks_of(due=due[:end], sheaf=sheaf, derived=derived, size=size)
            await self._post_chunks(deque(chunks), sweeps)
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

    async def _derive_alike(self) -> tuple[list[Due], Sheaf | None]:
        """What is due next, and what those owe of it that share their terms.

        Where one of these cannot be derived all are derived one by one, to find which it is.
        """
        due: list[Due] = []
        try:
            async with self._snapshot() as connection:
                due, _ = await due_in(connection=connection, stretch=self._stretch())
                sheaf = await derive_alike(
                    connection=connection,
                    seller=self.seller,
                    due=due,
                    book=PriceBook(),
                    few=self.portions.few,
                )
        except Exception as error:
            if not due or not is_of_an_account(error):
                raise
            await self.desk.fall_back(error, customers=len(due))
            return due, None
        return due, sheaf

    async def _post_chunks(self, chunks: deque[Chunk], sweeps: int) -> None:
        """Post what was derived together and one by one, in the order of the work list.

        Each chunk is forgotten when it is posted.
        """
        try:
            while chunks:
                chunk = chunks.popleft()
                begun = await self.ahead.take(chunk) if self.portions.ahead else None
                if begun is not None:
                    self.ahead.begin([*chunks, *self.next.chunks()], begun)
                await self._post_chunk(chunk, begun, sweeps)
        except BaseException:
            await self.ahead.drop()
            raise

    async def _post_chunk(self, chunk: Chunk, begun: Begun | None, sweeps: int) -> None:
        customers = len(chunk.sheaf.place) + len(chunk.derived)
        if not len(chunk.sheaf.place):
            await self._post(chunk.derived, sweeps)
            return
        try:
            async with self.desk.posting(begun) as connection:
                await compare_seller(connection=connection, seller=self.seller)
                posted = await post_alike(
                    connection=connection,
                    seller=self.seller,
                    run=self.run,
                    as_of=self.as_of,
                    sweeps=sweeps,
                    chunk=chunk,
                    written=None if begun is None else begun.written,
                )
                members = [each.customer for each in chunk.members]
                members += [item.due.customer.id for item in chunk.derived]
                await self.desk.note(connection, customers=members, posted=posted)
        except UnforeseenError:
            await self._post_chunk(chunk, None, sweeps)
            return
        except NotAlikeError as error:
            await self.desk.fall_back(error, customers=len(error.customers) or customers)
            await self._post_apart(chunk, error.customers, sweeps)
            return
        except Exception as error:
            if not is_of_an_account(error):
                raise
            await self.desk.fall_back(error, customers=customers)
            await self._post_one_by_one(chunk.due, sweeps)
            return
        self.together += len(chunk.sheaf.place)
        self._count(customers, posted)

    async def _post_apart(self, chunk: Chunk, customers: Collection[str], sweeps: int) -> None:
        """Derive some customers (ids) of a chunk one by one, or all, and post it with them."""
        due = [due_customer(each) for each in chunk.members if each.customer in customers]
        try:
            async with self._snapshot() as connection:
                work = await load_work(connection=connection, due=due, book=PriceBook())
        except Exception as error:
            if not is_of_an_account(error):
                raise
            work = []
        if not work:
            await self._post_one_by_one(chunk.due, sweeps)
            return
        derived = await self._parking.derive(work)
        if len(derived) < len(work):
            await self.next.drop()
        await self._post_chunk(chunk.apart(customers, derived), None, sweeps)

    async def _post_one_by_one(self, due: Sequence[Due], sweeps: int) -> None:
        """Derive customers again as if no two were alike, and post them."""
        await self.next.drop()
        every = [due_customer(each) for each in due if each.customer not in self.parked]
        try:
            async with self._snapshot() as connection:
                work = await load_work(connection=connection, due=every, book=PriceBook())
        except Exception as error:
            if not every or not is_of_an_account(error):
                raise
            await self._parking.park_unreadable(every, error)
            await self._post_one_by_one(due, sweeps)
            return
        await self._post_derived(await self._parking.derive(work), sweeps)

    async def _post_derived(self, derived: Sequence[Derived], sweeps: int) -> None:
        size = self.portions.chunk
        for begin in range(0, len(derived), size):
            await self._post(derived[begin : begin + size], sweeps)

    async def _post(self, derived: Sequence[Derived], sweeps: int) -> None:
        try:
            async with self.desk.posting() as connection:
                await compare_seller(connection=connection, seller=self.seller)
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
            await self.next.drop()
            for item in derived:
                if item.due.customer.id in error.customers:
                    await self._parking.park(item.due, error)
            others = [item for item in derived if item.due.customer.id not in self.parked]
            await self._post(others, sweeps)
            return
        except TaxUnknownError as unknown:
            await self.next.drop()
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
        await self.next.drop()
        if len(derived) == 1:
            await self._parking.park(derived[0].due, error)
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
