"""Verb: end the grants whose time came, each after the documents due by that instant."""

from collections.abc import Sequence
from datetime import datetime

from engine.db import Database
from invoicing.credit_store import next_credit_end
from invoicing.end_credits import end_credits
from invoicing.run_billing import run_billing
from invoicing.run_states import require_finished


async def end_due_credits(
    *,
    database: Database,
    seller: int,
    through: datetime,
    now: datetime,
    customers: Sequence[str] | None = None,
) -> int:
    """End every grant that expires by `through`, in order; how many could not end.

    What falls due by an end is billed before it, by a run of its own as of that instant.
    `customers` (ids) limits both to theirs. Errors: `billing_busy`,
    and `billing_on_hold` when such a run was stopped.
    """
    failed, after = 0, None
    while True:
        async with database.transaction(seller=seller) as connection:
            at = await next_credit_end(
                connection=connection, through=through, after=after, customers=customers
            )
        if at is None:
            return failed
        run = await run_billing(
            database=database,
            seller=seller,
            as_of=at,
            now=now,
            pending=False,
            customers=customers,
        )
        require_finished(run=run.id, status=run.status)
        failed += await end_credits(database=database, seller=seller, at=at, customers=customers)
        after = at
