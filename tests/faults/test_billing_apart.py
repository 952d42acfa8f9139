"""Who is not alike is derived while its chunk waits: what comes between, and cuts there."""

import asyncio

import asyncpg
import pytest

from engine.db import PATIENT, open_database
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from tests.billing_world import SEATS, at, open_shop, plan
from tests.database.test_alike import ONE_BY_ONE, fill_with_balances
from tests.faults import billing_kills as kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(kills.PATIENCE_SECONDS)]
WHEN = at("2026-01-10")
PORTIONS = Portions(first=6, most=6, segment=7, chunk=3, few=0)
"""The second and the third customer have a balance: they are of the first portion's first chunk."""
DEAR = plan(SEATS | {"unit_amount": "90000000000000000.00"}, key="dear")
TORN = plan(SEATS, key="torn")
OTHER_PRICE = """
UPDATE price_intervals i SET quantity = 2, price = p.id FROM prices p, plans n, subscriptions s
WHERE p.plan = n.id AND n.key = '{}' AND s.id = i.subscription AND s.key = 's02'
  AND i.number = (SELECT min(o.number) FROM price_intervals o WHERE o.subscription = s.id)
"""
ACTS = {
    "another balance in the chunk": "INSERT INTO customer_balances"
    " (seller, customer, currency, amount_minor) SELECT seller, id, 'EUR', 9 FROM customers"
    " WHERE key IN ('c01', 'c08')",
    "facts that documents copy": "UPDATE customers SET po_number = 'PO 9' WHERE key = 'c02'",
    "a subscription": "UPDATE subscriptions SET revision = revision + 1 WHERE key = 's02'",
    "taxes": "INSERT INTO tax_rates (seller, id, key, percentage, inclusive, country, created_at)"
    " VALUES (1, 'txr_1', 'vat', 19, false, 'DE', '2026-01-01')",
    "amounts too large": OTHER_PRICE.format("dear"),
    "a price that nobody can read": OTHER_PRICE.format("torn"),
    "a pause": "UPDATE billing_runs SET status = 'paused'",
}
PARKED = ("amounts too large", "a price that nobody can read")


async def execute(dsn, statement):
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        await raw.execute(statement)
    finally:
        await raw.close()


async def fill(dsn):
    """Twenty alike, of whom four are not quite; the prices are there that somebody may get."""
    await fill_with_balances(dsn)
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish_plan(DEAR)
            await shop.publish_plan(TORN)
    finally:
        await database.close()
    await execute(
        dsn,
        "UPDATE prices SET body = body - 'unit_amount'"
        " WHERE plan = (SELECT id FROM plans WHERE key = 'torn')",
    )


async def bill(dsn, portions, number=None):
    """The run, and its latest report; with `number` it is cut there."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    reports = []
    try:
        with kills.cut_at(database, number):
            run = await run_billing(
                database=database, seller=1, as_of=WHEN, now=WHEN, report=reports.append,
                portions=portions,
            )  # fmt: skip
    finally:
        await database.close()
    return run, reports[-1] if reports else None


@pytest.fixture(scope="module")
def books(cluster):
    """Gives the address of a copy of the books, by name; all are dropped in the end."""
    names = [asyncio.run(cluster.make_clone())]
    asyncio.run(fill(cluster.dsn(names[0])))

    def copy():
        names.append(f"{names[0]}_{len(names)}")
        asyncio.run(kills.copy_database(cluster.admin_dsn, names[0], names[-1]))
        return cluster.dsn(names[-1])

    yield copy
    for name in names:
        asyncio.run(cluster.drop(name))


def assert_same(dsn, wanted):
    found, expected = (asyncio.run(kills.everything(each)) for each in (dsn, wanted))
    assert len(expected["settlements"]) >= 2
    for table, rows in expected.items():
        assert found[table] == rows, table


@pytest.mark.parametrize("act", ACTS)
def test_what_comes_between_gives_the_books_of_who_knew_it_before(books, act):
    """The moment is that in which the run notes whom it derives again."""
    dsn, calm = books(), books()
    asyncio.run(
        execute(
            dsn,
            "CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
            f" $$ BEGIN {ACTS[act]}; RETURN NULL; END $$;"
            " CREATE TRIGGER meanwhile AFTER INSERT ON run_fallbacks"
            " FOR EACH ROW EXECUTE FUNCTION meanwhile()",
        )
    )
    run, _ = asyncio.run(bill(dsn, PORTIONS))
    assert run.fallbacks
    if act == "a pause":
        assert (run.status, run.documents) == ("paused", 0)
        asyncio.run(execute(dsn, "UPDATE billing_runs SET status = 'running'"))
        run, _ = asyncio.run(bill(dsn, PORTIONS))
    else:
        asyncio.run(execute(calm, ACTS[act]))
    wanted, _ = asyncio.run(bill(calm, ONE_BY_ONE))
    assert (run.status, run.parked) == ("finished", wanted.parked)
    assert [each.customer for each in run.parked] == ["c02"] * (act in PARKED)
    assert_same(dsn, calm)


def test_a_run_that_is_cut_at_every_statement_ends_in_the_same_books(books):
    dsn, calm = books(), books()
    at_once = Portions(first=20, chunk=20, few=0, ahead=False)
    number = cuts = 0
    while cuts == number:
        number += 1
        try:
            asyncio.run(bill(dsn, at_once, number))
        except kills.CutError:
            cuts += 1
    assert cuts > 20
    asyncio.run(bill(calm, ONE_BY_ONE))
    assert_same(dsn, calm)
