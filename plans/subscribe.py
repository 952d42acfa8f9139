"""Verb: begin a subscription."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import invalid_field
from engine.ids import new_id
from plans.agreement import SubscriptionDraft
from plans.model import Seller
from plans.store import find_customer, find_plan, price_ids_of
from plans.subscription_store import insert_subscription
from plans.timeline import next_due_at, open_subscription


async def subscribe(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: SubscriptionDraft,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Open the price intervals that the plan and the draft agree on; give the subscription's id.

    The plan version is the latest one unless named; `now` is the seller's clock, ids follow
    `wall_now`. Errors: `invalid_body` with the fields at
    fault; a key already taken violates its unique key.
    """
    customer = await find_customer(connection=connection, reference=draft.customer)
    if customer is None:
        detail = f"no customer {draft.customer!r}"
        raise invalid_field(pointer="/customer", code="unknown_customer", detail=detail)
    plan = await find_plan(connection=connection, key=draft.plan, version=draft.plan_version)
    if plan is None:
        detail = f"no plan {draft.plan!r}"
        if draft.plan_version is not None:
            detail += f" in version {draft.plan_version}"
        raise invalid_field(pointer="/plan", code="unknown_plan", detail=detail)
    if customer.currency is not None and customer.currency != plan.currency:
        detail = (
            f"customer {customer.key!r} pays in {customer.currency}, the plan in {plan.currency}"
        )
        raise invalid_field(pointer="/plan", code="currency_mismatch", detail=detail)
    opening = open_subscription(
        draft=draft,
        plan=plan,
        price_ids=await price_ids_of(connection=connection, plan_id=plan.id),
        timezone=customer.timezone or seller.timezone,
        now=now,
        wall_now=wall_now,
    )
    subscription_id = new_id(prefix="sub", now=wall_now)
    await insert_subscription(
        connection=connection,
        subscription_id=subscription_id,
        draft=draft,
        customer_id=customer.id,
        plan_id=plan.id,
        currency=plan.currency,
        opening=opening,
        next_due_at=next_due_at(agreement=opening, after=None),
        now=now,
    )
    return subscription_id
