"""`/v1/billing_runs/{id}/pause`, `/approve` and so on: a run in somebody's hands."""

from datetime import datetime
from typing import Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.billing_runs import QUEUED
from api.business_time import business_now
from api.idempotency import OWN_TRANSACTIONS, unit_of
from api.pagination import Page, PageRequest
from engine.db import Database
from engine.errors import BillingError, not_found
from invoicing.control_run import control_run
from invoicing.model import BillingRun
from invoicing.report_rows_store import report_page
from invoicing.report_run import report_run
from invoicing.run_billing import take_up_run
from invoicing.run_report import Remark, ReportRow, RunReport
from invoicing.run_states import GoOnStep, RetryDraft, RunAct, RunStep
from invoicing.run_store import list_runs
from plans.api_keys import Scope

WAIT_SECONDS: Final = 2
"""For a process that is at the run already, and goes on with it by itself."""


@post(
    "/v1/billing_runs/{run:str}/pause",
    operation_id="pauseBillingRun",
    summary="Pause a billing run",
    tags=["Billing runs"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def pause_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[RunStep],
    connection: NamedDependency[AsyncConnection],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> BillingRun:
    """Stop after the chunk in hand: nothing is posted after this is answered, until it resumes.

    Meanwhile it holds back all that its customers owe: no other run, the worker's neither, bills
    them.
    """
    asked = _Asked(run=run, act=RunAct.PAUSE, reason=data.reason, actor=principal.key_id)
    return await _stop(connection, asked, now, wall_now)


@post(
    "/v1/billing_runs/{run:str}/cancel",
    operation_id="cancelBillingRun",
    summary="Cancel a billing run",
    tags=["Billing runs"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def cancel_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[RunStep],
    connection: NamedDependency[AsyncConnection],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> BillingRun:
    """End a run after the chunk in hand: what it posted stays, the rest is due for a later run."""
    asked = _Asked(run=run, act=RunAct.CANCEL, reason=data.reason, actor=principal.key_id)
    return await _stop(connection, asked, now, wall_now)


@post(
    "/v1/billing_runs/{run:str}/resume",
    operation_id="resumeBillingRun",
    summary="Resume a billing run",
    tags=["Billing runs"],
    status_code=200,
    responses={202: QUEUED},
    opt={"scope": Scope.BILLING, OWN_TRANSACTIONS: True, "answer": BillingRun},
)
async def resume_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[GoOnStep],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Response[BillingRun]:
    """Go on with a paused run; answered when it is through, or stopped again.

    Where the process that ran it has not noticed the pause yet, that one goes on, and the answer
    tells how far the run is.
    """
    asked = _Asked(
        run=run,
        act=RunAct.RESUME,
        reason=data.reason,
        actor=principal.key_id,
        wait=data.wait,
    )
    return await _go_on(request, principal.seller, asked, wall_now)


@post(
    "/v1/billing_runs/{run:str}/retry",
    operation_id="retryBillingRun",
    summary="Try parked accounts again",
    tags=["Billing runs"],
    status_code=200,
    responses={202: QUEUED},
    opt={"scope": Scope.BILLING, OWN_TRANSACTIONS: True, "answer": BillingRun},
)
async def retry_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[RetryDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Response[BillingRun]:
    """Bill what a finished run parked, all or `customers`, as of its instant.

    Those that succeed leave its list of parked accounts; the others have their reason of today.
    """
    asked = _Asked(
        run=run,
        act=RunAct.RETRY,
        reason=data.reason,
        actor=principal.key_id,
        customers=data.customers,
        wait=data.wait,
    )
    return await _go_on(request, principal.seller, asked, wall_now)


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks a run to go on, and how."""

    run: str
    act: RunAct
    reason: str | None
    actor: str
    customers: tuple[str, ...] | None = None
    wait: bool = True


async def _stop(
    connection: AsyncConnection, asked: _Asked, now: datetime, wall_now: datetime
) -> BillingRun:
    await _control(connection, asked, now, wall_now)
    return (await list_runs(connection=connection, run=asked.run))[0]


async def _control(
    connection: AsyncConnection, asked: _Asked, now: datetime, wall_now: datetime
) -> None:
    await control_run(
        connection=connection,
        run=asked.run,
        act=asked.act,
        actor=asked.actor,
        reason=asked.reason,
        now=now,
        wall_now=wall_now,
        customers=asked.customers,
        background=not asked.wait,
    )


async def _go_on(
    request: Request[Any, Any, Any], seller: int, asked: _Asked, wall_now: datetime
) -> Response[BillingRun]:
    database: Database = request.app.state.database
    now = await business_now(database=database, seller=seller, wall_now=wall_now)
    unit = unit_of(request)
    if asked.wait:
        await unit.find_place(seller=seller)
    if unit.begun is None:
        async with database.transaction(seller=seller) as connection:
            await _control(connection, asked, now, wall_now)
            await unit.note(connection, asked.run)
    if asked.wait:
        try:
            done = await take_up_run(
                database=database, seller=seller, run=asked.run, now=now, wait_seconds=WAIT_SECONDS
            )
            return Response(done, status_code=200)
        except BillingError as error:
            if error.code != "billing_busy":
                raise
    async with database.transaction(seller=seller) as connection:
        (found,) = await list_runs(connection=connection, run=asked.run)
    return Response(found, status_code=200 if asked.wait else 202)


@post(
    "/v1/billing_runs/{run:str}/approve",
    operation_id="approveBillingRun",
    summary="Approve a billing run",
    tags=["Billing runs"],
    status_code=200,
    responses={202: QUEUED},
    opt={"scope": Scope.BILLING, OWN_TRANSACTIONS: True, "answer": BillingRun},
)
async def approve_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[GoOnStep],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Response[BillingRun]:
    """Post what the report of a run tells, and nothing else; answered when that is done.

    Customers that owe something else by now are left out, reported again, and await approval.
    """
    asked = _Asked(
        run=run,
        act=RunAct.APPROVE,
        reason=data.reason,
        actor=principal.key_id,
        wait=data.wait,
    )
    return await _go_on(request, principal.seller, asked, wall_now)


@post(
    "/v1/billing_runs/{run:str}/reject",
    operation_id="rejectBillingRun",
    summary="Reject a billing run",
    tags=["Billing runs"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def reject_billing_run(
    *,
    run: FromPath[str],
    data: JSONBody[RunStep],
    connection: NamedDependency[AsyncConnection],
    principal: NamedDependency[Principal],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> BillingRun:
    """End a run that awaits approval: nothing of its report is posted, all of it stays due."""
    asked = _Asked(run=run, act=RunAct.REJECT, reason=data.reason, actor=principal.key_id)
    return await _stop(connection, asked, now, wall_now)


@get(
    "/v1/billing_runs/{run:str}/report",
    operation_id="getBillingRunReport",
    summary="Read what a run would post",
    tags=["Billing runs"],
    opt={"scope": Scope.READ},
)
async def get_run_report(
    run: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> RunReport:
    """Totals by currency, the biggest changes against what was billed before, and remarks.

    Of a run that was begun with `approve`; empty for any other.
    """
    return await report_run(connection=connection, run=run)


@get(
    "/v1/billing_runs/{run:str}/report/customers",
    operation_id="listBillingRunReportCustomers",
    summary="List what a run would post, customer by customer",
    tags=["Billing runs"],
    opt={"scope": Scope.READ},
)
async def list_run_report(
    run: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    page: NamedDependency[PageRequest],
    remark: FromQuery[Remark | None] = None,
) -> Page[ReportRow]:
    """Every customer of the report, or those with a remark, in each currency."""
    if not await list_runs(connection=connection, run=run):
        raise not_found(noun="billing run", reference=run)
    found = await report_page(
        connection=connection, run=run, limit=page.fetched, after=page.after, remark=remark
    )
    return page.page([row for _, row in found], ids=[place for place, _ in found])


ROUTES = (
    approve_billing_run,
    reject_billing_run,
    get_run_report,
    list_run_report,
    pause_billing_run,
    resume_billing_run,
    cancel_billing_run,
    retry_billing_run,
)
