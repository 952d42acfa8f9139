"""`GET /v1/events`: stored usage events with what became of them."""

from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import DEFAULT_LIMIT, Cursor, Limit
from metering.list_events import list_events
from metering.model import EventList, EventStatus
from plans.api_keys import Scope

StatusFilter = Annotated[
    EventStatus | None,
    QueryParameter(description="Only those: `measured`, `unmatched`, `ignored` or `voided`."),
]


@get(
    "/v1/events",
    operation_id="listEvents",
    summary="List usage events",
    description=(
        "In the order they were stored. An `unmatched` event has a `reason`: `no_meter`,"
        " `unknown_customer`, `bad_value` or `no_subscription`; it is measured as soon as what is"
        " missing is there. A page may be short and still have a next one."
    ),
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_events(
    connection: NamedDependency[AsyncConnection],
    status: StatusFilter = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> EventList:
    """Usage events, the first stored first."""
    return await list_events(connection=connection, status=status, limit=limit, cursor=cursor)


ROUTES = (get_events,)
