"""Runs beside folding bill what was used: every event once, late ones by difference."""

import asyncio
from datetime import timedelta

from metering.fold_usage import fold_usage
from tests.billing_world import at, plan, shop, violations
from tests.database.test_fold_usage import SMALL

__all__ = ["shop"]
FLAT = {
    "key": "tokens",
    "kind": "usage",
    "meter": "tokens",
    "model": "per_unit",
    "unit_amount": "1.00",
}
CUSTOMERS = 12


async def folding(shop, until):
    while not until.done():
        await fold_usage(database=shop.database, seller=shop.seller, limits=SMALL)
        await asyncio.sleep(0)


async def billed(shop):
    """What each customer's charge of January comes to, over all documents."""
    return await shop.rows(
        "SELECT s.key, CAST(sum(l.amount_minor) AS bigint) FROM line_items l"
        " JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription"
        " WHERE l.charge_start_at = :start GROUP BY s.key ORDER BY s.key",
        start=at("2026-01-01"),
    )


async def bill_beside_folding(shop, as_of):
    run = asyncio.create_task(shop.bill(as_of))
    await folding(shop, run)
    return await run


async def test_runs_beside_folding_bill_every_event_once(shop, database_url):
    await shop.publish_plan(plan(FLAT, key="metered"))
    used = {}
    for number in range(CUSTOMERS):
        key = f"k{number:02}"
        await shop.customer(key)
        await shop.subscribe(f"s{number:02}", key, plan="metered")
    for number in range(CUSTOMERS):
        for turn in range(4):
            when = at("2026-01-10") + timedelta(hours=number + 5 * turn)
            await shop.use(f"k{number:02}", when, number + turn)
            used[f"s{number:02}"] = used.get(f"s{number:02}", 0) + 100 * (number + turn)
    await bill_beside_folding(shop, at("2026-02-01"))
    assert dict(await billed(shop)) == used
    again = await bill_beside_folding(shop, at("2026-02-01"))
    assert again.documents == 0
    # Late usage that is folded before any run has looked at it.
    for number in range(0, CUSTOMERS, 2):
        body = {"late": number}
        await use_late(shop, f"k{number:02}", **body)
        used[f"s{number:02}"] += 700
    await fold_usage(database=shop.database, seller=shop.seller, limits=SMALL)
    assert await shop.one("SELECT count(*) FROM event_measures") == 0
    await bill_beside_folding(shop, at("2026-02-03"))
    assert dict(await billed(shop)) == used
    assert await violations(database_url) == []


async def use_late(shop, customer, **properties):
    """Usage of January that comes in February."""
    await shop.use(customer, at("2026-01-20"), 7, **properties)
