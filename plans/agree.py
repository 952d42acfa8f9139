"""Verb: agree on what a body asks of a subscription: its plan, quantities and own prices."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, FieldError, invalid_field
from engine.ids import new_id
from engine.period import Alignment
from plans.agreement import Agreement
from plans.catalog import unmetered_errors
from plans.life import Act, Beginning, Catalogue, Offer, State, state_after, terms_of
from plans.life_store import load_acts, load_beginnings, load_offer, load_own_prices
from plans.model import Plan, PlanDraft
from plans.own_prices import override_pointer, own_price
from plans.prices import Kind, Price
from plans.store import aggregations_of_meters, dimensions_of_meters, find_plan, price_ids_of
from plans.timeline import alignment_faults, quantity_faults


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a body asks for; `pointer` is where it stands."""

    plan: str | None = None
    plan_version: int | None = None
    quantities: Mapping[str, str]
    overrides: Mapping[str, Mapping[str, Any]]
    pointer: str = ""


class Life:
    """A subscription's beginning and acts with all they name, while one use case adds to them."""

    def __init__(self, *, beginning: Beginning, currency: str) -> None:
        """Before anything happened."""
        self.beginning, self.currency = beginning, currency
        self.acts: list[Act] = []
        self.offers: dict[str, Offer] = {}
        self.prices: dict[str, Price] = {}
        self.new_prices: dict[str, tuple[str, Price]] = {}

    @property
    def catalogue(self) -> Catalogue:
        """The plans and prices that the life names."""
        return Catalogue(offers=self.offers, prices=self.prices)

    def state_at(self, at: datetime) -> State:
        """What is agreed at the instant, with all that takes effect then."""
        acts = [act for act in self.acts if act.effective_at <= at]
        return state_after(beginning=self.beginning, acts=acts, catalogue=self.catalogue)


async def load_life(*, connection: AsyncConnection, agreement: Agreement) -> Life:
    """The life of a subscription as recorded."""
    lives = await load_lives(connection=connection, agreements=[agreement], offers={})
    return lives[agreement.id]


async def load_lives(
    *, connection: AsyncConnection, agreements: Sequence[Agreement], offers: dict[str, Offer]
) -> dict[str, Life]:
    """The lives of many subscriptions by their ids; `offers` keeps the plans that are read."""
    beginnings = await load_beginnings(connection=connection, agreements=agreements)
    acts = await load_acts(connection=connection, subscriptions=list(beginnings))
    lives: dict[str, Life] = {}
    named: set[str] = set()
    own: list[str] = []
    for agreement in agreements:
        beginning = beginnings[agreement.id]
        life = lives[agreement.id] = Life(beginning=beginning, currency=agreement.currency)
        life.acts = acts.get(agreement.id, [])
        named |= {beginning.plan, *(act.plan for act in life.acts if act.plan is not None)}
        own += beginning.overrides.values()
        for act in life.acts:
            own += act.overrides.values()
    for plan in sorted(named.difference(offers)):
        offers[plan] = await load_offer(connection=connection, plan=plan)
    prices = await load_own_prices(connection=connection, prices=own)
    for life in lives.values():
        life.offers, life.prices = offers, prices
    return lives


async def agree(
    *, connection: AsyncConnection, life: Life, state: State, asked: Asked, wall_now: datetime
) -> State:
    """The state with what is asked for; the life then knows every plan and price it names.

    Errors: `invalid_body` with the fields at fault.
    """
    plan = await _plan(connection, life, state, asked)
    kinds = {price.key for price in plan.prices}
    errors = quantity_faults(
        quantities=asked.quantities, plan=plan, pointer=asked.pointer, with_one_time=False
    )
    alignment = (state.anchor or life.beginning.anchor).alignment
    if plan.interval.unit is life.offers[state.plan].plan.interval.unit:
        errors += alignment_faults(plan=plan, alignment=alignment, pointer=f"{asked.pointer}/plan")
    kept = plan.key == life.offers[state.plan].plan.key
    found = State(
        plan=plan.id,
        quantities={k: v for k, v in state.quantities.items() if k in kinds},
        overrides={k: v for k, v in state.overrides.items() if kept and k in kinds},
        is_paused=state.is_paused,
        anchor=state.anchor,
    )
    own, faults = await _own_prices(connection, life, found, asked, alignment)
    errors += faults
    if errors:
        raise BillingError("invalid_body", errors[0].detail, errors=tuple(errors))
    ids: dict[str, str] = {}
    for key, price in own.items():
        ids[key] = new_id(prefix="prc", now=wall_now)
        life.prices[ids[key]] = price
        life.new_prices[ids[key]] = (plan.id, price)
    return msgspec.structs.replace(
        found,
        quantities={**found.quantities, **asked.quantities},
        overrides={**found.overrides, **ids},
    )


async def _plan(connection: AsyncConnection, life: Life, state: State, asked: Asked) -> Plan:
    current = life.offers[state.plan].plan
    if asked.plan is None and asked.plan_version is None:
        return current
    key, version = asked.plan or current.key, asked.plan_version
    known = (offer.plan for offer in life.offers.values())
    plan = next((one for one in known if (one.key, one.version) == (key, version)), None)
    plan = plan or await find_plan(connection=connection, key=key, version=version)
    if plan is None:
        detail = f"no plan {key!r}" + ("" if version is None else f" in version {version}")
        raise invalid_field(pointer=f"{asked.pointer}/plan", code="unknown_plan", detail=detail)
    if plan.currency != life.currency:
        detail = f"the subscription is paid in {life.currency}, the plan in {plan.currency}"
        raise invalid_field(
            pointer=f"{asked.pointer}/plan", code="currency_mismatch", detail=detail
        )
    if plan.id not in life.offers:
        ids = await price_ids_of(connection=connection, plan_id=plan.id)
        life.offers[plan.id] = Offer(plan=plan, price_ids=ids)
    return plan


async def _own_prices(
    connection: AsyncConnection, life: Life, state: State, asked: Asked, alignment: Alignment
) -> tuple[dict[str, Price], Sequence[FieldError]]:
    terms = terms_of(state=state, catalogue=life.catalogue)
    plan = life.offers[state.plan].plan
    own: dict[str, Price] = {}
    errors: list[FieldError] = []
    for key, fields in asked.overrides.items():
        pointer = override_pointer(pointer=asked.pointer, key=key)
        if key not in terms or terms[key].price.kind is Kind.COMMITMENT:
            detail = f"plan {plan.key!r} has no price {key!r}"
            errors.append(FieldError(pointer=pointer, code="unknown_price", detail=detail))
            continue
        made = own_price(
            price=terms[key].price,
            fields=fields,
            currency=life.currency,
            alignment=alignment,
            pointer=pointer,
        )
        if isinstance(made, list):
            errors += made
            continue
        own[key] = made
        errors += await _unmetered(connection, plan, made, pointer)
    return own, errors


async def _unmetered(
    connection: AsyncConnection, plan: Plan, price: Price, pointer: str
) -> list[FieldError]:
    """Whether the price's meter keeps the dimensions that it needs."""
    named = [] if price.meter is None else [price.meter]
    known = await dimensions_of_meters(connection=connection, keys=named)
    aggregations = await aggregations_of_meters(connection=connection, keys=named)
    draft = PlanDraft(key=plan.key, currency=plan.currency, interval=plan.interval, prices=(price,))
    return [
        msgspec.structs.replace(error, pointer=error.pointer.replace("/prices/0", pointer, 1))
        for error in unmetered_errors(draft=draft, known=known, aggregations=aggregations)
    ]
