"""`/v1/backfills`: usage from outside the window of acceptance, by name."""

from datetime import datetime

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.backfill_store import find_backfill, list_backfills
from metering.model import Backfill, BackfillDraft, BackfillStep
from plans.api_keys import Scope


@post(
    "/v1/backfills",
    operation_id="openBackfill",
    summary="Open a backfill",
    tags=["Usage"],
    opt={"scope": Scope.BILLING},
)
async def create_backfill(
    data: JSONBody[BackfillDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Backfill:
    """Events whose `backfill` is its key may be of any age; they count once it is closed."""
    return await open_backfill(connection=connection, draft=data, now=now, wall_now=wall_now)


@get(
    "/v1/backfills",
    operation_id="listBackfills",
    summary="List backfills",
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_backfills(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[Backfill]:
    """All backfills in the order they were opened."""
    found = await list_backfills(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/backfills/{backfill:str}",
    operation_id="getBackfill",
    summary="Read a backfill",
    tags=["Usage"],
    opt={"scope": Scope.READ},
)
async def get_backfill(
    backfill: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> Backfill:
    """One backfill, by key or id."""
    found = await find_backfill(connection=connection, reference=backfill)
    if found is None:
        raise not_found(noun="backfill", reference=backfill)
    return found


@post(
    "/v1/backfills/{backfill:str}/close",
    operation_id="closeBackfill",
    summary="Close a backfill",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_close_backfill(
    backfill: FromPath[str],
    data: JSONBody[BackfillStep],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Backfill:
    """Its usage counts from now on: periods that are billed get their exact difference."""
    del data
    return await close_backfill(connection=connection, reference=backfill, now=now)


@post(
    "/v1/backfills/{backfill:str}/reverse",
    operation_id="reverseBackfill",
    summary="Take a backfill back",
    tags=["Usage"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_reverse_backfill(
    backfill: FromPath[str],
    data: JSONBody[BackfillStep],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Backfill:
    """None of its usage counts any longer; the ids of its events stay taken."""
    del data
    return await reverse_backfill(connection=connection, reference=backfill, now=now)


ROUTES = (
    create_backfill,
    get_backfills,
    get_backfill,
    post_close_backfill,
    post_reverse_backfill,
)
