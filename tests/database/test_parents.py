"""A customer's charges come on documents of whoever is at the top of its parents."""

import asyncio

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.rehearse_run import rehearse_run
from plans.drafts import CustomerPatch
from plans.family_store import MOVE
from plans.register_customer import change_customer
from tests.billing_world import at, shop, violations
from tests.database.test_work_list_plan import planned

__all__ = ["shop"]

DOCUMENTS = """
SELECT c.key, d.total FROM (
  SELECT customer, billed_at, number, total_minor AS total FROM invoices
  UNION ALL SELECT customer, billed_at, number, -total_minor FROM credit_notes
) d JOIN customers c ON c.id = d.customer ORDER BY d.billed_at, c.key, d.number
"""


async def move(shop, key, **fields):
    async with shop.database.transaction(seller=shop.seller) as connection:
        patch = msgspec.convert(fields, CustomerPatch)
        return await change_customer(connection=connection, reference=key, patch=patch)


async def family(shop):
    """acme above north above depot, each with a subscription from January."""
    await shop.customer("north", parent="acme")
    await shop.customer("depot", parent="north")
    for number, customer in enumerate(("acme", "north", "depot"), start=1):
        await shop.subscribe(f"s{number}", customer, quantities={"seats": str(number)})


async def test_usage_below_is_billed_above_and_late_usage_too(shop, database_url):
    await family(shop)
    await shop.use("depot", at("2026-01-05"), 10)
    await shop.bill(at("2026-02-01"))
    assert await shop.rows(DOCUMENTS) == [("acme", 6 * 31_00), ("acme", 6 * 31_00 + 1_00)]
    await shop.use("depot", at("2026-01-31"), 20)
    told = await rehearse_run(
        database=shop.database, seller=shop.seller, as_of=at("2026-02-03"), portion=1
    )
    assert [(one.customer, one.total) for one in told.first] == [("acme", "2.00")]
    run = await shop.bill(at("2026-02-03"))
    assert (run.documents, run.lines) == (1, 1)
    assert (await shop.rows(DOCUMENTS))[-1] == ("acme", 2_00)
    assert await violations(database_url) == []


async def test_another_parent_holds_for_documents_from_then_on(shop, database_url):
    await family(shop)
    await shop.bill(at("2026-01-01"))
    moved = await move(shop, "north", parent=None)
    assert (moved.parent, moved.bill_to) == (None, moved.id)
    await shop.cancel("s3", now=at("2026-01-16T12:00"))
    await shop.bill(at("2026-02-01"))
    # Half of 3 x 31.00 comes back to who pays now; it reduces nothing of the other's open invoice.
    assert await shop.rows(DOCUMENTS) == [
        ("acme", 6 * 31_00),
        ("north", -46_50),
        ("acme", 31_00),
        ("north", 2 * 31_00),
    ]
    due = await shop.rows("SELECT total_minor, amount_due_minor FROM invoices ORDER BY number")
    assert due == [(186_00, 186_00), (31_00, 31_00), (62_00, 15_50)]
    assert await violations(database_url) == []
    await move(shop, "north", parent="acme")
    await shop.bill(at("2026-03-01"))
    assert (await shop.rows(DOCUMENTS))[-1] == ("acme", 3 * 31_00)


async def test_nobody_is_below_itself(shop):
    await family(shop)
    for key, parent in (("acme", "depot"), ("acme", "acme"), ("north", "depot")):
        with pytest.raises(BillingError) as refused:
            await move(shop, key, parent=parent)
        assert [(each.pointer, each.code) for each in refused.value.errors] == [
            ("/parent", "cycle")
        ]


async def test_who_takes_a_parent_away_and_who_joins_below_take_turns(shop, database_url):
    """Else who joins would be paid for by the one who just stopped paying."""
    await shop.customer("north", parent="acme")
    await shop.customer("depot")
    await shop.subscribe("s1", "depot")
    patch = msgspec.convert({"parent": None}, CustomerPatch)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await change_customer(connection=connection, reference="north", patch=patch)
        joining = asyncio.create_task(move(shop, "depot", parent="north"))
        await waiting_for_a_lock(shop)
        assert not joining.done()
    joined = await joining
    ids = dict(await shop.rows("SELECT key, id FROM customers"))
    assert joined.bill_to == ids["north"]
    assert await shop.one("SELECT bill_key FROM subscriptions") == "north"
    assert await violations(database_url) == []


async def waiting_for_a_lock(shop):
    waiting = (
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND"
        " database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    )
    async with asyncio.timeout(30):
        while not await shop.one(waiting):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_neighbours_who_move_at_once_do_not_wait_for_each_other(shop, database_url):
    for key in ("north", "depot"):
        await shop.customer(key)
        await shop.subscribe(f"s-{key}", key)
    for parents in (("acme", "north"), (None, None)) * 6:
        moves = zip(("north", "depot"), parents, strict=True)
        await asyncio.gather(*(move(shop, key, parent=parent) for key, parent in moves))
    await asyncio.gather(move(shop, "north", parent="acme"), move(shop, "depot", parent="north"))
    keys = "SELECT key, bill_key FROM subscriptions ORDER BY key"
    assert await shop.rows(keys) == [("s-depot", "acme"), ("s-north", "acme")]
    assert await violations(database_url) == []


MANY = """
INSERT INTO customers (seller, id, key, name, emails, tax_ids, party, created_at)
SELECT seller, id || n, key || n, name, emails, tax_ids, party, created_at
FROM customers, generate_series(1, 3000) AS n WHERE key = 'acme'
"""


async def test_whoever_pays_from_now_on_is_found_by_id(shop, superuser):
    await family(shop)
    await superuser.execute(MANY)
    await superuser.execute("ANALYZE customers")
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute("SET ROLE usance_app")
    lines = await planned(superuser, str(MOVE).replace(":customer", "$1"), "cus_x")
    assert any(line.startswith("Index Cond: ") and "id = CASE" in line for line in lines), lines
