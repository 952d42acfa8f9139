"""`/v1/customers`: who is billed."""

from datetime import datetime

import msgspec
from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from metering.read_entitlements import read_entitlements
from plans.drafts import CustomerPatch
from plans.entitlements import EntitlementsAnswer
from plans.model import Customer, CustomerAnswer, CustomerDraft
from plans.register_customer import change_customer, register_customer
from plans.store import find_customer, list_customers


@post(
    "/v1/customers",
    operation_id="createCustomer",
    summary="Add a customer",
    description="`key` is your own name for the customer; usage events name it as their subject.",
    tags=["Customers"],
    opt={"scope": "billing"},
)
async def create_customer(
    data: JSONBody[CustomerDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> CustomerAnswer:
    """Add a customer."""
    return _answer(
        await register_customer(connection=connection, draft=data, now=now, wall_now=wall_now)
    )


@get(
    "/v1/customers",
    operation_id="listCustomers",
    summary="List customers",
    tags=["Customers"],
    opt={"scope": "read"},
)
async def get_customers(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[CustomerAnswer]:
    """All customers in the order they were added."""
    found = await list_customers(connection=connection, limit=page.fetched, after=page.after)
    return page.page([_answer(one) for one in found], ids=[one.id for one in found])


@get(
    "/v1/customers/{customer:str}",
    operation_id="getCustomer",
    summary="One customer",
    tags=["Customers"],
    opt={"scope": "read"},
)
async def get_customer(
    customer: FromPath[str], connection: NamedDependency[AsyncConnection]
) -> CustomerAnswer:
    """The customer with that key or id."""
    found = await find_customer(connection=connection, reference=customer)
    if found is None:
        raise not_found(noun="customer", reference=customer)
    return _answer(found)


@patch(
    "/v1/customers/{customer:str}",
    operation_id="changeCustomer",
    summary="Change a customer",
    description="Changes what the body names. Documents already issued keep what they printed.",
    tags=["Customers"],
    opt={"scope": "billing"},
)
async def patch_customer(
    customer: FromPath[str],
    data: JSONBody[CustomerPatch],
    connection: NamedDependency[AsyncConnection],
) -> CustomerAnswer:
    """Change what the body names."""
    return _answer(await change_customer(connection=connection, reference=customer, patch=data))


@get(
    "/v1/customers/{customer:str}/entitlements",
    operation_id="readEntitlements",
    summary="What a customer is entitled to",
    description=(
        "Every feature that the plans of the running subscriptions name. Numbers add up, `true` has"
        " no limit. A feature named like a meter is measured in the running billing period."
    ),
    tags=["Customers"],
    opt={"scope": "read"},
)
async def get_entitlements(
    customer: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> EntitlementsAnswer:
    """The customer's features with limits, usage and what is left, as of now."""
    return await read_entitlements(connection=connection, customer=customer, now=now)


def _answer(found: Customer) -> CustomerAnswer:
    return msgspec.convert(found, CustomerAnswer, from_attributes=True)


ROUTES = (create_customer, get_customers, get_customer, patch_customer, get_entitlements)
