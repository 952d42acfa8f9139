"""What is derived again at once and one by one finds the same; a single wrong line is told."""

import asyncio
import random
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from engine.db import PATIENT, open_database
from invoicing.rederive import rederive
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, open_shop, plan
from tests.database.test_alike import TOGETHER, bill, fill
from tests.faults import billing_kills as kills

ONE_BY_ONE = 1_000_000_000
MANY = 240
LATER = "sequence = 98, adjusts = id"
OF_LINE = "WHERE id = '{line}'"
DAMAGE = (
    f"UPDATE line_items SET quantity = quantity + 7 {OF_LINE}",
    f"UPDATE line_items SET amount_minor = amount_minor + 1 {OF_LINE}",
    f"DELETE FROM line_items {OF_LINE}",
    f"UPDATE line_items SET charge_group = 'g' {OF_LINE}",
    f"UPDATE line_items SET charge_start_at = charge_start_at + '1 day', {LATER} {OF_LINE}",
    f"UPDATE line_items SET price_interval = '{{other}}', {LATER} {OF_LINE}",
    (
        "INSERT INTO line_items SELECT (jsonb_populate_record(l, jsonb_build_object('id',"
        f" 'li_x{{n}}', 'sequence', 99, 'ordinal', 99, 'adjusts', id))).*"
        f" FROM line_items l {OF_LINE}"
    ),
    (
        "UPDATE invoices SET status = 'void', voided_at = issued_at, paid_at = NULL WHERE id ="
        f" (SELECT document FROM line_items {OF_LINE})"
    ),
    "UPDATE price_intervals SET quantity = quantity + 1 WHERE id = '{other}'",
    "UPDATE subscriptions SET derived_through_at = NULL WHERE id = '{subscription}'",
    (
        "UPDATE subscriptions SET dirty_from_at = derived_through_at - interval '40 days'"
        " WHERE id = '{subscription}'"
    ),
)


@asynccontextmanager
async def planted(dsn, *statements):
    """The auditor's connection to the books of seller 1, changed behind the guards' back."""
    database = open_database(dsn=dsn, waiting=PATIENT)
    try:
        async with database.engine.connect() as connection:
            await connection.begin()
            for statement in (
                "SET LOCAL session_replication_role = replica",
                "SELECT set_config('app.seller', '1', true)",
                *statements,
                "SET LOCAL session_replication_role = origin",
                "SET LOCAL ROLE usance_auditor",
            ):
                await connection.exec_driver_sql(statement)
            yield connection
            await connection.rollback()
    finally:
        await database.close()


async def derived(connection, **how):
    seller = await load_seller(connection=connection)
    return await rederive(connection=connection, seller=seller, **how)


def told(found):
    return found.charges, found.pending, found.differing, set(found.mismatches)


@pytest.fixture(scope="module")
def mixed(cluster):
    """Books of many kinds of agreement, billed through a winter."""
    name = asyncio.run(cluster.make_clone())
    asyncio.run(fill(cluster.dsn(name)))
    asyncio.run(bill(cluster.dsn(name), TOGETHER))
    yield cluster.dsn(name)
    asyncio.run(cluster.drop(name))


LINES = text("""
SELECT l.id, l.subscription FROM line_items l JOIN subscriptions s ON s.id = l.subscription
WHERE l.price_interval IS NOT NULL
ORDER BY s.key, l.price_key, l.charge_start_at, l.charge_group, l.sequence
""")
INTERVALS = text("""
SELECT i.id FROM price_intervals i JOIN subscriptions s ON s.id = i.subscription
ORDER BY s.key, i.number
""")


async def pick(connection, moments):
    """A line, its subscription, and a price interval of another one."""
    line = moments.choice((await connection.execute(LINES)).all())
    other = moments.choice((await connection.execute(INTERVALS)).all())
    return {"line": line.id, "subscription": line.subscription, "other": other.id}


async def test_sound_books_are_sound_both_ways(mixed):
    async with planted(mixed) as connection:
        at_once = await derived(connection, few=0, page=13)
        apart = await derived(connection, few=ONE_BY_ONE, page=29)
    assert told(at_once) == told(apart)
    assert (at_once.mismatches, at_once.differing, apart.together) == ((), 0, 0)
    assert at_once.together > at_once.charges // 3


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_damage_of_any_kind_is_told_alike_both_ways(mixed, seed):
    moments = random.Random(seed)
    async with planted(mixed) as connection:
        chosen = [await pick(connection, moments) for _ in DAMAGE]
    order = moments.sample(DAMAGE, len(DAMAGE))
    for number in range(0, len(DAMAGE), 2):
        damage = [
            statement.format(n=place, **where)
            for place, (statement, where) in enumerate(
                zip(order[number : number + 2], chosen[number : number + 2], strict=True)
            )
        ]
        async with planted(mixed, *damage) as connection:
            at_once = await derived(connection, few=0)
            apart = await derived(connection, few=ONE_BY_ONE)
        assert told(at_once) == told(apart), damage


