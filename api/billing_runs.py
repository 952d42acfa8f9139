"""`/v1/billing_runs` and `/v1/test_clock`."""

from datetime import datetime
from typing import Any, Final

from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.business_time import business_now
from api.idempotency import OWN_TRANSACTIONS, unit_of
from api.pagination import Page, PageRequest
from api.unit_of_work import UnitOfWork
from engine.db import Database
from engine.errors import invalid_field, not_found
from invoicing.advance_clock import ClockAnswer, advance_clock
from invoicing.end_due_credits import end_due_credits
from invoicing.model import BillingRun, BillingRunDraft
from invoicing.queue_run import queue_run
from invoicing.rehearsal import RunRehearsal, refuse_ahead, refuse_far
from invoicing.rehearse_run import rehearse_run
from invoicing.run_billing import run_billing, take_up_run
from invoicing.run_store import Unfinished, list_runs
from plans.api_keys import Scope
from plans.cohort import cohort
from plans.family_store import payers_of
from plans.seller_store import load_seller
from plans.shape import Body

QUEUED: Final = ResponseSpec(
    data_container=BillingRun, description="Accepted: a worker does it.", generate_examples=False
)


class ClockDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/test_clock/advance`."""

    to: datetime


@post(
    "/v1/billing_runs",
    operation_id="createBillingRun",
    summary="Bill what is due or pending",
    tags=["Billing runs"],
    responses={202: QUEUED},
    opt={"scope": Scope.BILLING, OWN_TRANSACTIONS: True, "answer": BillingRun | RunRehearsal},
)
async def create_billing_run(
    data: JSONBody[BillingRunDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Response[BillingRun | RunRehearsal]:
    """Post every charge due by `as_of` and every difference waiting; running again posts nothing.

    Credit grants that expire by `as_of` end on the way, each after what falls due by its end.
    Documents are issued at `as_of`, which may not lie ahead of the seller's clock unless the run
    is a dry one: that posts nothing and tells what would be posted. With `approve` the run is
    reported first and waits for somebody's approval. Without `wait` it is answered with 202 at
    once, and a worker does it: reading the run tells how far it is. Whoever waits in vain loses
    nothing: the run goes on, and with an Idempotency-Key the same request is answered with it.
    """
    database: Database = request.app.state.database
    now = await business_now(database=database, seller=principal.seller, wall_now=wall_now)
    unit = unit_of(request)
    if unit.begun is None:
        _refuse(data, now)
    if data.wait:
        await unit.find_place(seller=principal.seller)
    if unit.begun is not None:
        return await _again(database, principal.seller, unit.begun, data, now)
    async with database.transaction(seller=principal.seller, snapshot=True) as connection:
        approve = data.approve
        if approve is None:
            approve = (await load_seller(connection=connection)).run_approval
        customers = await cohort(connection=connection, references=data.customers)
        if customers is not None:
            payers = await payers_of(connection=connection, customers=customers)
            customers = tuple(sorted(set(payers)))
    if data.dry_run:
        rehearsed = await rehearse_run(
            database=database, seller=principal.seller, as_of=data.as_of, customers=customers
        )
        return Response(rehearsed, status_code=201)
    if not data.wait:
        return await _queue(database, principal.seller, unit, _wanted(data, customers), now)
    if not approve:
        await end_due_credits(
            database=database,
            seller=principal.seller,
            through=data.as_of,
            now=now,
            customers=customers,
        )
    done = await run_billing(
        database=database,
        seller=principal.seller,
        as_of=data.as_of,
        now=now,
        customers=customers,
        approve=approve,
        begun=unit.note,
    )
    return Response(done, status_code=201)


def _wanted(data: BillingRunDraft, customers: tuple[str, ...] | None) -> Unfinished:
    """The run that a worker is to begin with; unless it is said, the seller says if it asks."""
    return Unfinished(
        as_of=data.as_of,
        customers=customers,
        pending=True,
        approve=data.approve is True,
        as_seller=data.approve is None,
    )


async def _queue(
    database: Database,
    seller: int,
    unit: UnitOfWork,
    wanted: Unfinished,
    now: datetime,
) -> Response[BillingRun | RunRehearsal]:
    """Write the run down for a worker."""
    async with database.transaction(seller=seller) as connection:
        run = await queue_run(
            connection=connection,
            seller=await load_seller(connection=connection),
            wanted=wanted,
            now=now,
        )
        await unit.note(connection, run)
        (queued,) = await list_runs(connection=connection, run=run)
    return Response(queued, status_code=202)


async def _again(
    database: Database, seller: int, run: str, data: BillingRunDraft, now: datetime
) -> Response[BillingRun | RunRehearsal]:
    """Go on with the run of a request that was not answered."""
    if data.wait:
        done = await take_up_run(database=database, seller=seller, run=run, now=now)
        return Response(done, status_code=201)
    async with database.transaction(seller=seller) as connection:
        (queued,) = await list_runs(connection=connection, run=run)
    return Response(queued, status_code=202)


def _refuse(data: BillingRunDraft, now: datetime) -> None:
    if not data.dry_run:
        refuse_ahead(as_of=data.as_of, now=now)
    if data.approve and data.dry_run:
        detail = "a dry run posts nothing: there is nothing to be approved"
        raise invalid_field(pointer="/approve", code="not_with_dry_run", detail=detail)
    if data.dry_run and not data.wait:
        detail = "a dry run leaves nothing to be read later: wait for it"
        raise invalid_field(pointer="/wait", code="not_with_dry_run", detail=detail)
    refuse_far(as_of=data.as_of, now=now)


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
    opt={"scope": Scope.BILLING, OWN_TRANSACTIONS: True},
)
async def advance_test_clock(
    data: JSONBody[ClockDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
) -> ClockAnswer:
    """Do all work due up to `to`, in order, then stand there. Only test sellers have a clock."""
    await unit_of(request).find_place(seller=principal.seller)
    return await advance_clock(
        database=request.app.state.database, seller=principal.seller, to=data.to
    )


ROUTES = (create_billing_run, get_billing_runs, get_billing_run, advance_test_clock)
