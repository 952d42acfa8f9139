"""`GET /v1/events`: stored usage events with what became of them."""

from datetime import datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import DEFAULT_LIMIT, Cursor, Limit
from api.usage import utc_instant
from engine.errors import not_found
from metering.list_events import list_events
from metering.model import EventFilter, EventList, EventStatus
from plans.api_keys import Scope
from plans.model import Meter
from plans.store import find_customer, find_meter

StatusFilter = Annotated[
    EventStatus | None,
    QueryParameter(description="Only those: `measured`, `unmatched`, `ignored` or `voided`."),
]

Person = Annotated[
    str | None, QueryParameter(description="Only those of this customer (key or id).")
]
Wanted = Annotated[
    str | None, QueryParameter(description="Only those that this meter (key or id) measures.")
]
Start = Annotated[
    datetime | None, QueryParameter(name="from", description="Only those from this instant on.")
]
End = Annotated[
    datetime | None, QueryParameter(name="to", description="Only those before this instant.")
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
    opt={"scope": Scope.READ, "problems": [404, 422]},
)
async def get_events(  # noqa: PLR0917 - each is a parameter of the query
    connection: NamedDependency[AsyncConnection],
    status: StatusFilter = None,
    customer: Person = None,
    meter: Wanted = None,
    start: Start = None,
    end: End = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> EventList:
    """Usage events, the first stored first."""
    wanted = EventFilter(
        status=status,
        customer=await _customer_number(connection, customer),
        meter=await _meter(connection, meter),
        start=None if start is None else utc_instant(start, pointer="/from"),
        end=None if end is None else utc_instant(end, pointer="/to"),
    )
    return await list_events(connection=connection, wanted=wanted, limit=limit, cursor=cursor)


async def _customer_number(connection: AsyncConnection, reference: str | None) -> int | None:
    if reference is None:
        return None
    found = await find_customer(connection=connection, reference=reference)
    if found is None:
        raise not_found(noun="customer", reference=reference)
    return found.number


async def _meter(connection: AsyncConnection, reference: str | None) -> Meter | None:
    if reference is None:
        return None
    found = await find_meter(connection=connection, reference=reference)
    if found is None:
        raise not_found(noun="meter", reference=reference)
    return found


ROUTES = (get_events,)
