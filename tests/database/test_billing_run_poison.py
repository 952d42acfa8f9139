"""An account that cannot be billed is set aside with its reason; all others are billed."""

import msgspec
import pytest
from sqlalchemy.exc import DBAPIError

from plans.model import MeterDraft
from plans.publish import publish_meter
from tests.billing_world import METER, OPENED, SEATS, TIERS, at, plan, shop

__all__ = ["shop"]

START = at("2026-01-01")
JANUARY_END = at("2026-02-01")
DEAR = plan(SEATS | {"unit_amount": "90000000000000000.00"}, key="dear")


async def too_dear(shop, superuser):
    await shop.publish_plan(DEAR)
    await shop.subscribe("x1", "c25", plan="dear", quantities={"seats": "2"})


async def too_dear_together(shop, superuser):
    await shop.publish_plan(DEAR)
    for key in ("x1", "x2"):
        await shop.subscribe(key, "c25", plan="dear")


async def too_much_used(shop, superuser):
    cheap = TIERS | {"tiers": [{"unit_amount": "0.000000000001"}]}
    await shop.publish_plan(plan(cheap, key="cheap"))
    await shop.subscribe("x1", "c25", plan="cheap")
    await shop.use("c25", at("2026-01-02"), "900000000000000000")


async def no_column_holds_it(shop, superuser):
    await superuser.execute(
        "CREATE FUNCTION too_wide() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE numeric_value_out_of_range; END $$;"
        " CREATE TRIGGER too_wide BEFORE INSERT ON line_items"
        " FOR EACH ROW WHEN (NEW.quantity = 7) EXECUTE FUNCTION too_wide()"
    )
    await shop.subscribe("x1", "c25", quantities={"seats": "7"})


async def before_all_time(shop, superuser):
    await superuser.execute(
        "DELETE FROM price_intervals WHERE subscription IN (SELECT id FROM"
        " subscriptions WHERE key = 's25')"
    )
    await superuser.execute("DELETE FROM subscriptions WHERE key = 's25'")
    await superuser.execute("UPDATE customers SET timezone = 'America/New_York' WHERE key = 'c25'")
    await shop.subscribe("s25", "c25", starts_at="0001-01-01T00:00:00Z")


async def unreadable(shop, superuser):
    await shop.publish_plan(plan(SEATS, key="torn"))
    await shop.subscribe("x1", "c25", plan="torn")
    await superuser.execute(
        "UPDATE prices SET body = body - 'unit_amount'"
        " WHERE plan = (SELECT id FROM plans WHERE key = 'torn')"
    )


async def charged_by_somebody_else(shop, superuser):
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute(
        "INSERT INTO line_items (id, document, ordinal, subscription, price_interval, price_key,"
        " charge_start_at, sequence, period_start_at, period_end_at, amount_minor, reason)"
        " SELECT 'li_x', 'inv_x', 1, i.subscription, i.id, 'seats', i.start_at, 1, i.start_at,"
        " i.start_at, 1, 'initial' FROM price_intervals i JOIN subscriptions s"
        " ON s.id = i.subscription WHERE s.key = 's25' AND i.number = 1"
    )


POISONS = {
    "amount_out_of_range": too_dear,
    "OverflowError": too_dear_together,
    "quantity_out_of_range": too_much_used,
    "NumericValueOutOfRangeError": no_column_holds_it,
    "ValueError: year": before_all_time,
    "ValidationError": unreadable,
    "UniqueViolationError": charged_by_somebody_else,
}


@pytest.mark.parametrize("reason", POISONS)
async def test_one_of_fifty_accounts_is_parked(shop, superuser, reason):
    for number in range(50):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}")
    await POISONS[reason](shop, superuser)
    run = await shop.bill(JANUARY_END)
    assert [account.customer for account in run.parked] == ["c25"]
    assert reason in run.parked[0].code or reason in run.parked[0].detail
    assert run.status == "finished"
    assert (
        await shop.one(
            "SELECT count(DISTINCT customer) FROM invoices WHERE number LIKE 'INV%'"
            " AND billed_at = :at",
            at=START,
        )
        >= 49
    )
    february = await shop.rows(
        "SELECT c.key FROM invoices i JOIN customers c ON c.id = i.customer"
        " WHERE billed_at = :at ORDER BY i.sequence",
        at=JANUARY_END,
    )
    assert [key for (key,) in february] == [f"c{n:02}" for n in range(50) if n != 25]
    sequences = await shop.rows("SELECT sequence FROM invoices ORDER BY sequence")
    assert [n for (n,) in sequences] == list(range(1, len(sequences) + 1))


