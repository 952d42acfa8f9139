"""A minimum commitment follows what it counts, and the audit derives both again."""

from engine.db import AUDITOR_ROLE, PATIENT, open_database
from invoicing.rederive import rederive
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, plan, shop, violations

__all__ = ["shop"]

QUARTERLY = TIERS | {"interval": {"unit": "quarter"}}


async def sound(shop, database_url):
    auditor = open_database(dsn=database_url, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=shop.seller, snapshot=True) as connection:
            seller = await load_seller(connection=connection)
            found = await rederive(connection=connection, seller=seller)
    finally:
        await auditor.close()
    assert found.mismatches == ()
    assert await violations(database_url) == []
    return found.pending


async def due_through(shop, *instants):
    for instant in instants:
        await shop.bill(at(instant), pending=False)


async def test_a_life_with_a_minimum_is_derived_again_at_every_step(shop, database_url):
    await shop.publish_plan(plan(SEATS, TIERS, key="small", minimum_commitment="100.00"))
    await shop.publish_plan(plan(SEATS, TIERS, key="large", minimum_commitment="310.00"))
    await shop.subscribe("s1", "acme", plan="small")
    await shop.bill(at("2026-01-01"))
    await shop.use("acme", at("2026-01-10"), 200)
    await shop.bill(at("2026-02-01"))
    assert await shop.lines("INV-000002") == [
        ("seats", 3100, "initial"),
        ("tokens", 1100, "initial"),
        ("minimum_commitment", 5800, "true_up"),
    ]
    assert await sound(shop, database_url) == 0
    await shop.change("s1", now=at("2026-02-10"), plan="large", effective="2026-01-21T00:00:00Z")
    await sound(shop, database_url)
    await shop.bill(at("2026-02-10"))
    # January: 20 of 31 days of 100.00 are 64.52, less 42.00; then 11 of 31 of 310.00, counting
    # nothing that begins in them.
    assert sorted(await shop.lines("INV-000003")) == [
        ("minimum_commitment", 2252 - 5800, "true_up"),
        ("minimum_commitment", 11000, "true_up"),
    ]
    assert await sound(shop, database_url) == 0
    await shop.turn("s1", now=at("2026-02-15"), paused=True)
    await shop.turn("s1", now=at("2026-02-20"), paused=False)
    await shop.bill(at("2026-03-01"))
    assert await sound(shop, database_url) == 0
    await shop.cancel("s1", now=at("2026-03-11"), effective="now")
    await shop.bill(at("2026-03-11"))
    assert await sound(shop, database_url) == 0
    assert (await shop.bill(at("2026-03-12"))).documents == 0


async def test_a_charge_that_falls_due_later_is_counted_when_it_does(shop, database_url):
    await shop.publish_plan(plan(QUARTERLY, key="slow", minimum_commitment="50.00"))
    await shop.subscribe("s1", "acme", plan="slow")
    await shop.use("acme", at("2026-01-10"), 100)
    await due_through(shop, "2026-01-01", "2026-02-01", "2026-03-01")
    assert await shop.lines() == [("minimum_commitment", 5000, "true_up")] * 2
    await shop.bill(at("2026-04-01"))
    assert sorted(await shop.lines("INV-000003")) == [
        ("minimum_commitment", -1000, "true_up"),
        ("minimum_commitment", 5000, "true_up"),
        ("tokens", 1000, "initial"),
    ]
    assert await sound(shop, database_url) == 0


async def test_late_usage_makes_its_minimum_wait_in_the_audit(shop, database_url):
    await shop.publish_plan(plan(TIERS, key="base", minimum_commitment="50.00"))
    await shop.subscribe("s1", "acme", plan="base")
    await shop.bill(at("2026-02-01"))
    await shop.use("acme", at("2026-01-10"), 100)
    assert await sound(shop, database_url) == 2
    await shop.bill(at("2026-02-02"))
    assert sorted(await shop.lines("INV-000002")) == [
        ("minimum_commitment", -1000, "true_up"),
        ("tokens", 1000, "initial"),
    ]
    assert await sound(shop, database_url) == 0
