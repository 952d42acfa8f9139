"""`/v1/meters`: how events become a quantity."""

from datetime import datetime

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from plans.model import Meter, MeterAnswer, MeterDraft
from plans.publish import publish_meter
from plans.store import find_meter, list_meters


@post(
    "/v1/meters",
    operation_id="createMeter",
    summary="Add a meter",
    description=(
        "Events of `event_type` are aggregated. `value` is the property of their `data` that is"
        " measured, or an expression over properties such as `max((input + output * 3) / 1000, 1)`;"
        " it is required unless events or the texts of `unique_by` are counted."
    ),
    tags=["Meters"],
    opt={"scope": "admin"},
)
async def create_meter(
    data: JSONBody[MeterDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> MeterAnswer:
    """Add a meter; it never changes."""
    return _answer(
        await publish_meter(connection=connection, draft=data, now=now, wall_now=wall_now)
    )


@get(
    "/v1/meters",
    operation_id="listMeters",
    summary="List meters",
    tags=["Meters"],
    opt={"scope": "read"},
)
async def get_meters(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[MeterAnswer]:
    """All meters in the order they were added."""
    found = await list_meters(connection=connection, limit=page.fetched, after=page.after)
    return page.page([_answer(one) for one in found], ids=[one.id for one in found])


@get(
    "/v1/meters/{meter:str}",
    operation_id="getMeter",
    summary="One meter",
    tags=["Meters"],
    opt={"scope": "read"},
)
async def get_meter(
    meter: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> MeterAnswer:
    """The meter with that key or id."""
    found = await find_meter(connection=connection, reference=meter)
    if found is None:
        raise not_found(noun="meter", reference=meter)
    return _answer(found)


def _answer(found: Meter) -> MeterAnswer:
    return msgspec.convert(found, MeterAnswer, from_attributes=True)


ROUTES = (create_meter, get_meters, get_meter)
