"""Moving subscriptions to another version of their plan: whom it takes, and what it moves."""

import contextlib

import asyncpg
import msgspec
import pytest

from engine.errors import BillingError
from engine.money import parse_amount
from invoicing.migrate_plan import CHUNK, migrate_plan
from invoicing.migration import MigrationDraft
from invoicing.rederive import rederive
from metering.intake import read_events
from plans.drafts import PlanVersionDraft
from plans.publish import publish_version
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, open_shop, plan, shop, violations

__all__ = ["shop"]

NOW = at("2026-01-15T12:00")
DEARER = SEATS | {"unit_amount": "37.50"}
CHEAPER = TIERS | {"tiers": [{"up_to": None, "unit_amount": "0.033"}]}
ROWS = "SELECT (SELECT count(*) FROM subscription_changes), (SELECT count(*) FROM price_intervals)"


async def publish(shop, *prices, **fields):
    draft = msgspec.convert({"prices": list(prices)} | fields, PlanVersionDraft)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await publish_version(
            connection=connection, reference="team", draft=draft, now=NOW, wall_now=NOW
        )


async def migrate(shop, *, now=NOW, chunk=7, **fields):
    draft = msgspec.convert({"to_version": 2} | fields, MigrationDraft)
    return await migrate_plan(
        database=shop.database,
        seller=shop.seller,
        reference="team",
        draft=draft,
        now=now,
        wall_now=now,
        chunk=chunk,
    )


async def wrong(shop):
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        seller = await load_seller(connection=connection)
        return (await rederive(connection=connection, seller=seller)).mismatches


def counts(found):
    return found.moved, found.unchanged, found.refused


async def test_each_is_moved_once_and_keeps_what_is_its_own(shop):
    await shop.subscribe("s1", "acme", quantities={"seats": "3"})
    own = {"seats": {"unit_amount": "20.00"}}
    await shop.subscribe("s2", "acme", quantities={"seats": "2"}, overrides=own)
    await shop.subscribe("s3", "acme", now=at("2026-01-02"), starts_at="2026-02-10T00:00:00Z")
    await shop.bill(at("2026-01-01"))
    await publish(shop, DEARER, CHEAPER)
    await shop.subscribe("s4", "acme", now=NOW)
    assert counts(await migrate(shop, effective="period_end")) == (3, 0, 0)
    assert counts(await migrate(shop, effective="period_end")) == (0, 3, 0)
    await shop.use("acme", at("2026-02-03"), 100)
    await shop.bill(at("2026-02-01"))
    await shop.bill(at("2026-03-01"))
    assert await shop.rows(
        "SELECT s.key, l.price_key, l.period_start_at, l.amount_minor FROM line_items l"
        " JOIN subscriptions s ON s.id = l.subscription"
        " WHERE l.period_start_at >= '2026-02-01' AND l.period_start_at < '2026-03-01'"
        " AND s.key <> 's4' ORDER BY 1, 2"
    ) == [
        ("s1", "seats", at("2026-02-01"), 11_250),
        ("s1", "tokens", at("2026-02-01"), 330),
        ("s2", "seats", at("2026-02-01"), 4_000),
        ("s2", "tokens", at("2026-02-01"), 330),
        ("s3", "seats", at("2026-02-10"), 3_100),
    ]
    assert await wrong(shop) == ()


async def test_one_that_cannot_be_moved_is_told_and_harms_no_other(shop):
    for number in range(10):
        await shop.subscribe(f"s{number}", "acme")
    await shop.subscribe("calendar", "acme", alignment="calendar")
    await shop.subscribe("over", "acme")
    await shop.cancel("over", now=at("2026-01-05"))
    await shop.cancel("s4", now=NOW, effective="period_end")
    await publish(shop, SEATS, TIERS | {"interval": {"unit": "month", "count": 2}})
    before = await shop.rows(ROWS)
    dry = await migrate(shop, effective="period_end", dry_run=True)
    assert await shop.rows(ROWS) == before
    real = await migrate(shop, effective="period_end")
    assert msgspec.structs.replace(dry, dry_run=False, money=None) == real
    assert counts(real) == (9, 0, 2)
    assert {(one.subscription, one.customer, one.code) for one in real.not_moved} == {
        ("s4", "acme", "subscription_over"),
        ("calendar", "acme", "invalid_body"),
    }
    (moved,) = await shop.rows(
        "SELECT count(*), count(DISTINCT subscription) FROM subscription_changes"
    )
    assert moved == (9, 9)


