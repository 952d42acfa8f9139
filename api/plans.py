"""`/v1/plans`: named sets of prices; a published version never changes."""

from datetime import datetime
from typing import Annotated, Final

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
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


ROUTES = (create_plan, create_plan_version, get_plans, get_plan)
