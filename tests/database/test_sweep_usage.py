"""A sweep marks whom usage touches, and reads no batch that can touch nobody."""

import random
from datetime import timedelta

import pytest

from invoicing.sweep_usage import sweep_usage
from metering.fold_usage import FoldLimits, fold_usage
from tests.billing_world import at, shop

__all__ = ["shop"]

ALL = FoldLimits(least_batches=1, least_events=1)
MARKED = """
SELECT c.key, s.dirty_from_at FROM subscriptions s JOIN customers c ON c.id = s.customer
WHERE s.dirty_from_at IS NOT NULL ORDER BY c.key
"""
STARTS = {"a": 1, "b": 8, "c": 15, "d": 22}


async def sweep(shop):
    async with shop.database.transaction(seller=shop.seller) as connection:
        await sweep_usage(connection=connection)
    assert await shop.one("SELECT count(*) FROM event_inbox") == 0


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("seed", range(2))
async def test_whoever_is_touched_is_marked_from_when_on(shop, seed, folded):
    """Batches before, across and after the instants that customers are derived through."""
    for customer, day in STARTS.items():
        await shop.customer(customer)
        start = at(f"2026-01-{day:02}").isoformat()
        await shop.subscribe(customer, customer, starts_at=start)
    await shop.customer("never")
    await shop.subscribe("never", "never", starts_at="2026-06-01T00:00:00Z")
    await shop.bill(at("2026-02-20"))
    derived = {key: at(f"2026-0{2 if day < 21 else 1}-{day:02}") for key, day in STARTS.items()}
    dice, wanted = random.Random(seed), dict[str, object]()
    for _ in range(40):
        customer = dice.choice([*STARTS, "never"])
        until = derived.get(customer, at("2026-02-15"))
        when = until + dice.choice([-1, 0, 1]) * timedelta(microseconds=dice.randrange(10**12))
        await shop.use(customer, when)
        if customer in derived and when < until:
            wanted[customer] = min(wanted.get(customer, when), when)
    if folded:
        await fold_usage(database=shop.database, seller=shop.seller, limits=ALL)
    await sweep(shop)
    assert await shop.rows(MARKED) == sorted(wanted.items())


async def test_usage_of_the_latest_instant_derived_touches_nothing(shop):
    await shop.subscribe("s", "acme")
    await shop.bill(at("2026-02-01"))
    await shop.use("acme", at("2026-02-01"))
    await sweep(shop)
    assert await shop.rows(MARKED) == []
    await shop.use("acme", at("2026-02-01") - timedelta(microseconds=1))
    await sweep(shop)
    assert await shop.rows(MARKED) == [("acme", at("2026-02-01") - timedelta(microseconds=1))]


async def test_usage_of_a_threshold_is_seen_whenever_it_is(shop):
    await shop.subscribe("s", "acme", spend_thresholds=["10.00"])
    await shop.bill(at("2026-01-01"))
    await shop.use("acme", at("2026-01-20"))
    await sweep(shop)
    assert await shop.one("SELECT usage_seen FROM subscriptions")