@pytest.fixture(scope="module")
def many(cluster):
    """Subscriptions that share their terms with eleven others each; one was cancelled."""

    async def fill_many(dsn):
        await kills.open_books(dsn, mode="live")
        database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
        try:
            async with open_shop(database, 1) as shop:
                await shop.publish(plan(SEATS, TIERS))
                await kills.enrol(shop, MANY)
                await kills.use(shop, "first", MANY, at("2026-01-25"), 80)
                await shop.bill(at("2026-02-20"))
                await shop.cancel(
                    "c007", now=at("2026-02-21"), effective=at("2026-02-22").isoformat()
                )
                await shop.bill(at("2026-02-25"))
                await kills.use(shop, "next", MANY, at("2026-02-25"), 50)
        finally:
            await database.close()

    name = asyncio.run(cluster.make_clone())
    asyncio.run(fill_many(cluster.dsn(name)))
    yield cluster.dsn(name)
    asyncio.run(cluster.drop(name))


def line_of(subscription, price, when):
    return (
        "(SELECT l.id FROM line_items l JOIN subscriptions s ON s.id = l.subscription"
        f" WHERE s.key = '{subscription}' AND l.price_key = '{price}'"
        f" AND l.charge_start_at = '{when}Z' AND l.sequence = 1)"
    )


TOO_MANY = (
    "INSERT INTO line_items SELECT (jsonb_populate_record(l, jsonb_build_object('id', 'li_more',"
    " 'ordinal', 9, 'charge_start_at', '{start}'))).* FROM line_items l WHERE id = {line}"
)
SEAT_LINE = line_of("c023", "seats", "2026-01-04")
ZEROS = "decode(repeat('00', octet_length(quantities)), 'hex')"
FIRST_BATCH = "(SELECT min(batch) FROM event_batches)"
WRONG = [
    (
        f"UPDATE line_items SET amount_minor = amount_minor - 1 WHERE id = {SEAT_LINE}",
        ("c023", "seats", "30.99", "31.00"),
    ),
    (
        f"DELETE FROM line_items WHERE id = {line_of('c023', 'tokens', '2026-01-04')}",
        ("c023", "tokens", "0.00", "10.03"),
    ),
    (
        TOO_MANY.format(start="2026-03-04T00:00:00Z", line=SEAT_LINE),
        ("c023", "seats", "31.00", "0.00"),
    ),
    (
        TOO_MANY.format(start="2026-03-08T00:00:00Z", line=line_of("c007", "seats", "2026-01-08")),
        ("c007", "seats", "31.00", "0.00"),
    ),
    (
        f"UPDATE event_measures SET quantities = {ZEROS} WHERE batch = {FIRST_BATCH}",
        None,
    ),
]


TOLD = [
    (f"UPDATE line_items SET quantity = 2 WHERE id = {SEAT_LINE}", "c023 seats 2026-01-04"),
    (
        (
            "UPDATE line_items SET quantity = quantity + 60"
            f" WHERE id = {line_of('c023', 'tokens', '2026-01-04')}"
        ),
        "c023 tokens 2026-01-04",
    ),
]


@pytest.mark.parametrize(("damage", "wanted"), TOLD)
async def test_a_quantity_told_otherwise_is_told(many, damage, wanted):
    async with planted(many, damage) as connection:
        found = await derived(connection)
        again = await derived(connection, few=ONE_BY_ONE)
    assert told(found) == told(again)
    assert [one.object for one in found.mismatches] == [wanted]
    assert "tells a quantity of" in found.mismatches[0].detail


async def test_what_waits_for_the_next_run_is_counted(many):
    async with planted(many) as connection:
        found = await derived(connection)
    assert (found.differing, found.pending) == (0, 0)
    assert found.together > 0.9 * found.charges
    async with planted(many, "UPDATE event_inbox SET again = true") as connection:
        assert told(await derived(connection)) == told(await derived(connection, few=ONE_BY_ONE))


@pytest.mark.parametrize(("damage", "wanted"), WRONG)
async def test_one_wrong_line_among_many_is_told(many, damage, wanted):
    async with planted(many, damage) as connection:
        found = await derived(connection)
        again = await derived(connection, few=ONE_BY_ONE)
    assert told(found) == told(again)
    if wanted is None:
        assert found.differing > MANY // 2
        return
    assert [(one.subscription, one.price, one.posted, one.derived) for one in found.mismatches] == [
        wanted
    ]