async def test_a_row_that_the_database_refuses_harms_no_other(shop, superuser):
    for number in range(9):
        await shop.subscribe(f"s{number}", "acme")
    await publish(shop, DEARER, CHEAPER)
    spoilt = await shop.one("SELECT id FROM subscriptions WHERE key = 's3'")
    await superuser.execute(
        "ALTER TABLE price_intervals ADD CONSTRAINT spoilt"
        f" CHECK (number < 3 OR subscription <> '{spoilt}') NOT VALID"
    )
    found = await migrate(shop)
    assert counts(found) == (8, 0, 1)
    assert [(one.subscription, one.code) for one in found.not_moved] == [("s3", "impossible")]
    await superuser.execute("ALTER TABLE price_intervals DROP CONSTRAINT spoilt")
    assert counts(await migrate(shop)) == (1, 8, 0)


async def test_a_cohort_alone_is_moved(shop):
    await shop.customer("beta")
    await shop.subscribe("s1", "acme")
    await shop.subscribe("s2", "beta")
    await publish(shop, DEARER, CHEAPER)
    with pytest.raises(BillingError) as refused:
        await migrate(shop, customers=["beta", "nobody", "nowhere"])
    assert [error.pointer for error in refused.value.errors] == ["/customers/1", "/customers/2"]
    assert counts(await migrate(shop, customers=["beta"])) == (1, 0, 0)
    assert counts(await migrate(shop, customers=[])) == (0, 0, 0)
    assert counts(await migrate(shop)) == (1, 1, 0)


async def test_whoever_is_on_a_newer_version_or_another_plan_stays(shop):
    await shop.publish_plan(plan(SEATS, TIERS, key="other"))
    await shop.subscribe("s1", "acme")
    await shop.subscribe("s2", "acme")
    await publish(shop, DEARER, CHEAPER)
    await publish(shop, SEATS, CHEAPER)
    await shop.change("s1", now=at("2026-01-10"), plan="team", plan_version=3)
    await shop.change("s2", now=at("2026-01-10"), plan="other")
    assert counts(await migrate(shop)) == (0, 2, 0)
    for fields, code in (
        ({"to_version": 4}, "unknown_version"),
        ({"effective": "soon"}, "invalid"),
    ):
        with pytest.raises(BillingError) as refused:
            await migrate(shop, **fields)
        assert [error.code for error in refused.value.errors] == [code]


async def world(shop, dsn, copies):
    """Twenty customers begun on different days, some changed, and copies of each; all billed."""
    await shop.publish(plan(SEATS, TIERS))
    for number in range(20):
        key = f"c{number:02}-"
        await shop.customer(key)
        starts_at = at(f"2026-01-{number % 14 + 1:02}")
        quantities = {"seats": f"{number % 5 + 1}.{number}"}
        await shop.subscribe(key, key, starts_at=starts_at.isoformat(), quantities=quantities)
        if number % 4 == 0:
            await shop.change(
                key, now=starts_at, quantities={"seats": "7.7"}, effective="2026-01-20T07:00:00Z"
            )
        if number % 7 == 0:
            await shop.cancel(key, now=starts_at, effective="2026-01-28T09:30:00Z")
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        await multiply(raw, shop.seller, copies)
    finally:
        await raw.close()
    events = [
        {
            "id": f"e{number}",
            "type": "call",
            "subject": f"c{number % 20:02}-{number % copies or ''}",
            "time": at(f"2026-01-{number % 5 + 10:02}").isoformat(),
            "data": {"tokens": number * 3},
        }
        for number in range(500)
    ]
    intake = read_events(msgspec.json.encode(events), lines=False)
    answer = await shop.ingester.submit(seller=shop.seller, intake=intake, now=NOW)
    assert answer.accepted == 500
    await shop.bill(at("2026-01-15"))


