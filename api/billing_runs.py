"""`/v1/billing_runs` and `/v1/test_clock`."""

from datetime import datetime
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.business_time import business_now
from api.pagination import Page, PageRequest
from engine.db import Database
from engine.errors import invalid_field, not_found
from invoicing.advance_clock import ClockAnswer, advance_clock
from invoicing.end_due_credits import end_due_credits
from invoicing.model import BillingRun, BillingRunDraft
from invoicing.rehearsal import RunRehearsal, refuse_far
from invoicing.rehearse_run import rehearse_run
from invoicing.run_billing import run_billing
from invoicing.run_store import list_runs
from plans.api_keys import Scope
from plans.cohort import cohort
from plans.family_store import payers_of
from plans.shape import Body


class ClockDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/test_clock/advance`."""

    to: datetime


@post(
    "/v1/billing_runs",
    operation_id="createBillingRun",
    summary="Bill what is due or pending",
    tags=["Billing runs"],
    opt={"scope": Scope.BILLING},
)
async def create_billing_run(
    data: JSONBody[BillingRunDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> BillingRun | RunRehearsal:
    """Post every charge due by `as_of` and every difference waiting; running again posts nothing.

    Credit grants that expire by `as_of` end on the way, each after what falls due by its end.
    Documents are issued at `as_of`, which may not lie ahead of the seller's clock unless the run
    is a dry one: that posts nothing and tells what would be posted. With `approve` the run is
    reported first and waits for somebody's approval.
    """
    database: Database = request.app.state.database
    now = await business_now(database=database, seller=principal.seller, wall_now=wall_now)
    if data.as_of > now and not data.dry_run:
        detail = f"as_of lies ahead of the clock, which stands at {now.isoformat()}"
        raise invalid_field(pointer="/as_of", code="ahead_of_clock", detail=detail)
    if data.approve and data.dry_run:
        detail = "a dry run posts nothing: there is nothing to be approved"
        raise invalid_field(pointer="/approve", code="not_with_dry_run", detail=detail)
    refuse_far(as_of=data.as_of, now=now)
    async with database.transaction(seller=principal.seller, snapshot=True) as connection:
        customers = await cohort(connection=connection, references=data.customers)
        if customers is not None:
            customers = await payers_of(connection=connection, customers=customers)
    if data.dry_run:
        return await rehearse_run(
            database=database, seller=principal.seller, as_of=data.as_of, customers=customers
        )
    if not data.approve:
        await end_due_credits(
            database=database,
            seller=principal.seller,
            through=data.as_of,
            now=now,
            customers=customers,
        )
    return await run_billing(
        database=database,
        seller=principal.seller,
        as_of=data.as_of,
        now=now,
        customers=customers,
        approve=data.approve,
    )


@get(
    "/v1/billing_runs",
    operation_id="listBillingRuns",
    summary="List billing runs",
    tags=["Billing runs"],
    opt={"scope": Scope.READ},
)
async def get_billing_runs(
    connection: NamedDependency[AsyncConnection], page: NamedDependency[PageRequest]
) -> Page[BillingRun]:
    """Runs in the order of their instants."""
    found = await list_runs(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[run.id for run in found])


@get(
    "/v1/billing_runs/{run:str}",
    operation_id="getBillingRun",
    summary="Read a billing run",
    tags=["Billing runs"],
    opt={"scope": Scope.READ},
)
async def get_billing_run(
    run: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> BillingRun:
    """How far the run is, and the accounts it set aside with their reasons."""
    found = await list_runs(connection=connection, run=run)
    if not found:
        raise not_found(noun="billing run", reference=run)
    return found[0]


@post(
    "/v1/test_clock/advance",
    operation_id="advanceTestClock",
    summary="Move a test seller's clock",
    tags=["Test clock"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def advance_test_clock(
    data: JSONBody[ClockDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
) -> ClockAnswer:
    """Do all work due up to `to`, in order, then stand there. Only test sellers have a clock."""
    return await advance_clock(
        database=request.app.state.database, seller=principal.seller, to=data.to
    )


ROUTES = (create_billing_run, get_billing_runs, get_billing_run, advance_test_clock)
