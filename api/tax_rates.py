"""`/v1/tax_rates`: what is added to, or extracted from, what is billed."""

from datetime import datetime

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from plans.add_tax_rate import add_tax_rate
from plans.api_keys import Scope
from plans.shape import Body
from plans.tax_rate_store import archive_tax_rate, find_tax_rate, list_tax_rates
from plans.tax_rates import TaxRate, TaxRateDraft


class ArchiveDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/tax_rates/{id}/archive` and `/v1/coupons/{id}/archive`: nothing to say."""


@post(
    "/v1/tax_rates",
    operation_id="createTaxRate",
    summary="Add a tax rate",
    tags=["Tax rates"],
    opt={"scope": Scope.ADMIN},
)
async def create_tax_rate(
    data: JSONBody[TaxRateDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> TaxRate:
    """Add a rate for lines and customers that name it, or with `by_place` for its whole place."""
    return await add_tax_rate(connection=connection, draft=data, now=now, wall_now=wall_now)


@get(
    "/v1/tax_rates",
    operation_id="listTaxRates",
    summary="List tax rates",
    tags=["Tax rates"],
    opt={"scope": Scope.READ},
)
async def get_tax_rates(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[TaxRate]:
    """All rates in the order they were added."""
    found = await list_tax_rates(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/tax_rates/{rate:str}",
    operation_id="getTaxRate",
    summary="One tax rate",
    tags=["Tax rates"],
    opt={"scope": Scope.READ},
)
async def get_tax_rate(
    rate: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> TaxRate:
    """The rate with that key or id."""
    return await _find(connection, rate)


@post(
    "/v1/tax_rates/{rate:str}/archive",
    operation_id="archiveTaxRate",
    summary="Archive a tax rate",
    tags=["Tax rates"],
    status_code=200,
    opt={"scope": Scope.ADMIN},
)
async def post_archive_tax_rate(
    rate: FromPath[str],
    data: JSONBody[ArchiveDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> TaxRate:
    """Let it hold by place no longer. Customers and lines that name it keep it."""
    del data
    found = await _find(connection, rate)
    await archive_tax_rate(connection=connection, rate_id=found.id, now=now)
    return await _find(connection, found.id)


async def _find(connection: AsyncConnection, reference: str) -> TaxRate:
    found = await find_tax_rate(connection=connection, reference=reference)
    if found is None:
        raise not_found(noun="tax rate", reference=reference)
    return found


ROUTES = (create_tax_rate, get_tax_rates, get_tax_rate, post_archive_tax_rate)