async def multiply(raw, seller, copies):
    """Rows of every template again under other ids and keys."""
    named = {
        "customers": {"id": "id", "key": "key"},
        "subscriptions": {"id": "id", "key": "key", "customer": "customer"},
        "price_intervals": {"id": "id", "subscription": "subscription"},
        "subscription_changes": {"id": "id", "subscription": "subscription"},
    }
    for table, columns in named.items():
        fields = ", ".join(f"'{name}', r.{name} || n" for name in columns)
        if table == "customers":
            fields += ", 'number', 1000000 * r.seller + row_number() OVER ()"
        await raw.execute(
            f"INSERT INTO {table} OVERRIDING SYSTEM VALUE"
            f" SELECT (jsonb_populate_record(r, jsonb_build_object({fields}))).*"
            f" FROM {table} r, generate_series(1, $2::integer - 1) n WHERE r.seller = $1",
            seller,
            copies,
        )


async def posted(shop, not_moved):
    """Minor units of all lines but those of the subscriptions named."""
    return await shop.one(
        "SELECT coalesce(sum(l.amount_minor), 0) FROM line_items l"
        " JOIN subscriptions s ON s.id = l.subscription WHERE s.key <> ALL(:not_moved)",
        not_moved=not_moved,
    )


async def billed(shop, not_moved):
    """Minor units that the next weeks add, but for the subscriptions named."""
    earlier = await posted(shop, not_moved)
    await shop.bill(at("2026-02-14T23:00"))
    return await posted(shop, not_moved) - earlier


def minor(text):
    return parse_amount(text, currency="EUR")


@pytest.mark.parametrize("effective", ["now", "period_end", "2026-01-25T00:00:00Z"])
async def test_a_dry_run_tells_the_money_to_the_cent(
    database, database_url, make_seller, effective
):
    """Of two sellers alike one migrates; both are billed up to where the move counts for all."""
    async with contextlib.AsyncExitStack() as stack:
        moving, staying = [
            await stack.enter_async_context(open_shop(database, await make_seller()))
            for _ in range(2)
        ]
        for one in (moving, staying):
            await world(one, database_url, 3)
            await publish(one, DEARER, CHEAPER)
        dry = await migrate(moving, effective=effective, dry_run=True)
        real = await migrate(moving, effective=effective)
        stayed = [one.subscription for one in real.not_moved]
        assert msgspec.structs.replace(dry, dry_run=False, money=None) == real
        assert (real.moved + real.refused, len(stayed)) == (60, real.refused)
        (told,) = dry.money
        before, after = await billed(staying, stayed), await billed(moving, stayed)
        assert (minor(told.before), minor(told.after)) == (before, after)
        assert minor(told.difference) == after - before != 0
        assert await wrong(moving) == ()
        assert await violations(database_url) == []


@pytest.mark.slow
async def test_ten_thousand_are_moved_as_the_dry_run_said(database, database_url, make_seller):
    async with open_shop(database, await make_seller()) as shop:
        await world(shop, database_url, 500)
        await publish(shop, DEARER, CHEAPER)
        dry = await migrate(shop, dry_run=True)
        real = await migrate(shop, chunk=CHUNK)
        assert msgspec.structs.replace(dry, dry_run=False, money=None) == real
        assert counts(real) == (10_000, 0, 0)
        assert minor(dry.money[0].after) == await billed(shop, [])


async def test_one_that_begins_after_the_instant_begins_with_the_version(shop):
    await shop.subscribe("s1", "acme", now=NOW, starts_at="2026-03-01T00:00:00Z")
    await publish(shop, DEARER, CHEAPER)
    when = "2026-02-05T00:00:00Z"
    assert counts(await migrate(shop, effective=when, dry_run=True)) == (1, 0, 0)
    assert counts(await migrate(shop, effective=when)) == (1, 0, 0)
    assert counts(await migrate(shop, effective=when)) == (0, 1, 0)
    await shop.bill(at("2026-03-01"))
    rows = await shop.rows("SELECT price_key, amount_minor FROM line_items")
    assert rows == [("seats", 3_750)]
