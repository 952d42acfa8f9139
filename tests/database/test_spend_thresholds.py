"""A threshold bills once, whoever looks: the worker, the clock or both, and the audit agrees."""

from api.worker import tick
from engine.db import AUDITOR_ROLE, PATIENT, open_database
from invoicing.rederive import rederive
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, plan, shop, violations

__all__ = ["shop"]


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


async def test_the_worker_bills_a_threshold_once_and_the_end_the_rest(shop, database_url):
    await shop.publish_plan(plan(SEATS, TIERS, key="watched", minimum_commitment="100.00"))
    await shop.subscribe("s1", "acme", plan="watched", spend_thresholds=["15.00"])
    assert await tick(database=shop.database, now=at("2026-01-01")) == 1
    await shop.use("acme", at("2026-01-05"), 100)
    assert await tick(database=shop.database, now=at("2026-01-05")) == 0
    await shop.use("acme", at("2026-01-06"), 500)
    assert await tick(database=shop.database, now=at("2026-01-06")) == 1
    assert await tick(database=shop.database, now=at("2026-01-06T01:00")) == 0
    assert await shop.lines("INV-000002") == [("tokens", 1500, "initial")]
    await sound(shop, database_url)
    await shop.use("acme", at("2026-01-02"), 50)
    await shop.bill(at("2026-01-07"))
    await sound(shop, database_url)
    assert len(await shop.lines()) == 2
    await shop.change("s1", now=at("2026-01-20"), quantities={"seats": "2"})
    await tick(database=shop.database, now=at("2026-02-01"))
    lines = await shop.lines("INV-000003")
    assert ("tokens", 50, "initial") in lines
    assert [reason for price, _, reason in lines if price == "minimum_commitment"] == ["true_up"]
    await sound(shop, database_url)
    assert (await shop.bill(at("2026-02-02"))).documents == 0


async def test_a_change_inside_the_period_bills_the_rest_of_what_it_closes(shop, database_url):
    dearer = TIERS | {"tiers": [{"up_to": None, "unit_amount": "1.00"}]}
    await shop.publish_plan(plan(TIERS, key="small"))
    await shop.publish_plan(plan(dearer, key="dear"))
    await shop.subscribe("s1", "acme", plan="small", spend_thresholds=["10.00"])
    await shop.use("acme", at("2026-01-05"), 100)
    await tick(database=shop.database, now=at("2026-01-05"))
    await shop.use("acme", at("2026-01-06"), 100)
    await shop.change("s1", now=at("2026-01-10"), plan="dear")
    await shop.use("acme", at("2026-01-12"), 5)
    await tick(database=shop.database, now=at("2026-01-12"))
    await tick(database=shop.database, now=at("2026-02-01"))
    assert sorted(await shop.lines("INV-000002")) == [
        ("tokens", 100, "initial"),
        ("tokens", 500, "initial"),
    ]
    await sound(shop, database_url)
