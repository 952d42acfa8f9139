"""Verb: begin a subscription."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import invalid_field
from engine.ids import new_id
from plans.agree import Asked, Life, agree
from plans.agreement import Anchor, PriceInterval, SubscriptionDraft
from plans.give_coupon import give_coupons
from plans.life import Act, ActKind, Beginning, Offer, State, lay_out
from plans.life_store import insert_act, insert_own_prices
from plans.model import Customer, Plan, Proration, Seller
from plans.reconcile import open_intervals
from plans.store import find_customer, find_plan, price_ids_of
from plans.subscription_store import insert_intervals, insert_subscription
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
    customer, plan = await _parties(connection, draft)
    opening = open_subscription(
        draft=draft, plan=plan, timezone=customer.timezone or seller.timezone, now=now
    )
    beginning = Beginning(
        starts_at=opening.starts_at,
        ends_at=opening.ends_at,
        trial_ends_at=opening.trial_ends_at,
        anchor=Anchor(at=opening.anchor_at, day=opening.anchor_day, alignment=opening.alignment),
        timezone=opening.timezone,
        plan=plan.id,
        quantities=dict(draft.quantities),
        overrides={},
    )
    life = Life(beginning=beginning, currency=plan.currency)
    ids = await price_ids_of(connection=connection, plan_id=plan.id)
    life.offers[plan.id] = Offer(plan=plan, price_ids=ids)
    await _agree_on_all(connection, life, draft, seller, now=now, wall_now=wall_now)
    runs = lay_out(beginning=life.beginning, acts=life.acts, catalogue=life.catalogue)
    intervals = open_intervals(
        runs=runs, first_number=1, make_id=lambda: new_id(prefix="pri", now=wall_now)
    )
    opening = msgspec.structs.replace(opening, intervals=intervals)
    subscription_id = new_id(prefix="sub", now=wall_now)
    await insert_subscription(
        connection=connection,
        subscription_id=subscription_id,
        draft=draft,
        customer_id=customer.id,
        plan_id=plan.id,
        currency=plan.currency,
        opening=opening,
        overrides=life.beginning.overrides,
        next_due_at=next_due_at(agreement=opening, after=None),
        now=now,
    )
    await _write(connection, subscription_id, life, intervals)
    await give_coupons(
        connection=connection,
        subscription_id=subscription_id,
        currency=plan.currency,
        coupons=draft.coupons,
        now=min(now, opening.starts_at),
        wall_now=wall_now,
    )
    return subscription_id


async def _write(
    connection: AsyncConnection,
    subscription_id: str,
    life: Life,
    intervals: Sequence[PriceInterval],
) -> None:
    """What the subscription is made of."""
    await insert_own_prices(
        connection=connection, subscription=subscription_id, prices=life.new_prices
    )
    await insert_intervals(
        connection=connection, intervals=[(subscription_id, stretch) for stretch in intervals]
    )
    for act in life.acts:
        await insert_act(connection=connection, subscription=subscription_id, act=act)


async def _parties(connection: AsyncConnection, draft: SubscriptionDraft) -> tuple[Customer, Plan]:
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
    return customer, plan


async def _agree_on_all(
    connection: AsyncConnection,
    life: Life,
    draft: SubscriptionDraft,
    seller: Seller,
    *,
    now: datetime,
    wall_now: datetime,
) -> None:
    """Overrides from the start on, and every phase as an act of its own."""
    begun = life.beginning
    state = State(plan=begun.plan, quantities=begun.quantities, overrides={})
    if draft.overrides:
        asked = Asked(quantities={}, overrides=draft.overrides)
        state = await agree(
            connection=connection, life=life, state=state, asked=asked, wall_now=wall_now
        )
        life.beginning = msgspec.structs.replace(begun, overrides=state.overrides)
    for number, phase in enumerate(draft.phases, start=1):
        asked = Asked(
            plan=phase.plan,
            quantities=phase.quantities,
            overrides=phase.overrides,
            pointer=f"/phases/{number - 1}",
        )
        state = await agree(
            connection=connection, life=life, state=state, asked=asked, wall_now=wall_now
        )
        life.acts.append(
            Act(
                id=new_id(prefix="sch", now=wall_now),
                number=number,
                kind=ActKind.PHASE,
                effective_at=phase.starts_at,
                recorded_at=now,
                plan=None if phase.plan is None else state.plan,
                quantities=dict(phase.quantities),
                overrides={key: state.overrides[key] for key in phase.overrides},
                prorate=seller.proration is not Proration.NONE,
            )
        )
