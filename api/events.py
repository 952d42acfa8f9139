"""`/v1/events`: stored usage events with what became of them, and their correction."""

from datetime import datetime
from typing import Annotated

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import DEFAULT_LIMIT, Cursor, Limit
from api.usage import utc_instant
from engine.errors import not_found
from metering.correct_event import amend_event, void_event
from metering.list_events import list_events
from metering.model import (
    EventAmendDraft,
    EventFilter,
    EventList,
    EventRow,
    EventStatus,
    EventVoidDraft,
)
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
Source = Annotated[
    str, QueryParameter(description="The source of the event; empty where it named none.")
]
EventId = Annotated[
    str, QueryParameter(name="id", description="The id of the event, whatever it is made of.")
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
        " missing is there. A `voided` one was taken back, and replaced where its reason is"
        " `amended`. A page may be short and still have a next one."
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


@post(
    "/v1/events/{event_id:str}/void",
    operation_id="voidEvent",
    summary="Take an event back",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_void_event(
    event_id: FromPath[str],
    data: JSONBody[EventVoidDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    source: Source = "",
) -> EventRow:
    """It is measured no longer, and its id stays taken; what was billed becomes a difference."""
    del data
    return await void_event(connection=connection, event_id=event_id, source=source, now=now)


@post(
    "/v1/events/void",
    operation_id="voidEventOfAnyId",
    summary="Take an event back whose id is no part of a path",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING, "problems": [404, 422]},
)
async def post_void_any_event(
    event_id: EventId,
    data: JSONBody[EventVoidDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    source: Source = "",
) -> EventRow:
    """The same for an id that holds a slash, or is a dot or two."""
    del data
    return await void_event(connection=connection, event_id=event_id, source=source, now=now)


@post(
    "/v1/events/{event_id:str}/amend",
    operation_id="amendEvent",
    summary="Correct an event",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_amend_event(
    event_id: FromPath[str],
    data: JSONBody[EventAmendDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    source: Source = "",
) -> EventRow:
    """Put another type, subject, time or data in its place; the first one is voided.

    A time that is named lies from 35 days back to 5 minutes ahead.
    """
    return await amend_event(
        connection=connection, event_id=event_id, source=source, draft=data, now=now
    )


@post(
    "/v1/events/amend",
    operation_id="amendEventOfAnyId",
    summary="Correct an event whose id is no part of a path",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING, "problems": [404, 422]},
)
async def post_amend_any_event(
    event_id: EventId,
    data: JSONBody[EventAmendDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    source: Source = "",
) -> EventRow:
    """The same for an id that holds a slash, or is a dot or two."""
    return await amend_event(
        connection=connection, event_id=event_id, source=source, draft=data, now=now
    )


ROUTES = (
    get_events,
    post_void_event,
    post_void_any_event,
    post_amend_event,
    post_amend_any_event,
)