DEAR_UNIT = "90000000000000000.00"
USAGE = {"key": "fee", "kind": "usage", "meter": "regional"}
MATRIX = USAGE | {
    "model": "matrix",
    "matrix": [{"match": {"region": "eu"}, "unit_amount": DEAR_UNIT}],
    "unit_amount": "0.01",
}
PER_UNIT = USAGE | {"model": "per_unit", "unit_amount": "0.000000000001"}
PERCENTAGE = USAGE | {"model": "percentage", "rate": "0.000000000001"}


@pytest.mark.parametrize(
    ("price", "used", "code"),
    [
        (PER_UNIT, "999999999999999.999999999", None),
        (PER_UNIT, "1000000000000000", "quantity_out_of_range"),
        (PER_UNIT, "-1000000000000000", "quantity_out_of_range"),
        (PER_UNIT, "-999999999999999.9999999991", "quantity_out_of_range"),
        (PER_UNIT | {"group_by": ["region"]}, "1000000000000000", "quantity_out_of_range"),
        (PERCENTAGE, "500000000000000", "quantity_out_of_range"),
        (PER_UNIT | {"unit_amount": DEAR_UNIT}, "2", "amount_out_of_range"),
        (
            PER_UNIT | {"unit_amount": DEAR_UNIT, "group_by": ["region"]},
            "2",
            "amount_out_of_range",
        ),
        (PERCENTAGE | {"fixed_amount": DEAR_UNIT}, "2", "amount_out_of_range"),
        (MATRIX, "2", "amount_out_of_range"),
    ],
)
async def test_what_is_out_of_range_names_the_price_the_subscription_and_the_period(
    shop, price, used, code
):
    meter = METER | {"key": "regional", "group_by": ["region"]}
    async with shop.database.transaction(seller=shop.seller) as connection:
        draft = msgspec.convert(meter, MeterDraft)
        await publish_meter(connection=connection, draft=draft, now=OPENED, wall_now=OPENED)
    await shop.publish_plan(plan(price, key="odd"))
    await shop.customer("amy")
    await shop.subscribe("plain", "acme")
    await shop.subscribe("x1", "amy", plan="odd")
    for _ in range(2 if price["model"] == "percentage" else 1):
        await shop.use("amy", at("2026-01-02"), used, region="eu")
    run = await shop.bill(JANUARY_END)
    name = "price 'fee' of subscription 'x1', 2026-01-01T00:00:00Z to 2026-02-01T00:00:00Z: "
    assert [(one.customer, one.code) for one in run.parked] == ([("amy", code)] if code else [])
    assert all(one.detail.startswith(name) for one in run.parked)


async def test_a_parked_account_is_tried_again_and_billed_once_it_is_repaired(shop, superuser):
    await shop.publish_plan(DEAR)
    for key, plan_key in (("amy", "dear"), ("bob", "team")):
        await shop.customer(key)
        await shop.subscribe(key, key, plan=plan_key, quantities={"seats": "2"})
    first = await shop.bill(START)
    again = await shop.bill(START)
    assert [run.parked[0].customer for run in (first, again)] == ["amy", "amy"]
    assert (first.documents, again.documents) == (1, 0)
    await superuser.execute("UPDATE price_intervals SET quantity = 1 WHERE quantity = 2")
    repaired = await shop.bill(START)
    assert (repaired.documents, repaired.parked) == (1, ())
    assert await shop.rows("SELECT number, total_minor FROM invoices ORDER BY number") == [
        ("INV-000001", 6200),
        ("INV-000002", 9_000_000_000_000_000_000),
    ]
    assert len((await shop.bill(JANUARY_END)).parked) == 0


async def test_a_database_that_fails_parks_nobody(shop, superuser):
    await shop.subscribe("s1", "acme")
    await superuser.execute("ALTER TABLE outbox RENAME TO outbox_away")
    with pytest.raises(Exception, match="outbox"):
        await shop.bill(START)
    assert await shop.one("SELECT count(*) FROM parked_accounts") == 0
    assert await shop.rows("SELECT status FROM billing_runs") == [("running",)]
    await superuser.execute("ALTER TABLE outbox_away RENAME TO outbox")
    run = await shop.bill(START)
    assert (run.documents, run.status) == (1, "finished")
    assert await shop.one("SELECT count(*) FROM billing_runs") == 1


async def test_a_server_that_ends_the_connection_parks_nobody(shop, superuser):
    await shop.subscribe("s1", "acme")
    await superuser.execute(
        "CREATE FUNCTION vanish() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;"
        " CREATE TRIGGER vanish BEFORE UPDATE ON subscriptions"
        " FOR EACH ROW EXECUTE FUNCTION vanish()"
    )
    with pytest.raises(DBAPIError, match="connection"):
        await shop.bill(START)
    assert await shop.one("SELECT count(*) FROM parked_accounts") == 0
    await superuser.execute("DROP TRIGGER vanish ON subscriptions")
    assert (await shop.bill(START)).documents == 1
