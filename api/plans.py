"""`/v1/plans`: named sets of prices; a published version never changes."""

from datetime import datetime
from typing import Annotated, Any, Final

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.auth import Principal
from api.business_time import business_now
from api.idempotency import OWN_TRANSACTIONS, unit_of
from api.pagination import Page, PageRequest
from engine.db import Database
from engine.errors import not_found
from invoicing.migrate_plan import migrate_plan
from invoicing.migration import Migration, MigrationDraft
from plans.drafts import PlanVersionDraft
from plans.model import Plan, PlanDraft
from plans.publish import publish_plan, publish_version
from plans.store import find_plan, list_plans

_LARGEST: Final = 2**31 - 1
Version = Annotated[
    int | None, QueryParameter(ge=1, le=_LARGEST, description="A version; the latest unless named.")
]
PlanKey = Annotated[str | None, QueryParameter(description="Versions of the plan with this key.")]


@post(
    "/v1/plans",
    operation_id="createPlan",
    summary="Publish a plan",
    description="Publishes version 1 of a plan with its prices.",
    tags=["Plans"],
    opt={"scope": "admin"},
)
async def create_plan(
    data: JSONBody[PlanDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Plan:
    """Publish the first version of a plan."""
    return await publish_plan(connection=connection, draft=data, now=now, wall_now=wall_now)


@post(
    "/v1/plans/{plan:str}/versions",
    operation_id="createPlanVersion",
    summary="Publish a version of a plan",
    description=(
        "What the body does not name stays as in the latest version. Subscriptions keep the"
        " version they have."
    ),
    tags=["Plans"],
    opt={"scope": "admin"},
)
async def create_plan_version(
    plan: FromPath[str],
    data: JSONBody[PlanVersionDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Plan:
    """Publish the next version of a plan."""
    return await publish_version(
        connection=connection, reference=plan, draft=data, now=now, wall_now=wall_now
    )


@post(
    "/v1/plans/{plan:str}/migrate",
    operation_id="migratePlan",
    summary="Move subscriptions to a version",
    description=(
        "Every subscription on an older version of the plan gets this one by an ordinary change."
        " One that cannot be moved stays as it was and is told with its reason; asking again moves"
        " what is left. A dry run writes nothing and tells the money."
    ),
    tags=["Plans"],
    status_code=200,
    opt={"scope": "admin", OWN_TRANSACTIONS: True},
)
async def migrate_subscriptions(
    plan: FromPath[str],
    data: JSONBody[MigrationDraft],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    wall_now: NamedDependency[datetime],
) -> Migration:
    """Move subscriptions in transactions of their own, many at a time."""
    await unit_of(request).find_place(seller=principal.seller)
    database: Database = request.app.state.database
    return await migrate_plan(
        database=database,
        seller=principal.seller,
        reference=plan,
        draft=data,
        now=await business_now(database=database, seller=principal.seller, wall_now=wall_now),
        wall_now=wall_now,
    )


@get(
    "/v1/plans",
    operation_id="listPlans",
    summary="List plan versions",
    tags=["Plans"],
    opt={"scope": "read"},
)
async def get_plans(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    key: PlanKey = None,
) -> Page[Plan]:
    """Every version of every plan, in the order they were published."""
    found = await list_plans(connection=connection, limit=page.fetched, after=page.after, key=key)
    return page.page(found, ids=[one.id for one in found])


@get(
    "/v1/plans/{plan:str}",
    operation_id="getPlan",
    summary="One plan version",
    tags=["Plans"],
    opt={"scope": "read"},
)
async def get_plan(
    plan: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    version: Version = None,
) -> Plan:
    """The version of the plan with that key, the latest unless named; an id names one itself."""
    found = await find_plan(connection=connection, key=plan, version=version)
    if found is None:
        raise not_found(noun="plan", reference=plan)
    return found


ROUTES = (create_plan, create_plan_version, migrate_subscriptions, get_plans, get_plan)
