"""Verb: have a worker do a billing run that nobody waits for, and do one that was queued."""

from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from invoicing.end_due_credits import end_due_credits
from invoicing.model import BillingRun
from invoicing.run_billing import next_run_id, refuse_held, take_up_run
from invoicing.run_states import RunStatus
from invoicing.run_store import (
    Unfinished,
    begin_run,
    find_running,
    find_status,
    find_unfinished,
    list_holds,
    list_runs,
    move_run,
    settle_approval,
)
from invoicing.store import lock_billing
from plans.model import Seller
from plans.seller_store import load_seller

WAIT_SECONDS = 1
"""For whoever is at a run of the seller; then the next look finds it again."""


async def queue_run(
    *,
    connection: AsyncConnection,
    seller: Seller,
    wanted: Unfinished,
    now: datetime,
) -> str:
    """Write down a run for a worker; gives its id.

    It holds nobody back before it is begun. Errors: `billing_on_hold`.
    """
    await lock_billing(connection=connection, sweep=False)
    refuse_held(await list_holds(connection=connection, run=None), wanted)
    run = await next_run_id(connection=connection, seller=seller, as_of=wanted.as_of)
    await begin_run(connection=connection, run=run, begun=wanted, now=now, queued=True)
    return run


async def go_on_with(*, database: Database, seller: int, run: str, now: datetime) -> BillingRun:
    """Do what is left of a run that was queued or is taken up; where it stands then.

    As when somebody waits for it, credit that expires by its instant ends before, unless it is to
    be approved: whether it is says the seller now, where the run leaves that open. Errors:
    `billing_busy`, `billing_on_hold`.
    """
    async with database.transaction(seller=seller) as connection:
        queued = await find_unfinished(connection=connection, run=run, statuses=[RunStatus.QUEUED])
        if queued is not None and queued.as_seller:
            found = await load_seller(connection=connection)
            queued = msgspec.structs.replace(queued, approve=found.run_approval)
    if queued is not None:
        if not queued.approve:
            await end_due_credits(
                database=database,
                seller=seller,
                through=queued.as_of,
                now=now,
                customers=queued.customers,
            )
        rival = await _begin(database, seller, queued, now)
        if rival is not None:
            await take_up_run(
                database=database, seller=seller, run=rival, now=now, wait_seconds=WAIT_SECONDS
            )
            async with database.transaction(seller=seller) as connection:
                return (await list_runs(connection=connection, run=run))[0]
    return await take_up_run(
        database=database, seller=seller, run=run, now=now, wait_seconds=WAIT_SECONDS
    )


async def _begin(database: Database, seller: int, queued: Unfinished, now: datetime) -> str | None:
    """Begin with it, unless another one runs for that instant: gives that one."""
    run = queued.run
    assert run is not None
    async with database.transaction(seller=seller) as connection:
        await lock_billing(connection=connection, sweep=False)
        if await find_status(connection=connection, run=run) is not RunStatus.QUEUED:
            return None
        refuse_held(await list_holds(connection=connection, run=run), queued)
        rival = await find_running(connection=connection, as_of=queued.as_of, pending=False)
        if rival is not None:
            return rival
        await settle_approval(connection=connection, run=run, approve=queued.approve)
        status = RunStatus.REVIEWING if queued.approve else RunStatus.RUNNING
        await move_run(connection=connection, run=run, status=status, now=now)
        return None
