"""Verb: bill everything that is due or pending by an instant, over all customers of a seller.

Work is taken in the order of (due instant, customer key) and posted in chunks, a transaction each.
A run that dies is repeated: what is posted is derived as nothing left to post, and ids and numbers
follow from the work itself, so the documents come out the same, byte for byte.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database_errors import CONSTRAINT_ERRORS
from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from engine.ids import derived_body, derived_id
from invoicing.derive import Derived, Work, derive, following_due, load_work
from invoicing.model import BillingRun
from invoicing.post import Posted, StaleDerivationError, post
from invoicing.run_store import (
    begin_run,
    count_runs,
    find_running,
    finish_run,
    list_runs,
    park,
    unpark_all,
)
from invoicing.store import (
    DueCustomer,
    count_run,
    due_customers,
    lock_billing,
    touch_subscriptions,
)
from metering.measure import sweep_inbox
from plans.model import Seller
from plans.seller_store import load_seller
from plans.subscription_store import PriceBook

SEGMENT: Final = 20_000
CHUNK: Final = 2_000
ATTEMPTS: Final = 20
LOCK_WAIT_SECONDS: Final = 30


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
        report: Callable[[Progress], None] | None,
    ) -> None:
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
            sweeps = await lock_billing(connection=connection, sweep=True)
            customers, micros = await sweep_inbox(connection=connection)
            await touch_subscriptions(
                connection=connection, customers=customers.tolist(), micros=micros.tolist()
            )
        return sweeps

    async def bill_segment(self, *, pending: bool) -> bool:
        """Bill the next customers in order; False when none is left."""
        sweeps = await self.sweep()
        book = PriceBook()
        async with self.database.transaction(
            seller=self.seller_number, snapshot=True
        ) as connection:
            due = await due_customers(
                connection=connection,
                as_of=self.as_of,
                limit=SEGMENT,
                parked=list(self.parked),
                pending=pending,
            )
            if not due:
                return False
            work = await load_work(connection=connection, due=due, book=book)
            work = _up_to_following(work)
        for begin in range(0, len(work), SEGMENT):
            await self._derive_and_post(work[begin : begin + SEGMENT], sweeps)
        return True

    async def _derive_and_post(self, work: Sequence[Work], sweeps: int) -> None:
        """Derive the work at once and post it in chunks; halve what fails until one is parked."""
        try:
            async with self.database.transaction(
                seller=self.seller_number, snapshot=True
            ) as connection:
                derived = await derive(connection=connection, seller=self.seller, work=work)
        except (BillingError, AssertionError, ArithmeticError, LookupError) as error:
            if len(work) == 1:
                await self._park(work[0].due, error)
                return
            middle = len(work) // 2
            await self._derive_and_post(work[:middle], sweeps)
            await self._derive_and_post(work[middle:], sweeps)
            return
        for begin in range(0, len(derived), CHUNK):
            await self._post(derived[begin : begin + CHUNK], sweeps)

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
        except (
            BillingError,
            AssertionError,
            *CONSTRAINT_ERRORS,
        ) as error:
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
        code = error.code if isinstance(error, BillingError) else "impossible"
        detail = error.detail if isinstance(error, BillingError) else _first_line(error)
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


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _up_to_following(work: Sequence[Work]) -> list[Work]:
    """The work before any customer's next due instant: documents are numbered in due order."""
    following = following_due(work=work)
    if following is None:
        return list(work)
    return [item for item in work if item.due.due_at < following]


async def run_billing(
    *,
    database: Database,
    seller: int,
    as_of: datetime,
    now: datetime,
    pending: bool = True,
    report: Callable[[Progress], None] | None = None,
) -> BillingRun:
    """Bill all that is due by `as_of` and, with `pending`, every difference waiting.

    An unfinished run for the same instant is taken up again. Documents are issued at `as_of`.
    Accounts that fail are parked with their reason and tried again by the next run.
    """
    async with exclusive(
        database=database, name=f"billing-{seller}", wait_seconds=LOCK_WAIT_SECONDS
    ) as alone:
        if not alone:
            message = "another billing run of this seller is still going"
            raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
        async with database.transaction(seller=seller) as connection:
            found = await load_seller(connection=connection)
            run = await _begin(connection=connection, seller=found, as_of=as_of, now=now)
        billing = _Run(
            database=database,
            seller_number=seller,
            seller=found,
            run=run,
            as_of=as_of,
            now=now,
            report=report,
        )
        for phase in (False, True) if pending else (False,):
            await _bill_all(billing, pending=phase)
        async with database.transaction(seller=seller) as connection:
            await finish_run(connection=connection, run=run, now=now)
            return (await list_runs(connection=connection, run=run))[0]


async def _bill_all(billing: _Run, *, pending: bool) -> None:
    stale = 0
    while True:
        try:
            if not await billing.bill_segment(pending=pending):
                return
        except StaleDerivationError:
            stale += 1
            if stale == ATTEMPTS:
                message = "another run or a change keeps coming between; try again"
                raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT) from None


async def _begin(
    *, connection: AsyncConnection, seller: Seller, as_of: datetime, now: datetime
) -> str:
    await lock_billing(connection=connection, sweep=False)
    running = await find_running(connection=connection, as_of=as_of)
    if running is not None:
        await unpark_all(connection=connection, run=running)
        return running
    ordinal = await count_runs(connection=connection, as_of=as_of)
    body = derived_body(at=as_of, parts=(seller.id, "billing_run", as_of.isoformat(), ordinal))
    run = derived_id(prefix="run", body=body)
    await begin_run(connection=connection, run=run, as_of=as_of, now=now)
    return run
