"""Two price lists and one story: what a backtest says, and what a seller with the other bills."""

from datetime import timedelta

import msgspec
from sqlalchemy import text

from engine.db import Database
from invoicing.backtest import open_backtest
from invoicing.simulation import CustomerEffect, Simulation, SimulationDraft
from plans.drafts import PlanVersionDraft
from plans.model import MeterDraft
from plans.publish import publish_meter, publish_version
from tests.billing_world import OPENED, Shop, at, plan

SEATS = {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "31.00"}
TIERS = {
    "key": "tokens",
    "kind": "usage",
    "meter": "tokens",
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.10"}, {"up_to": None, "unit_amount": "0.01"}],
}
FLAT = {"key": "base", "kind": "recurring", "model": "flat", "flat_amount": "99.99"}
SETUP = {"key": "setup", "kind": "one_time", "model": "flat", "flat_amount": "5.00"}
CALLS = {"key": "calls", "kind": "usage", "meter": "calls", "model": "per_unit"}
ARREARS = {"key": "seats", "kind": "recurring", "model": "volume", "bill": "in_arrears"}
ARREARS |= {"tiers": [{"up_to": "3", "unit_amount": "7.33"}, {"up_to": None, "unit_amount": "0"}]}
LEAST = {"key": "least", "kind": "usage", "meter": "tokens", "model": "package"}
LEAST |= {"package_size": "7", "unit_amount": "0.33", "minimum_amount": "1", "prorate_tiers": True}
LEAST_JPY = LEAST | {"unit_amount": "33", "minimum_amount": "100"}
SHARE = {"key": "share", "kind": "usage", "meter": "tokens", "model": "percentage", "rate": "2.5"}
BY_GROUP = TIERS | {"group_by": ["region"], "minimum_amount": "2.00"}
CELLS = {"key": "cells", "kind": "usage", "meter": "tokens", "model": "matrix"}
CELLS |= {"matrix": [{"match": {"region": "eu"}, "unit_amount": "0.05"}], "unit_amount": "0.02"}

PLANS = {
    "team": plan(SEATS, TIERS),
    "yearly": plan(FLAT, SETUP, key="yearly", interval={"unit": "year"}, trial_days=10),
    "arrears": plan(ARREARS, LEAST_JPY, key="arrears", currency="JPY", alignment="calendar"),
    "events": plan(SEATS, SHARE, key="events"),
    "groups": plan(SEATS, BY_GROUP, key="groups"),
    "pledge": plan(SEATS, TIERS, key="pledge", minimum_commitment="100.00"),
    "same": plan(FLAT, CALLS | {"unit_amount": "0.10"}, key="same"),
}
RATED_OTHERWISE = TIERS | {"tiers": [{"up_to": None, "unit_amount": "0.07"}]}
SUPPORT = {"key": "support", "kind": "recurring", "model": "flat", "flat_amount": "12.50"}
OTHERS = {
    **PLANS,
    # A price that changes, one that is new, one that vanishes.
    "team": plan(SEATS | {"unit_amount": "29.00", "bill": "in_arrears"}, RATED_OTHERWISE, SUPPORT),
    "yearly": PLANS["yearly"] | {"prices": [FLAT | {"flat_amount": "120.00"}, SETUP]},
    "arrears": PLANS["arrears"] | {"prices": [ARREARS | {"quantity": "2"}]},
    "events": PLANS["events"] | {"prices": [SEATS, CELLS, CALLS | {"unit_amount": "0.2"}]},
    "groups": PLANS["groups"] | {"prices": [SEATS, TIERS | {"minimum_amount": "3.00"}]},
    "pledge": PLANS["pledge"]
    | {"minimum_commitment": "310.00", "prices": [SEATS | {"unit_amount": "40"}, TIERS]},
}
PRICE_LISTS = [
    {"plan": "team", "prices": OTHERS["team"]["prices"]},
    {"plan": "yearly", "overrides": {"base": {"flat_amount": "120.00"}}},
    {"plan": "arrears", "with_plan": "arrears2"},
    {"plan": "events", "prices": OTHERS["events"]["prices"]},
    {"plan": "groups", "plan_version": 1, "with_version": 2},
    {
        "plan": "pledge",
        "overrides": {"seats": {"unit_amount": "40"}},
        "minimum_commitment": "310.00",
    },
]
OPTIONS = (
    {},
    {"quantities": {"seats": "3"}},
    {"plan": "yearly", "net_terms_days": 3},
    {"plan": "arrears", "quantities": {"seats": "4"}},
    {"plan": "events"},
    {"overrides": {"seats": {"unit_amount": "0.005"}}},
    {"plan": "groups", "anchor": {"day": 31}},
    {"plan": "pledge"},
    {"ends_at": "2026-02-20T12:00:00Z"},
    {"plan": "same"},
    {"plan": "pledge", "trial_days": 20},
    {"phases": [{"starts_at": "2026-02-07T00:00:00Z", "plan": "groups"}]},
)
END = "2026-05-01"
_BILLED = text("""
SELECT customer, currency, sum(amount_minor)::bigint AS amount_minor FROM (
  SELECT c.key AS customer, s.currency, sum(l.amount_minor) AS amount_minor,
    least(max(l.period_end_at), coalesce(v.end_at, 'infinity')) AS ended_at
  FROM line_items l
    JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
    JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
    JOIN customers c ON c.seller = s.seller AND c.id = coalesce(s.payer, s.customer)
    LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
  WHERE l.seller = current_seller() AND coalesce(i.status, '') <> 'void'
  GROUP BY c.key, s.currency, l.price_interval, l.charge_start_at, v.end_at) k
WHERE ended_at > CAST(:start AS timestamptz) AND ended_at <= CAST(:end AS timestamptz)
GROUP BY customer, currency
""")


