"""What falls due is told beside each subscription, whichever statement moves it."""

import pytest

from tests.books import AT, START, insert
from tests.database.breaking import CHECKED, NOT_PERMITTED, refusal

TOLD = """
SELECT seller, subscription, bill_to, next_due_at::text, key, number, derived_through_at::text
FROM due_instants WHERE seller = 1 ORDER BY subscription
"""
EXPECTED = """
SELECT s.seller, s.id, c.id, s.next_due_at::text, c.key,
  CASE WHEN s.payer IS NULL THEN o.number END, coalesce(s.derived_through_at, s.starts_at)::text
FROM subscriptions s
  JOIN customers c ON c.seller = s.seller AND c.id = coalesce(s.payer, s.customer)
  JOIN customers o ON o.seller = s.seller AND o.id = s.customer
WHERE s.seller = 1 AND s.next_due_at IS NOT NULL ORDER BY s.id
"""
ANOTHER = {
    "customer": "cus_a",
    "plan": "pln_a",
    "currency": "EUR",
    "timezone": "UTC",
    "starts_at": START,
    "anchor_at": START,
    "alignment": "calendar",
    "created_at": START,
}
STATEMENTS = {
    "moved": "UPDATE subscriptions SET next_due_at = next_due_at + interval '1 month'",
    "the same again": "UPDATE subscriptions SET next_due_at = next_due_at",
    "something else": "UPDATE subscriptions SET usage_seen = true",
    "derived": "UPDATE subscriptions SET derived_through_at = now()",
    "derived no more": "UPDATE subscriptions SET derived_through_at = NULL, next_due_at = now()",
    "starts otherwise": "UPDATE subscriptions SET starts_at = now(), derived_through_at = NULL",
    "the same key": "UPDATE subscriptions SET bill_key = bill_key, customer = customer",
    "pays himself": "UPDATE subscriptions SET payer = NULL, bill_key = 'acme'",
    "one ends": "UPDATE subscriptions SET next_due_at = NULL WHERE id = 'sub_b'",
    "one begins": f"UPDATE subscriptions SET next_due_at = '{AT}' WHERE id = 'sub_c'",
    "all at once": (
        "UPDATE subscriptions SET next_due_at = CASE WHEN next_due_at IS NULL THEN now() END"
    ),
    "another pays": (
        "UPDATE subscriptions SET payer = 'cus_z', bill_key = 'zeta' WHERE id <> 'sub_a'"
    ),
    "another customer": (
        "UPDATE subscriptions SET customer = 'cus_b', bill_key = 'beta', customer_number ="
        " (SELECT number FROM customers WHERE id = 'cus_b') WHERE id = 'sub_b'"
    ),
    "both": (
        "UPDATE subscriptions SET payer = 'cus_z', bill_key = 'zeta', next_due_at = now()"
        " WHERE seller = 1"
    ),
    "nothing": "UPDATE subscriptions SET next_due_at = now() WHERE id = 'sub_nobody'",
    "gone": "DELETE FROM subscriptions WHERE id IN ('sub_b', 'sub_c')",
}


async def told(raw):
    return [tuple(row) for row in await raw.fetch(TOLD)]


async def expected(raw):
    return [tuple(row) for row in await raw.fetch(EXPECTED)]


OTHER = {"id": "cus_b", "key": "beta", "name": "Beta", "emails": [], "tax_ids": []}


async def add(raw):
    others = [OTHER, OTHER | {"id": "cus_z", "key": "zeta"}]
    await insert(
        raw, "customers", *(each | {"party": "party_a", "created_at": START} for each in others)
    )
    rows = [
        {"id": "sub_b", "key": "b", "next_due_at": AT, "payer": None},
        {"id": "sub_c", "key": "c", "next_due_at": None, "payer": None},
        {"id": "sub_d", "key": "d", "next_due_at": START, "payer": "cus_z"},
    ]
    await insert(raw, "subscriptions", *(row | ANOTHER for row in rows))


async def test_what_is_inserted_is_told(app):
    before = await told(app)
    await add(app)
    assert await told(app) == await expected(app)
    assert [row[1:3] for row in await told(app) if row not in before] == [
        ("sub_b", "cus_a"),
        ("sub_d", "cus_z"),
    ]


@pytest.mark.parametrize("name", sorted(STATEMENTS))
async def test_what_is_moved_is_told(root, name):
    await root.execute("SELECT set_config('app.seller', '1', true)")
    await add(root)
    await root.execute(STATEMENTS[name])
    assert await told(root) == await expected(root)


@pytest.mark.parametrize(
    "change",
    [
        "payer = NULL",
        "payer = 'cus_b'",
        "bill_key = 'other'",
        "bill_key = 'acme'",
        "customer = 'cus_b'",
        "customer_number = 0",
        "payer = NULL, bill_key = 'beta'",
    ],
)
async def test_whom_it_bills_is_what_its_key_and_number_say(root, change):
    await add(root)
    wrong = await refusal(root, f"UPDATE subscriptions SET {change} WHERE id = 'sub_d'")
    assert wrong == CHECKED


async def test_a_row_that_a_run_moves_is_not_locked_before_it_is_written(root):
    """Any trigger before updates, for each row, would have it locked, and that logged."""
    found = await root.fetch(
        "SELECT tgname FROM pg_trigger WHERE tgrelid = 'subscriptions'::regclass"
        " AND tgtype & 19 = 19 AND NOT tgisinternal"
    )
    assert found == []


async def test_the_loaders_copy_is_told(app):
    await app.execute("SET LOCAL ROLE usance_loader")
    columns = ["id", "key", "customer", "plan", "currency", "timezone", "alignment"]
    await app.execute(
        f"INSERT INTO subscriptions ({', '.join(columns)}, starts_at, anchor_at, next_due_at,"
        f" created_at) VALUES ('sub_l', 'l', 'cus_a', 'pln_a', 'EUR', 'UTC', 'calendar',"
        f" '{START}', '{START}', '{AT}', '{START}')"
    )
    await app.execute("SET LOCAL ROLE usance_app")
    assert ("sub_l", "cus_a") in [row[1:3] for row in await told(app)]
    assert await told(app) == await expected(app)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO due_instants SELECT * FROM due_instants",
        "UPDATE due_instants SET next_due_at = now()",
        "DELETE FROM due_instants",
    ],
)
async def test_nobody_else_writes_it(app, statement):
    assert await refusal(app, statement) == NOT_PERMITTED


async def test_no_index_stands_in_the_way_of_a_row_that_changes_in_place(root):
    """A run writes these columns of every subscription it bills; the partial ones stay empty."""
    found = await root.fetch(
        "SELECT pg_get_indexdef(indexrelid) AS index FROM pg_index"
        " WHERE indrelid = 'subscriptions'::regclass"
    )
    written = ("next_due_at", "derived_through_at", "interim_at", "usage_seen", "revision")
    assert [row["index"] for row in found if any(name in row["index"] for name in written)] == []
