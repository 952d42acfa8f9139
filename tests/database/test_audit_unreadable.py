"""Rows that cannot be read or derived are told by name, and hide nothing else that is wrong."""

import pytest

from engine.db import AUDITOR_ROLE, open_database
from invoicing.audit_all import audit_all
from tests.billing_world import SEATS, TIERS, at, open_shop, plan

CUSTOMERS = ("acme", "birch", "cedar", "dogwood")
FIRST = "(SELECT min(batch) FROM event_batches)"
# Damage behind the guards' back, what is told of it by which check, and of whom.
DAMAGE = [
    (
        f"UPDATE event_measures SET wide = true WHERE batch = {FIRST}",
        {("derived again", "acme"), ("measured again", ""), ("event_measures", "1 ")},
    ),
    (
        f"DELETE FROM event_batches WHERE batch = {FIRST}",
        {("measured again", "tokens batch 2"), ("references", "event_keys")},
    ),
    (
        "UPDATE subscriptions SET currency = 'XYZ' WHERE key = 'birch'",
        {("derived again", "birch")},
    ),
    (
        "UPDATE meters SET aggregation = 'most'",
        {("derived again", "acme"), ("derived again", "dogwood"), ("measured again", "")},
    ),
    (
        (
            "UPDATE parties SET body = jsonb_set(body, '{name}', '\"Nobody\"') WHERE id ="
            " (SELECT party FROM customers WHERE key = 'cedar')"
        ),
        {("parties and logos", "pty_")},
    ),
    (
        "UPDATE parties SET body = '{}' WHERE id = (SELECT party FROM sellers)",
        {("parties and logos", "pty_")},
    ),
    (
        "INSERT INTO logos (seller, id, content) VALUES (1, 'lgo_x', '\\x00')",
        {("parties and logos", "lgo_x")},
    ),
    (
        "UPDATE subscriptions SET next_due_at = NULL WHERE key = 'cedar'",
        {("derived again", "cedar")},
    ),
    (
        "UPDATE subscriptions SET next_due_at = next_due_at + interval '1 second'",
        {("derived again", key) for key in CUSTOMERS},
    ),
]


@pytest.fixture
async def books(database, make_seller):
    """Four customers, a month of each billed, in two batches of usage."""
    async with open_shop(database, await make_seller()) as shop:
        await shop.publish(plan(SEATS, TIERS))
        for key in CUSTOMERS:
            await shop.customer(key)
            await shop.subscribe(key, key)
        await shop.use("acme", at("2026-01-05"), 40)
        await shop.use("birch", at("2026-01-06"), 120)
        await shop.bill(at("2026-02-01"))
        yield shop


async def audited(dsn, *damage):
    """What the audit tells after the damage."""
    database = open_database(dsn=dsn, pool_size=1)
    reader = open_database(dsn=dsn, role=AUDITOR_ROLE, pool_size=2)
    try:
        async with database.engine.begin() as connection:
            await connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for statement in damage:
                await connection.exec_driver_sql(statement)
        return await audit_all(reader=reader, sellers={1: "sel_one"})
    finally:
        await reader.close()
        await database.close()


@pytest.mark.parametrize(("damage", "wanted"), DAMAGE)
async def test_what_cannot_be_read_is_told_and_hides_nothing(
    books, database_url, damage, wanted
) -> None:
    sound = await audited(database_url)
    assert (sound.broken, sound.violations) == ([], 0)
    another = "UPDATE invoices SET subtotal_minor = subtotal_minor + 1 WHERE number = 'INV-000004'"
    found = await audited(database_url, damage, another)
    told = [(each.check, each.object) for each in found.broken]
    assert "invoice_total" in [check for check, _ in told]
    for check, subject in wanted:
        assert [one for one in told if one[0] == check and subject in one[1]], (check, told)
    assert found.violations == len(found.broken)


async def test_others_of_a_page_are_derived_all_the_same(books, database_url) -> None:
    await books.customer("elm")
    await books.subscribe("elm", "elm")
    await books.bill(at("2026-02-02"))
    sound = await audited(database_url)
    damage = "UPDATE subscriptions SET alignment = 'none' WHERE key = 'birch'"
    found = await audited(database_url, damage)
    assert [(each.check, each.object) for each in found.broken] == [("derived again", "birch")]
    assert "cannot be derived" in found.broken[0].detail
    assert 0 < sound.charges - found.charges <= sound.charges // 4
