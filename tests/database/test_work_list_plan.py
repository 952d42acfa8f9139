"""The work list of many is read in one go, even where the planner knows nothing of how many."""

import asyncio

from engine.db import driver
from invoicing.work_store import DUE, JOIN_AT_ONCE, TERMS, due_with_terms
from tests.billing_world import at, shop

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
TABLES = ("subscriptions", "due_instants", "customers", "price_intervals")
LIST = (FEBRUARY, [], None, 100, None, None)


async def forget_statistics(superuser):
    for table in TABLES:
        await superuser.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        await superuser.execute(
            f"UPDATE pg_class SET relpages = 0, reltuples = -1 WHERE oid = '{table}'::regclass"
        )


async def planned(superuser, query, *parameters):
    rows = await superuser.fetch("EXPLAIN (COSTS OFF) " + query, *parameters)
    return [row[0].strip() for row in rows]


async def test_a_list_of_many_compares_no_customer_with_each_other(shop, superuser):
    await shop.subscribe("s", "acme")
    await forget_statistics(superuser)
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute("SET ROLE usance_app")
    async with superuser.transaction():
        await superuser.execute(JOIN_AT_ONCE)
        due = await planned(superuser, DUE, *LIST)
        terms = await planned(superuser, TERMS, ["sub_1"], ["cus_1"])
    assert not any("Nested Loop" in line for line in due)
    # What makes a record of each row is written as a loop of one round, here and in the intervals.
    assert sum("Nested Loop" in line for line in terms) == sum(
        line.endswith("Result") for line in terms
    )


async def test_the_transaction_joins_as_before_afterwards(shop, superuser):
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute(
        "INSERT INTO due_instants SELECT $1, $2, 'sub_' || n, 'cus_' || n, 'c' || n"
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
    assert JOIN_AT_ONCE in told[:place]
