"""`/v1/credit_grants`: what customers may use up instead of paying."""

from datetime import datetime

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from invoicing.grant_credit import grant_credit, void_credit
from plans.api_keys import Scope
from plans.credit_grant_store import find_grant, list_grants
from plans.credit_grants import CreditGrant, CreditGrantDraft, CreditVoid
from plans.model import Seller


@post(
    "/v1/credit_grants",
    operation_id="grantCredit",
    summary="Give or sell a customer credit",
    tags=["Credit grants"],
    opt={"scope": Scope.BILLING},
)
async def create_credit_grant(
    data: JSONBody[CreditGrantDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> CreditGrant:
    """Promotional credit lowers the taxed amount, prepaid credit pays the taxed total."""
    return await grant_credit(
        connection=connection, seller=seller, draft=data, now=now, wall_now=wall_now
    )


@get(
    "/v1/credit_grants",
    operation_id="listCreditGrants",
    summary="List credit grants",
    tags=["Credit grants"],
    opt={"scope": Scope.READ},
)
async def get_credit_grants(
    page: NamedDependency[PageRequest],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    customer: FromQuery[str | None] = None,
) -> Page[CreditGrant]:
    """All grants, or those of a customer (key or id), in the order they were made."""
    found = await list_grants(
        connection=connection, now=now, limit=page.fetched, after=page.after, customer=customer
    )
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/credit_grants/{grant:str}",
    operation_id="getCreditGrant",
    summary="One credit grant",
    tags=["Credit grants"],
    opt={"scope": Scope.READ},
)
async def get_credit_grant(
    grant: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> CreditGrant:
    """The grant with that key or id, and what became of it."""
    found = await find_grant(connection=connection, reference=grant, now=now)
    if found is None:
        raise not_found(noun="credit grant", reference=grant)
    return found


@post(
    "/v1/credit_grants/{grant:str}/void",
    operation_id="voidCreditGrant",
    summary="Void a credit grant",
    tags=["Credit grants"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def post_void_credit_grant(
    grant: FromPath[str],
    data: JSONBody[CreditVoid],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
) -> CreditGrant:
    """Take back what is left; what it paid stays paid, and it still pays what is used so far."""
    return await void_credit(
        connection=connection, seller=seller, reference=grant, draft=data, now=now
    )


ROUTES = (create_credit_grant, get_credit_grants, get_credit_grant, post_void_credit_grant)
