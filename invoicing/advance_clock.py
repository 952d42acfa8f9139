"""Verb: move a test seller's clock, doing on the way all work that falls due."""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.db import Database
from engine.errors import BillingError, ErrorKind, invalid_field
from invoicing.credit_store import next_credit_end
from invoicing.end_credits import end_credits
from invoicing.enter_held import enter_due
from invoicing.held_entry_store import next_held
from invoicing.queue_emails import queue_emails
from invoicing.run_billing import run_billing
from invoicing.run_states import require_finished
from invoicing.run_store import Unfinished, unfinished_runs
from invoicing.store import next_due_instant
from invoicing.top_up_credits import top_up_credits
from invoicing.watch_spending import watch_spending
from invoicing.watch_usage import watch_usage
from plans.clock_store import move_clock
from plans.model import Mode
from plans.seller_store import load_seller

INSTANT: Final = timedelta(microseconds=1)


class ClockAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Where the clock stands, and what was posted on the way there."""

    clock_at: datetime
    due_instants: int
    documents: int
    parked: int


async def advance_clock(*, database: Database, seller: int, to: datetime) -> ClockAnswer:
    """Bill every instant whose grace ends by `to` in order, a run each, then stand at `to`.

    The clock moves with the work, so one that dies on the way goes on where it stopped. Errors:
    `not_a_test_seller`, `billing_on_hold`, and `invalid_body` for an instant before the clock.
    """
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
    if found.mode is not Mode.TEST or found.clock_at is None:
        message = "only a test seller has a clock that can be moved"
        raise BillingError("not_a_test_seller", message, kind=ErrorKind.CONFLICT)
    if to < found.clock_at:
        detail = f"the clock stands at {found.clock_at.isoformat()} and only moves forward"
        raise invalid_field(pointer="/to", code="out_of_order", detail=detail)
    await _take_up(database=database, seller=seller, through=to)
    await watch_spending(database=database, seller=seller, now=found.clock_at)
    await watch_usage(database=database, seller=seller, now=found.clock_at)
    clock, after, ended = found.clock_at, None, None
    instants = documents = parked = 0
    while True:
        async with database.transaction(seller=seller) as connection:
            due_at = await next_due_instant(
                connection=connection, through=to - found.grace, after=after
            )
            ends_at = await next_credit_end(connection=connection, through=to, after=ended)
            enters_at = await next_held(connection=connection, through=to)
        posts_at = None if due_at is None else due_at + found.grace
        instants_at = (posts_at, ends_at, enters_at)
        next_at = min((at for at in instants_at if at is not None), default=None)
        if next_at is None:
            break
        clock = max(clock, next_at)
        await enter_due(database=database, seller=seller, now=clock)
        run = await run_billing(
            database=database, seller=seller, as_of=clock, now=clock, pending=False
        )
        require_finished(run=run.id, status=run.status)
        await end_credits(database=database, seller=seller, at=clock)
        await top_up_credits(database=database, seller=seller, now=clock)
        async with database.transaction(seller=seller) as connection:
            await move_clock(connection=connection, now=clock)
        after, ended = clock - found.grace, clock
        instants += 1
        documents += run.documents
        parked += len(run.parked)
    await top_up_credits(database=database, seller=seller, now=to)
    async with database.transaction(seller=seller) as connection:
        await move_clock(connection=connection, now=to)
    await queue_emails(database=database, seller=seller, now=to)
    return ClockAnswer(clock_at=to, due_instants=instants, documents=documents, parked=parked)


async def _take_up(*, database: Database, seller: int, through: datetime) -> None:
    """Finish the run that the clock died in, as of its own instant."""
    async with database.transaction(seller=seller) as connection:
        limit = Unfinished(as_of=through + INSTANT)
        died = await unfinished_runs(connection=connection, before=limit)
    if died:
        at = died[-1].as_of
        await run_billing(database=database, seller=seller, as_of=at, now=at, pending=False)
