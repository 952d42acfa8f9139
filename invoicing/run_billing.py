"""Verb: bill everything that is due or pending by an instant, over all customers of a seller.

Work is taken in the order of (due instant, customer key) and posted in chunks, a transaction each.
A run that dies is repeated: what is posted is derived as nothing left to post, and ids and numbers
follow from the work itself, so the documents come out the same, byte for byte.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from engine.ids import derived_body, derived_id
from invoicing.blame import is_of_an_account, reason_of
from invoicing.derive import (
    Derived,
    Work,
    derive,
    following_due,
    load_work,
    up_to_following,
)
from invoicing.model import BillingRun
from invoicing.post import Posted, StaleDerivationError, post
from invoicing.run_store import (
    Unfinished,
    begin_run,
    count_runs,
    find_running,
    finish_run,
    list_runs,
    park,
    refresh_statistics,
    unfinished_runs,
    unpark_all,
)
from invoicing.store import (
    DueCustomer,
    count_run,
    due_customers,
    lock_billing,
)
from invoicing.sweep_usage import billing_lock, sweep_usage
from plans.model import Seller
from plans.seller_store import load_seller
from plans.subscription_store import PriceBook

SEGMENT: Final = 20_000
CHUNK: Final = 2_000
ATTEMPTS: Final = 20
LOCK_WAIT_SECONDS: Final = 30
MANY_DOCUMENTS: Final = 1_000


class Portions(msgspec.Struct, frozen=True, kw_only=True):
    """How many customers are derived together, and how many are posted in one transaction."""

    segment: int = SEGMENT
    chunk: int = CHUNK


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run has come."""

    customers: int
    documents: int
    lines: int
    parked: int


class _Run:
    """One billing run in progress."""

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        run: str,
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
        self.run = run
        self.as_of = as_of
        self.now = now
        self.report = report
        self.parked: dict[str, None] = {}
        self.customers = self.documents = self.lines = 0

    async def sweep(self) -> int:
        """Mark what new usage touches; give the count of sweeps that posting must still find."""
        async with self.database.transaction(seller=self.seller_number) as connection:
            return await sweep_usage(connection=connection)

    async def bill_segment(self, *, pending: bool) -> bool:
        """Bill the next customers in order; False when none is left."""
        sweeps = await self.sweep()
        due: list[DueCustomer] = []
        try:
            async with self._snapshot() as connection:
                due = await due_customers(
                    connection=connection,
                    as_of=self.as_of,
                    due_by=self.as_of - self.seller.grace,
                    limit=self.portions.segment,
                    parked=list(self.parked),
                    pending=pending,
                    customers=self.customers_wanted,
                )
                work = await load_work(connection=connection, due=due, book=PriceBook())
                work = up_to_following(work=work)
        except Exception as error:
            if not due or not is_of_an_account(error):
                raise
            await self._park_unreadable(due, error)
            return True
        if work:
            await self._derive_and_post(work, sweeps)
        return bool(due)

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

    async def _derive_and_post(self, work: Sequence[Work], sweeps: int) -> None:
        """Derive the work at once and post it in chunks; halve what fails until one is parked."""
        try:
            async with self._snapshot() as connection:
                derived = await derive(connection=connection, seller=self.seller, work=work)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            if len(work) == 1:
                await self._park(work[0].due, error)
                return
            middle = len(work) // 2
            await self._derive_and_post(work[:middle], sweeps)
            await self._derive_and_post(work[middle:], sweeps)
            return
        size = self.portions.chunk
        for begin in range(0, len(derived), size):
            await self._post(derived[begin : begin + size], sweeps)

    async def _post(self, derived: Sequence[Derived], sweeps: int) -> None:
        try:
            async with self.database.transaction(seller=self.seller_number) as connection:
                posted = await post(
                    connection=connection,
                    seller=self.seller,
                    run=self.run,
                    as_of=self.as_of,
                    sweeps=sweeps,
                    derived=derived,
                )
                await count_run(
                    connection=connection,
                    run=self.run,
                    documents=posted.documents,
                    lines=posted.lines,
                )
        except Exception as error:
            if not is_of_an_account(error):
                raise
            if len(derived) == 1:
                await self._park(derived[0].due, error)
                return
            middle = len(derived) // 2
            await self._post(derived[:middle], sweeps)
            await self._post(derived[middle:], sweeps)
            return
        self._count(len(derived), posted)

    def _count(self, customers: int, posted: Posted) -> None:
        self.customers += customers
        self.documents += posted.documents
        self.lines += posted.lines
        if self.report is not None:
            self.report(
                Progress(
                    customers=self.customers,
                    documents=self.documents,
                    lines=self.lines,
                    parked=len(self.parked),
                )
            )

    async def _park(self, due: DueCustomer, error: Exception) -> None:
        code, detail = reason_of(error)
        self.parked[due.customer.id] = None
        async with self.database.transaction(seller=self.seller_number) as connection:
            await park(
                connection=connection,
                run=self.run,
                customer=due.customer.id,
                billed_at=due.due_at,
                code=code,
                detail=detail,
                now=self.now,
            )


