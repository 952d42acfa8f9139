"""Verb: propose what is due, where nothing is posted that nobody approved."""

from datetime import datetime, timedelta
from typing import Final

from engine.db import Database
from invoicing.credit_store import next_credit_end
from invoicing.end_credits import end_credits
from invoicing.proposal_store import is_any_open, was_refused
from invoicing.queue_run import queue_run
from invoicing.run_store import Unfinished
from invoicing.store import lock_billing
from invoicing.work_store import is_any_due
from plans.seller_store import load_seller

REFUSED_FOR: Final = timedelta(days=1)
"""So long after a proposal was rejected none is made by itself."""

PARKED_FOR: Final = timedelta(hours=1)
"""Whoever was parked is no reason for another proposal for so long."""


async def propose_run(*, database: Database, seller: int, now: datetime) -> bool:
    """Queue a run for approval if something is due by `now`; whether one stands then.

    One stands at a time. Credit that has expired ends first, unless something is due by that end:
    then this is proposed as of that end, and the credit ends once it is posted.
    """
    after: datetime | None = None
    while True:
        async with database.transaction(seller=seller) as connection:
            await lock_billing(connection=connection, sweep=False)
            if await is_any_open(connection=connection):
                return True
            found = await load_seller(connection=connection)
            ends_at = await next_credit_end(connection=connection, through=now, after=after)
            as_of = now if ends_at is None else ends_at
            due = await is_any_due(
                connection=connection, due_by=as_of - found.grace, now=now, rest=PARKED_FOR
            )
            if due:
                if not await was_refused(connection=connection, since=now - REFUSED_FOR):
                    wanted = Unfinished(as_of=as_of, approve=True)
                    await queue_run(connection=connection, seller=found, wanted=wanted, now=now)
                return True
        if ends_at is None:
            return False
        await end_credits(database=database, seller=seller, at=ends_at)
        after = ends_at