async def tell(shop: Shop, plans, *, customers: int = 26) -> None:
    """The whole story: meters, plans, customers of many kinds, changes and usage, billed."""
    times = {"now": OPENED, "wall_now": OPENED}
    async with shop.database.transaction(seller=shop.seller) as connection:
        for fields in (
            {"key": "tokens", "aggregation": "sum", "value": "tokens", "group_by": ["region"]},
            {"key": "calls", "aggregation": "count"},
        ):
            draft = msgspec.convert({"event_type": "call"} | fields, MeterDraft)
            await publish_meter(connection=connection, draft=draft, **times)
    for body in plans.values():
        await shop.publish_plan(body)
    for number in range(customers):
        await _begin(shop, number)
    await shop.bill(at("2026-01-20"))
    await _turn(shop)
    for day in ("2026-02-20", "2026-03-15", END):
        await shop.bill(at(day))


async def _begin(shop: Shop, number: int) -> None:
    key = f"c{number:02}"
    more = {"parent": "c00"} if number % 7 == 6 else {}
    zone = {} if number % 5 else {"timezone": "America/New_York"}
    await shop.customer(key, **more, **zone)
    start = at(f"2026-01-{number % 3 * 4 + 1:02}").isoformat()
    options = {"starts_at": start} | OPTIONS[number % len(OPTIONS)]
    await shop.subscribe(key, key, **options)
    if number % 10 == 9:
        await shop.subscribe(f"{key}-more", key, **options)
    for place, day in enumerate(("2026-01-19", "2026-02-04", "2026-02-15", "2026-04-01")):
        region = ("eu", "us")[(number + place) % 2]
        await shop.use(key, at(day), 37 * number % 211 + place, region=region)


async def _turn(shop: Shop) -> None:
    """Changes of what runs, at once and to come, undone by nobody."""
    now = at("2026-01-21")
    await shop.cancel("c00", now=now, effective="2026-02-10T00:00:00Z", refund="none")
    await shop.cancel("c01", now=now, effective="period_end")
    await shop.change("c02", now=now, overrides={"base": {"flat_amount": "77.00"}})
    await shop.change("c04", now=now, plan="team", effective="2026-01-15T00:00:00Z")
    await shop.change("c05", now=now, quantities={"seats": "5"})
    await shop.turn("c06", now=now, paused=True)
    await shop.turn("c06", now=at("2026-02-06"), paused=False)
    await shop.change("c07", now=now, plan="groups", effective="2026-02-02T00:00:00Z")
    await shop.change("c12", now=now, plan="yearly")
    await shop.change("c13", now=now, plan="pledge", prorate=False)
    await shop.turn("c14", now=now, paused=True)
    await shop.cancel("c14", now=at("2026-02-03"), effective="now")
    await shop.change("c24", now=now, quantities={"seats": "2"}, invoice_now=True)
    await shop.change("c24", now=at("2026-02-11"), quantities={"seats": "0.5"})
    await shop.cancel("c24", now=at("2026-02-12"), effective="now")


async def add_other_lists(shop: Shop) -> None:
    """A plan and a version that hold the other prices."""
    await shop.publish_plan(OTHERS["arrears"] | {"key": "arrears2"})
    draft = msgspec.convert({"prices": OTHERS["groups"]["prices"]}, PlanVersionDraft)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await publish_version(
            connection=connection, reference="groups", draft=draft, now=OPENED, wall_now=OPENED
        )


async def simulate(
    database: Database, seller: int, price_lists, *, start="2025-12-01", end=END, **more
) -> tuple[Simulation, dict[tuple[str, str], CustomerEffect]]:
    """The answer, and the effect on each customer by key and currency."""
    page = {"page": more.pop("page")} if "page" in more else {}
    now = more.pop("now", at(END))
    body = {"from": start, "to": end, "price_lists": price_lists} | more
    draft = msgspec.convert(body, SimulationDraft)
    async with database.transaction(seller=seller, snapshot=True) as connection:
        opened = await open_backtest(
            connection=connection, seller=seller, draft=draft, now=now, **page
        )
        found = [effect async for page_ in opened.effects() for effect in page_]
        effects = {(one.customer, one.currency): one for one in found}
        assert len(effects) == len(found)
        return opened.answer(), effects


async def billed(shop: Shop, *, start="2025-12-01", end=END) -> dict[tuple[str, str], int]:
    """Minor units of posted charges whose part of a period ended in the stretch, by SQL alone."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        rows = await connection.execute(
            _BILLED, {"start": at(start) + timedelta(0), "end": at(end)}
        )
        return {(row.customer, row.currency): row.amount_minor for row in rows if row.amount_minor}
