"""The work list of many is read in one go, even where the planner knows nothing of how many."""

import asyncio

import pytest

from engine.db import driver, joined
from invoicing.backtest_store import members_of
from invoicing.posted_columns_store import members_between
from invoicing.work_store import (
    CUSTOMERS,
    DUE,
    JOIN_AT_ONCE,
    LIST_IN_ORDER,
    TERMS,
    Place,
    due_with_terms,
)
from tests.billing_world import at, shop

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
TABLES = ("subscriptions", "due_instants", "customers", "price_intervals")
LIST = (FEBRUARY, [], None, 100, at("2026-01-03"), "acme")
COLLIDING = ("2026-01-05T10:00:00Z", "2026-01-05T11:11:34.967359Z")
"""PostgreSQL's own hash of an instant is the same for both."""


async def forget_statistics(superuser):
    for table in TABLES:
        await superuser.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await superuser.execute(
            f"UPDATE pg_class SET relpages = 0, reltuples = -1 WHERE oid = '{table}'::regclass"
        )


async def planned(superuser, query, *parameters):
    rows = await superuser.fetch("EXPLAIN (COSTS OFF) " + query, *parameters)
    return [row[0].strip() for row in rows]


async def list_due(shop, *, limit, after=None):
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        due, goes_on = await due_with_terms(
            connection=connection,
            due_by=at("2026-02-20"),
            limit=limit,
            parked=[],
            customers=None,
            after=after,
        )
    return due, goes_on


async def test_a_list_of_many_compares_no_customer_with_each_other(shop, superuser):
    await shop.subscribe("s", "acme")
    await forget_statistics(superuser)
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute("SET ROLE usance_app")
    async with superuser.transaction():
        await superuser.execute(LIST_IN_ORDER)
        due = await planned(superuser, DUE, *LIST)
    assert not any("Nested Loop" in line or "Sort" in line for line in due)
    # What is due up to the place, and all that is due beyond the limit, is not even looked at.
    (condition,) = (line for line in due if line.startswith("Index Cond: "))
    assert "ROW(next_due_at, key) > ROW(" in condition


@pytest.mark.parametrize("settings", [LIST_IN_ORDER, JOIN_AT_ONCE])
@pytest.mark.parametrize("count", [1, 5, 100_000])
@pytest.mark.parametrize("is_stale", [True, False])
async def test_what_is_named_is_read_by_index_and_joined_at_once(
    shop, superuser, settings, count, is_stale
):
    await shop.subscribe("s", "acme")
    if is_stale:
        await forget_statistics(superuser)
    else:
        await superuser.execute("ANALYZE subscriptions, customers, price_intervals")
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute("SET ROLE usance_app")
    subscriptions, customers = (
        joined([f"{prefix}_{number:06}" for number in range(count)]) for prefix in ("sub", "cus")
    )
    async with superuser.transaction():
        await superuser.execute(settings)
        copied = await planned(superuser, CUSTOMERS, customers)
        terms = await planned(superuser, TERMS, subscriptions, customers)
    told = [line for line in copied + terms if "= ANY (" in line]
    assert [line.partition(":")[0] for line in told] == ["Index Cond"] * 4
    # The planner weighs no element of what it does not see.
    assert all("cus_" not in line and "sub_" not in line for line in told)
    assert not any("Nested Loop" in line for line in terms)


def test_an_id_that_would_be_two_is_refused():
    assert (joined([]), joined(["cus_1", "cus_2"])) == ("", "cus_1,cus_2")
    with pytest.raises(ValueError, match="comma"):
        joined(["cus_1,2"])


async def test_the_transaction_joins_as_before_afterwards(shop, superuser):
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute(
        "INSERT INTO due_instants SELECT $1, $2, 'sub_' || n, 'cus_' || n, 'c' || n, n, $2"
        " FROM generate_series(1, 5002) n",
        shop.seller,
        FEBRUARY,
    )
    await shop.subscribe("s", "acme", starts_at="2026-01-01T00:00:00Z")
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        due, _ = await due_with_terms(
            connection=connection, due_by=FEBRUARY, limit=10, parked=[], customers=None
        )
        joins = await connection.exec_driver_sql("SHOW enable_nestloop")
        plans = await connection.exec_driver_sql("SHOW plan_cache_mode")
        assert [each.key for each in due] == ["acme"]
        assert (joins.scalar_one(), plans.scalar_one()) == ("on", "auto")


