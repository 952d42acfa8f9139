"""`GET /v1/usage`: what a meter counted of a customer."""

from datetime import UTC, datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.bodies import EARLIEST_YEAR, LATEST_YEAR
from engine.errors import invalid_field
from metering.model import UsageAnswer, UsageWindow
from metering.usage import read_usage
from plans.api_keys import Scope

Person = Annotated[str, QueryParameter(description="The customer, by key or id.")]
Wanted = Annotated[str, QueryParameter(description="The meter, by key or id.")]
Start = Annotated[datetime, QueryParameter(name="from", description="The first instant.")]
End = Annotated[datetime, QueryParameter(name="to", description="The first instant after.")]
Groups = Annotated[
    str | None,
    QueryParameter(
        name="group_by",
        description="Dimensions of the meter, separated by commas: a row for each group.",
    ),
]
Cut = Annotated[UsageWindow, QueryParameter(description="`hour`, `day` or `month`.")]


def utc_instant(at: datetime, *, pointer: str) -> datetime:
    """A query's instant in UTC; one without an offset is refused."""
    if at.tzinfo is None:
        detail = "an instant names its offset from UTC, such as Z"
        raise invalid_field(pointer=pointer, code="invalid", detail=detail)
    if not EARLIEST_YEAR <= at.year <= LATEST_YEAR:
        detail = f"the year must lie in {EARLIEST_YEAR}–{LATEST_YEAR}"
        raise invalid_field(pointer=pointer, code="invalid", detail=detail)
    return at.astimezone(UTC)


@get(
    "/v1/usage",
    operation_id="readUsage",
    summary="Read usage",
    description=(
        "Windows are cut at the customer's local midnight; the first and the last may be partial."
        " A quantity below zero is shown as it is. With `group_by` a window has a row for each"
        " combination of values that has events in it, and none without."
    ),
    tags=["Usage"],
    opt={"scope": Scope.READ, "problems": [404, 422]},
)
async def get_usage(
    *,
    connection: NamedDependency[AsyncConnection],
    customer: Person,
    meter: Wanted,
    start: Start,
    end: End,
    window: Cut = UsageWindow.DAY,
    group_by: Groups = None,
) -> UsageAnswer:
    """The quantity of every window of [from, to)."""
    return await read_usage(
        connection=connection,
        customer=customer,
        meter=meter,
        start=utc_instant(start, pointer="/from"),
        end=utc_instant(end, pointer="/to"),
        window=window,
        group_by=tuple(group_by.split(",")) if group_by else (),
    )


ROUTES = (get_usage,)
