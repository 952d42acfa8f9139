"""Verb: find what a plan would be with other prices. Nothing is published."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import UnsetType
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import FieldError
from plans.catalog import refuse_invalid, unmetered_errors
from plans.drafts import given
from plans.life import Offer
from plans.model import Meter, Plan, PlanDraft, charged_prices
from plans.own_prices import override_pointer, own_price
from plans.price_lists import PriceListDraft
from plans.prices import Price
from plans.store import find_plan, list_plans
from plans.validation import validate_plan

MOST_VERSIONS: Final = 10_000


class _Faults:
    """What is wrong with one price list."""

    def __init__(self, pointer: str) -> None:
        self.pointer = pointer
        self.errors: list[FieldError] = []

    def add(self, field: str, code: str, detail: str) -> None:
        self.errors.append(FieldError(pointer=f"{self.pointer}/{field}", code=code, detail=detail))

    def take(self, errors: Iterable[FieldError], prices: Sequence[str]) -> None:
        """Errors of a whole plan; `prices` are where its prices stand."""
        for error in errors:
            _, first, *rest = error.pointer.split("/", 3)
            where = f"{self.pointer}/{first}"
            if first == "prices":
                where = "/".join([prices[int(rest[0])], *rest[1:]])
            elif first != "minimum_commitment":
                where = f"{self.pointer}/with_plan"
            found = msgspec.structs.replace(error, pointer=where)
            self.errors += [] if found in self.errors else [found]


async def suppose_prices(
    *,
    connection: AsyncConnection,
    drafts: Sequence[PriceListDraft],
    meters: Mapping[str, Meter],
    pointer: str = "/price_lists",
) -> dict[str, Offer]:
    """What plan versions offer instead, by their ids; the ids of the prices are made up.

    Errors: `invalid_body` with every field at fault.
    """
    offers: dict[str, Offer] = {}
    errors: list[FieldError] = []
    for place, draft in enumerate(drafts):
        faults = _Faults(f"{pointer}/{place}")
        found = await _offers_of(connection, draft, meters, faults)
        if any(plan in offers for plan in found):
            faults.add("plan", "duplicate", "another price list is about the same version")
        offers |= found
        errors += faults.errors
    refuse_invalid(errors)
    return offers


async def _offers_of(
    connection: AsyncConnection,
    draft: PriceListDraft,
    meters: Mapping[str, Meter],
    faults: _Faults,
) -> dict[str, Offer]:
    versions = await list_plans(connection=connection, limit=MOST_VERSIONS, key=draft.plan)
    if not versions:
        faults.add("plan", "unknown_plan", f"no plan {draft.plan!r}")
        return {}
    chosen = [one for one in versions if draft.plan_version in {None, one.version}]
    if not chosen:
        detail = f"plan {draft.plan!r} has no version {draft.plan_version}"
        faults.add("plan_version", "unknown_version", detail)
    other = await _other_plan(connection, draft, versions[0].currency, faults)
    _refuse_contradictions(draft, faults)
    if faults.errors:
        return {}
    _refuse_unknown_overrides(draft, chosen if other is None else [other], faults)
    found: dict[str, Offer] = {}
    for version in chosen:
        plan = _supposed(draft, version, other or version, meters, faults)
        ids = {price.key: f"{version.id} {price.key}" for price in charged_prices(plan)}
        found[version.id] = Offer(plan=plan, price_ids=ids)
    return found


async def _other_plan(
    connection: AsyncConnection, draft: PriceListDraft, currency: str, faults: _Faults
) -> Plan | None:
    if draft.with_plan is None and draft.with_version is None:
        return None
    key = draft.with_plan or draft.plan
    field = "with_plan" if draft.with_version is None else "with_version"
    found = await find_plan(connection=connection, key=key, version=draft.with_version)
    if found is None:
        told = "" if draft.with_version is None else f" in version {draft.with_version}"
        faults.add(field, "unknown_plan", f"no plan {key!r}{told}")
    elif found.currency != currency:
        detail = f"plan {draft.plan!r} is paid in {currency}, {key!r} in {found.currency}"
        faults.add(field, "currency_mismatch", detail)
    return found


def _refuse_contradictions(draft: PriceListDraft, faults: _Faults) -> None:
    other = draft.with_plan is not None or draft.with_version is not None
    if draft.prices is not None and other:
        faults.add("prices", "contradictory", "the prices are another plan's, or told, not both")
    if draft.prices is not None and draft.overrides:
        faults.add("overrides", "contradictory", "prices told whole need no field replaced")
    told = draft.prices is not None or other or bool(draft.overrides)
    if not told and isinstance(draft.minimum_commitment, UnsetType):
        detail = "say with_plan, with_version, prices, overrides or minimum_commitment"
        faults.add("prices", "required", detail)


def _refuse_unknown_overrides(
    draft: PriceListDraft, plans: Sequence[Plan], faults: _Faults
) -> None:
    known = {price.key for plan in plans for price in plan.prices}
    for key in draft.overrides:
        if key not in known:
            where = override_pointer(pointer="", key=key).removeprefix("/")
            faults.add(where, "unknown_price", f"plan {plans[0].key!r} has no price {key!r}")


def _supposed(
    draft: PriceListDraft,
    version: Plan,
    base: Plan,
    meters: Mapping[str, Meter],
    faults: _Faults,
) -> Plan:
    """The version with the prices of the base, or those told; its faults are noted."""
    listed = base.prices if draft.prices is None else draft.prices
    prices: list[Price] = []
    places: list[str] = []
    for place, price in enumerate(listed):
        pointer = f"{faults.pointer}/prices/{place}"
        if draft.prices is None:
            pointer = f"{faults.pointer}/with_plan"
        made: Price | list[FieldError] = price
        if price.key in draft.overrides:
            pointer = override_pointer(pointer=faults.pointer, key=price.key)
            made = own_price(
                price=price,
                fields=draft.overrides[price.key],
                currency=version.currency,
                alignment=version.alignment,
                pointer=pointer,
            )
        if isinstance(made, list):
            faults.errors += [error for error in made if error not in faults.errors]
            continue
        prices.append(made)
        places.append(pointer)
    whole = PlanDraft(
        key=version.key,
        currency=version.currency,
        interval=base.interval,
        alignment=version.alignment,
        minimum_commitment=given(draft.minimum_commitment, base.minimum_commitment),
        prices=tuple(prices),
    )
    known = {key: frozenset(meter.group_by) for key, meter in meters.items()}
    kinds = {key: meter.aggregation for key, meter in meters.items()}
    faults.take(
        [*validate_plan(whole), *unmetered_errors(draft=whole, known=known, aggregations=kinds)],
        places,
    )
    return msgspec.structs.replace(
        version,
        interval=whole.interval,
        minimum_commitment=whole.minimum_commitment,
        prices=whole.prices,
    )