async def test_the_terms_of_few_are_joined_at_once_too(shop):
    """Looked up one by one, each would be compared with all that is named."""
    await shop.subscribe("s", "acme", starts_at="2026-01-01T00:00:00Z")
    told = []
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        raw = await driver(connection)
        with raw.query_logger(lambda record: told.append(record.query)):
            due, _ = await due_with_terms(
                connection=connection, due_by=FEBRUARY, limit=10, parked=[], customers=None
            )
            await asyncio.sleep(0)
        joins = await connection.exec_driver_sql("SHOW enable_nestloop")
        assert joins.scalar_one() == "on"
    assert [each.terms is None for each in due] == [False]
    place = told.index(TERMS)
    assert LIST_IN_ORDER in told[:place]


async def test_terms_differ_where_only_the_hashes_of_instants_are_the_same(shop, superuser):
    assert await superuser.fetchval(
        "SELECT timestamptz_hash_extended($1::text::timestamptz, 1)"
        " = timestamptz_hash_extended($2::text::timestamptz, 1)",
        *COLLIDING,
    )
    for number, starts_at in enumerate((*COLLIDING, COLLIDING[0])):
        await shop.customer(f"c{number}")
        await shop.subscribe(f"t{number}", f"c{number}", starts_at=starts_at)
    due, _ = await list_due(shop, limit=10)
    terms = {each.key: each.terms for each in due}
    assert None not in terms.values()
    assert terms["c0"] == terms["c2"]
    assert terms["c0"] != terms["c1"]
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        customers = [each.customer for each in due]
        tried = await members_of(connection=connection, customers=customers, before=FEBRUARY)
        audited = await members_between(connection=connection, after=0, last=10)
    for members in (sorted(tried, key=lambda each: each.key), audited):
        one, other, same = (each.terms for each in members)
        assert one == same
        assert one != other


async def test_who_is_due_before_the_place_is_not_due_again_beyond_it(shop):
    for key, starts in {"a": "05", "b": "06", "c": "07"}.items():
        await shop.customer(key)
        await shop.subscribe(f"{key}1", key, starts_at=f"2026-01-{starts}T00:00:00Z")
    await shop.subscribe("a2", "a", starts_at="2026-01-06T00:00:00Z")
    place = Place(due_at=at("2026-01-05"), key="a")
    due, goes_on = await list_due(shop, limit=2, after=place)
    assert ([each.key for each in due], goes_on) == (["b"], True)
    # The first so many may all have been due before: then those after them are looked at.
    due, goes_on = await list_due(shop, limit=1, after=place)
    assert ([each.key for each in due], goes_on) == (["b"], True)
    due, goes_on = await list_due(shop, limit=1, after=Place(due_at=at("2026-01-07"), key="c"))
    assert (due, goes_on) == ([], False)


async def test_who_is_due_twice_is_listed_once_when_first_due(shop):
    await shop.customer("a")
    for key, starts in {"a1": "06", "a2": "05", "a3": "05"}.items():
        await shop.subscribe(key, "a", starts_at=f"2026-01-{starts}T00:00:00Z")
    due, goes_on = await list_due(shop, limit=10)
    assert [(each.key, each.due_at) for each in due] == [("a", at("2026-01-05"))]
    assert not goes_on
    assert due[0].terms is None


async def test_only_who_is_in_no_group_and_pays_for_nobody_else_is_told_by_its_terms(
    shop, superuser
):
    for day, key in enumerate(("alone", "grouped", "paying", "paid"), 5):
        await shop.customer(key)
        await shop.subscribe(f"{key}1", key, starts_at=f"2026-01-{day:02}T00:00:00Z")
    await superuser.execute("UPDATE customers SET invoice_group = 'g' WHERE key = 'grouped'")
    payer = await superuser.fetchval("SELECT id FROM customers WHERE key = 'paying'")
    await superuser.execute(
        "UPDATE subscriptions SET payer = $1, bill_key = 'paying' WHERE key = 'paid1'", payer
    )
    due, _ = await list_due(shop, limit=10)
    told = {each.key: (each.contract, each.terms is None) for each in due}
    assert told == {
        "alone": ("alone1", False),
        "grouped": (None, True),
        "paying": (None, True),
    }
