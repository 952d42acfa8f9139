"""`/v1/usage_alerts`: of which usage the seller wants to be told."""

from datetime import datetime

from litestar import delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from metering.alert_store import find_alert, list_alerts
from metering.alerts import UsageAlert, UsageAlertDraft, UsageAlertPatch
from metering.set_alert import add_alert, change_alert, remove_alert
from plans.api_keys import Scope


@post(
    "/v1/usage_alerts",
    operation_id="createUsageAlert",
    summary="Add a usage alert",
    description=(
        "`usage_alert.triggered` is told in the outbox, once for each customer, window and"
        " threshold. `percents` are those of the entitlement named like the meter, else of what the"
        " customer's prices include, and go with the window `billing_period`."
    ),
    tags=["Usage"],
    opt={"scope": Scope.BILLING},
)
async def create_usage_alert(
    data: JSONBody[UsageAlertDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> UsageAlert:
    """Watch the usage of one customer, or of each."""
    return await add_alert(connection=connection, draft=data, now=now, wall_now=wall_now)


@get(
    "/v1/usage_alerts",
    operation_id="listUsageAlerts",
    summary="List usage alerts",
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_usage_alerts(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[UsageAlert]:
    """All alerts in the order they were made."""
    found = await list_alerts(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/usage_alerts/{alert:str}",
    operation_id="getUsageAlert",
    summary="One usage alert",
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_usage_alert(
    alert: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> UsageAlert:
    """The alert with that key or id."""
    found = await find_alert(connection=connection, reference=alert)
    if found is None:
        raise not_found(noun="usage alert", reference=alert)
    return found


@patch(
    "/v1/usage_alerts/{alert:str}",
    operation_id="changeUsageAlert",
    summary="Change a usage alert",
    description="The steps that are named replace what there was; those told stay told.",
    tags=["Usage"],
    opt={"scope": Scope.BILLING},
)
async def patch_usage_alert(
    alert: FromPath[str],
    data: JSONBody[UsageAlertPatch],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> UsageAlert:
    """Watch for other quantities."""
    return await change_alert(connection=connection, reference=alert, patch=data, now=now)


@delete(
    "/v1/usage_alerts/{alert:str}",
    operation_id="deleteUsageAlert",
    summary="Delete a usage alert",
    tags=["Usage"],
    status_code=204,
    opt={"scope": Scope.BILLING},
)
async def delete_usage_alert(
    alert: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> None:
    """Watch no longer. What was told stays in the outbox."""
    await remove_alert(connection=connection, reference=alert)


ROUTES = (
    create_usage_alert,
    get_usage_alerts,
    get_usage_alert,
    patch_usage_alert,
    delete_usage_alert,
)
