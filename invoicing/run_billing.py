"""Verb: bill everything that is due or pending by an instant, over all customers of a seller.

Work is taken in the order of (due instant, customer key) and posted in chunks, a transaction each.
A run that dies is repeated: what is posted is derived as nothing left to post, and ids and numbers
follow from the work itself, so the documents come out the same, byte for byte.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from engine.ids import derived_body, derived_id
from invoicing.billing_pass import BillingPass
from invoicing.model import BillingRun
from invoicing.portions import Portions, Progress
from invoicing.post import StaleDerivationError
from invoicing.review_run import Review, review_run
from invoicing.review_store import not_posted
from invoicing.run_desk import NotAsApprovedError, RunDesk, RunStoppedError
from invoicing.run_progress_store import take_up
from invoicing.run_states import RunStatus, on_hold
from invoicing.run_store import (
    Hold,
    Unfinished,
    begin_run,
    count_runs,
    find_running,
    find_unfinished,
    finish_run,
    list_holds,
    list_runs,
    refresh_statistics,
    review_again,
    unfinished_runs,
)
from invoicing.store import lock_billing
from invoicing.sweep_usage import billing_lock
from plans.model import Seller
from plans.seller_store import load_seller

ATTEMPTS: Final = 20
LOCK_WAIT_SECONDS: Final = 30
MANY_DOCUMENTS: Final = 1_000


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
    approve: bool = False,
    begun: Callable[[AsyncConnection, str], Awaitable[None]] | None = None,
) -> BillingRun:
    """Bill all that is due by `as_of` less the grace and, with `pending`, every difference waiting.

    `customers` (ids) limits the run to their documents. Unfinished runs for that instant and for
    earlier ones are taken up again, so that a run that died leaves no trace. Documents are issued
    at `as_of`. Accounts that fail are parked with their reason and tried again by the next run.
    The run may be paused or cancelled meanwhile: its status tells. Customers of runs that stand
    still are left out. With `approve` nothing is posted yet: the run is reported and waits (see
    `review_run`). `begun` is told the run's id in the transaction that writes or finds it. Errors:
    `billing_busy`, and `billing_on_hold` where nobody is left.
    """
    wanted = Unfinished(
        as_of=as_of,
        customers=None if customers is None else tuple(sorted(set(customers))),
        pending=pending,
        approve=approve,
    )
    work = _Work(
        database=database, seller=seller, now=now, report=report, portions=portions, begun=begun
    )
    return await _alone(work, wanted)


async def take_up_run(
    *,
    database: Database,
    seller: int,
    run: str,
    now: datetime,
    report: Callable[[Progress], None] | None = None,
    portions: Portions | None = None,
    wait_seconds: int = LOCK_WAIT_SECONDS,
) -> BillingRun:
    """Go on with a run that is running or reviewed, after those for earlier instants.

    Gives where it stands at the end.

    Errors: `billing_busy` when another one works for longer than it waits, `billing_on_hold`.
    """
    async with database.transaction(seller=seller) as connection:
        wanted = await find_unfinished(connection=connection, run=run)
        if wanted is None:
            return (await list_runs(connection=connection, run=run))[0]
    work = _Work(
        database=database,
        seller=seller,
        now=now,
        report=report,
        portions=portions,
        wait_seconds=wait_seconds,
    )
    return await _alone(work, wanted)


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """With what a run works."""

    database: Database
    seller: int
    now: datetime
    report: Callable[[Progress], None] | None
    portions: Portions | None
    wait_seconds: int = LOCK_WAIT_SECONDS
    begun: Callable[[AsyncConnection, str], Awaitable[None]] | None = None


async def _alone(work: _Work, wanted: Unfinished) -> BillingRun:
    """Do what is unfinished and then what is wanted, while no other run of the seller works."""
    async with exclusive(
        database=work.database, name=billing_lock(work.seller), wait_seconds=work.wait_seconds
    ) as alone:
        if not alone:
            message = "another billing run of this seller is still going"
            raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
        async with work.database.transaction(seller=work.seller) as connection:
            found = await load_seller(connection=connection)
            earlier = await unfinished_runs(connection=connection, before=wanted)
        for begun in earlier:
            try:
                await _bill(work, found, begun)
            except BillingError as error:
                # The others can go on without those that are held back, but not at their instant.
                if error.code != "billing_on_hold" or begun.as_of == wanted.as_of:
                    raise
        return await _bill(work, found, wanted)


async def _bill(work: _Work, seller: Seller, begun: Unfinished) -> BillingRun:
    """One run, to its end or until it is stopped."""
    async with work.database.transaction(seller=work.seller) as connection:
        desk = await _begin(connection=connection, work=work, seller=seller, begun=begun)
    if desk.status is RunStatus.REVIEWING:
        return await _review(work, seller, begun, desk)
    billing = BillingPass(
        database=work.database,
        seller_number=work.seller,
        seller=seller,
        desk=desk,
        as_of=begun.as_of,
        now=work.now,
        customers=begun.customers,
        report=work.report,
        portions=work.portions or Portions(),
    )
    try:
        await _bill_all(billing, pending=False)
        if begun.pending:
            await _bill_all(billing, pending=True)
        changed = await _not_as_approved(work, desk, billing)
        if changed:
            again = msgspec.structs.replace(begun, customers=tuple(changed))
            return await _review(work, seller, again, desk)
        async with desk.posting() as connection:
            await finish_run(
                connection=connection,
                run=desk.run,
                tried=begun.customers,
                parked=billing.parked,
                now=work.now,
            )
    except RunStoppedError:
        return await _stopped(work, begun, desk)
    if billing.documents >= MANY_DOCUMENTS:
        async with work.database.transaction(seller=work.seller) as connection:
            await refresh_statistics(connection=connection)
    async with work.database.transaction(seller=work.seller) as connection:
        return (await list_runs(connection=connection, run=desk.run))[0]


async def _stopped(work: _Work, begun: Unfinished, desk: RunDesk) -> BillingRun:
    """Where a run stands that may not go on; raises when that is not its own doing."""
    async with work.database.transaction(seller=work.seller) as connection:
        (stopped,) = await list_runs(connection=connection, run=desk.run)
        if stopped.status == desk.status:
            refuse_held(await list_holds(connection=connection, run=desk.run), begun)
            message = "another run came between; try again"
            raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
    return stopped


async def _not_as_approved(work: _Work, desk: RunDesk, billing: BillingPass) -> list[str]:
    """The customers (ids) that owe something else than was approved."""
    if not desk.approve:
        return []
    changed = [each for each, code in billing.parked.items() if code == NotAsApprovedError.CODE]
    async with work.database.transaction(seller=work.seller) as connection:
        gone = await not_posted(connection=connection, run=desk.run, parked=billing.parked)
    return sorted({*changed, *gone})


async def _review(work: _Work, seller: Seller, begun: Unfinished, desk: RunDesk) -> BillingRun:
    """Report the run, or what of it is not as it was approved; it awaits approval then."""
    try:
        if desk.status is RunStatus.RUNNING:
            async with desk.posting() as connection:
                await review_again(
                    connection=connection, run=desk.run, customers=begun.customers or ()
                )
            desk.status = RunStatus.REVIEWING
            desk.again = begun.customers
        await review_run(
            database=work.database,
            seller_number=work.seller,
            seller=seller,
            desk=desk,
            review=Review(
                as_of=begun.as_of,
                pending=begun.pending,
                customers=begun.customers,
                again=desk.again,
            ),
            now=work.now,
        )
    except RunStoppedError:
        return await _stopped(work, begun, desk)
    async with work.database.transaction(seller=work.seller) as connection:
        return (await list_runs(connection=connection, run=desk.run))[0]


async def _bill_all(billing: BillingPass, *, pending: bool) -> None:
    """Bill segment after segment; what changes in between is derived again, within reason."""
    await billing.forget()
    stale = 0
    try:
        while True:
            done = billing.customers
            try:
                await billing.look_ahead(pending=pending)
                if not await (billing.bill_pending() if pending else billing.bill_due()):
                    return
                stale = 0
            except StaleDerivationError:
                await billing.forget()
                stale = 1 if billing.customers > done else stale + 1
                if stale == ATTEMPTS:
                    message = "another run or a change keeps coming between; try again"
                    raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT) from None
    finally:
        await billing.close()


async def _begin(
    *, connection: AsyncConnection, work: _Work, seller: Seller, begun: Unfinished
) -> RunDesk:
    """Write the run, or take it up; raises `billing_on_hold`."""
    as_of = begun.as_of
    await lock_billing(connection=connection, sweep=False)
    run = begun.run or await find_running(connection=connection, as_of=as_of, pending=begun.pending)
    holds = await list_holds(connection=connection, run=run)
    left_out = refuse_held(holds, begun)
    if run is None:
        run = await next_run_id(connection=connection, seller=seller, as_of=as_of)
        await begin_run(connection=connection, run=run, begun=begun, now=work.now)
    elif begun.approve and begun.run is None:
        message = f"the billing run {run!r} for this instant is not over: go on with it first"
        raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
    if work.begun is not None and begun.run is None:
        await work.begun(connection, run)
    done, status = await take_up(connection=connection, run=run) or (0, RunStatus.RUNNING)
    return RunDesk(
        database=work.database,
        seller=work.seller,
        run=run,
        holds=[hold.run for hold in holds],
        left_out=left_out,
        done=done,
        status=status,
        approve=begun.approve,
        again=begun.again,
    )


async def next_run_id(*, connection: AsyncConnection, seller: Seller, as_of: datetime) -> str:
    """The id of the next run for that instant, under the posting lock."""
    ordinal = await count_runs(connection=connection, as_of=as_of)
    body = derived_body(at=as_of, parts=(seller.id, "billing_run", as_of.isoformat(), ordinal))
    return derived_id(prefix="run", body=body)


def refuse_held(holds: Sequence[Hold], begun: Unfinished) -> list[str]:
    """The customers of others to be left out; raises `billing_on_hold` when none would be left."""
    left_out: list[str] = []
    for hold in holds:
        if hold.customers is None:
            raise on_hold(run=hold.run, status=hold.status)
        if begun.customers is not None and not hold.customers.isdisjoint(begun.customers):
            raise on_hold(run=hold.run, status=hold.status)
        left_out.extend(hold.customers)
    return sorted(left_out)
