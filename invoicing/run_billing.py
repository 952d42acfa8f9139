"""Verb: bill everything that is due or pending by an instant, over all customers of a seller.

Work is taken in the order of (due instant, customer key) and posted in chunks, a transaction each.
A run that dies is repeated: what is posted is derived as nothing left to post, and ids and numbers
follow from the work itself, so the documents come out the same, byte for byte.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, exclusive
from engine.errors import BillingError, ErrorKind
from engine.ids import derived_body, derived_id
from invoicing.billing_pass import BillingPass, Portions, Progress
from invoicing.model import BillingRun
from invoicing.post import StaleDerivationError
from invoicing.run_store import (
    Unfinished,
    begin_run,
    count_runs,
    find_running,
    finish_run,
    list_runs,
    refresh_statistics,
    unfinished_runs,
    unpark_all,
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
            billing = BillingPass(
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


async def _bill_all(billing: BillingPass, *, pending: bool) -> None:
    """Bill segment after segment; what changes in between is derived again, within reason."""
    billing.forget()
    stale = 0
    while True:
        done = billing.customers
        try:
            if not await (billing.bill_pending() if pending else billing.bill_due()):
                return
            stale = 0
        except StaleDerivationError:
            billing.forget()
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
