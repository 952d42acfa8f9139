"""`/v1/billing_runs` and `/v1/test_clock`."""

from datetime import datetime
from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.pagination import Page, PageRequest
from engine.db import Database
from engine.errors import invalid_field, not_found
from invoicing.advance_clock import ClockAnswer, advance_clock
from invoicing.model import BillingRun, BillingRunDraft
from invoicing.run_billing import run_billing
from invoicing.run_store import list_runs
from plans.api_keys import Scope
from plans.model import Mode
from plans.seller_store import load_seller
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
) -> BillingRun:
    """Post every charge due by `as_of` and every difference waiting; running again posts nothing.

    Documents are issued at `as_of`, which may not lie ahead of the seller's clock.
    """
    database: Database = request.app.state.database
    async with database.transaction(seller=principal.seller) as connection:
        seller = await load_seller(connection=connection)
    now: datetime = request.app.state.clock()
    if seller.mode is Mode.TEST and seller.clock_at is not None:
        now = seller.clock_at
    if data.as_of > now:
        detail = f"as_of lies ahead of the clock, which stands at {now.isoformat()}"
        raise invalid_field(pointer="/as_of", code="ahead_of_clock", detail=detail)
    return await run_billing(database=database, seller=principal.seller, as_of=data.as_of, now=now)


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