async def run_billing(
    *,
    database: Database,
    seller: int,
    as_of: datetime,
    now: datetime,
    pending: bool = True,
    customers: Sequence[str] | None = None,
    report: Callable[[Progress], None] | None = None,
    portions: Portions | None = None,
) -> BillingRun:
    """Bill all that is due by `as_of` less the grace and, with `pending`, every difference waiting.

    `customers` (ids) limits the run to their documents. Unfinished runs for that instant and for
    earlier ones are taken up again, so that a run that died leaves no trace. Documents are issued
    at `as_of`. Accounts that fail are parked with their reason and tried again by the next run.
    Errors: `billing_busy`.
    """
    async with exclusive(
        database=database, name=billing_lock(seller), wait_seconds=LOCK_WAIT_SECONDS
    ) as alone:
        if not alone:
            message = "another billing run of this seller is still going"
            raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
        async with database.transaction(seller=seller) as connection:
            found = await load_seller(connection=connection)
            wanted = Unfinished(
                as_of=as_of, customers=None if customers is None else tuple(sorted(set(customers)))
            )
            earlier = await unfinished_runs(connection=connection, before=wanted)
        run = ""
        for begun in (*earlier, wanted):
            instant = begun.as_of
            async with database.transaction(seller=seller) as connection:
                run = await _begin(connection=connection, seller=found, begun=begun, now=now)
            billing = _Run(
                database=database,
                seller_number=seller,
                seller=found,
                run=run,
                as_of=instant,
                now=now,
                customers=begun.customers,
                report=report,
                portions=portions or Portions(),
            )
            await _bill_all(billing, pending=False)
            if pending and begun is wanted:
                await _bill_all(billing, pending=True)
            async with database.transaction(seller=seller) as connection:
                await finish_run(connection=connection, run=run, now=now)
            if billing.documents >= MANY_DOCUMENTS:
                async with database.transaction(seller=seller) as connection:
                    await refresh_statistics(connection=connection)
        async with database.transaction(seller=seller) as connection:
            return (await list_runs(connection=connection, run=run))[0]


async def _bill_all(billing: _Run, *, pending: bool) -> None:
    """Bill segment after segment; what changes in between is derived again, within reason."""
    stale = 0
    while True:
        done = billing.customers
        try:
            if not await billing.bill_segment(pending=pending):
                return
            stale = 0
        except StaleDerivationError:
            stale = 1 if billing.customers > done else stale + 1
            if stale == ATTEMPTS:
                message = "another run or a change keeps coming between; try again"
                raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT) from None


async def _begin(
    *, connection: AsyncConnection, seller: Seller, begun: Unfinished, now: datetime
) -> str:
    as_of = begun.as_of
    await lock_billing(connection=connection, sweep=False)
    running = await find_running(connection=connection, as_of=as_of)
    if running is not None:
        await unpark_all(connection=connection, run=running)
        return running
    ordinal = await count_runs(connection=connection, as_of=as_of)
    body = derived_body(at=as_of, parts=(seller.id, "billing_run", as_of.isoformat(), ordinal))
    run = derived_id(prefix="run", body=body)
    await begin_run(connection=connection, run=run, begun=begun, now=now)
    return run
