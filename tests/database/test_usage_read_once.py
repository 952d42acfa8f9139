"""A run reads its usage once: the same books as when each portion reads it, and nothing old."""

import asyncio
from collections import Counter
from datetime import timedelta

import msgspec
import numpy as np
import pytest

from engine.db import PATIENT, open_database
from invoicing import expect_usage
from invoicing.expected_usage_store import EXPECTED, list_expected
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from invoicing.sweep_usage import sweep_usage
from invoicing.work_store import LIST_IN_ORDER, Place
from metering import block_store, kept_usage
from metering.intake import micros_of
from metering.kept_usage import KeptUsage
from metering.measure import measure
from metering.model import Windows
from plans.model import MeterDraft
from plans.publish import publish_meter
from plans.store import meters_by_key
from tests.billing_world import OPENED, SEATS, TIERS, at, open_shop, plan, shop, violations
from tests.database.test_derive_ahead import CUSTOMERS, SMALL, bill, fill
from tests.database.test_work_list_plan import forget_statistics, planned
from tests.faults import billing_kills as kills

__all__ = ["shop"]

JANUARY, FEBRUARY = at("2026-01-01"), at("2026-02-01")
WIDE = "100000000000000.000000000001"
"""26 digits, and less than what a line may hold."""
METERS = (
    {"key": "calls", "aggregation": "count"},
    {"key": "peak", "aggregation": "max", "value": "tokens"},
    {"key": "last", "aggregation": "latest", "value": "tokens"},
    {"key": "level", "aggregation": "weighted_sum", "value": "tokens"},
    {"key": "hosts", "aggregation": "unique_count", "unique_by": "host"},
    {"key": "punctual", "aggregation": "sum", "value": "tokens", "late_usage": "ignore"},
)
USAGE = {"kind": "usage", "model": "per_unit", "unit_amount": "0.013"}
PRICES = [{"key": each["key"], "meter": each["key"]} | USAGE for each in METERS]
QUARTERLY = {"interval": {"unit": "month", "count": 3}}
PLANS = (
    plan(SEATS, TIERS),
    plan(SEATS, TIERS, *PRICES[:3], key="many"),
    plan(SEATS, *PRICES[2:], key="odd"),
    plan(SEATS, PRICES[1], PRICES[1] | {"key": "twice"}, key="twice"),
    plan(SEATS, TIERS, key="quarterly", **QUARTERLY),
)
OPTIONS = ({}, {"plan": "many"}, {}, {"plan": "odd"}, {"plan": "twice"}, {"plan": "quarterly"})
PERSONS = 60
EACH = Portions(first=7, most=14, chunk=5, segment=9, few=0, expected=0)
"""Usage is read for each portion."""
ONCE = msgspec.structs.replace(EACH, expected=500)
SCANTY = msgspec.structs.replace(EACH, expected=20)
RUNS = ("2026-02-02", "2026-02-12", "2026-05-03")
"""The last catches up on several periods."""


async def open_meters(shop):
    """All of the meters."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        for body in METERS:
            draft = msgspec.convert({"event_type": "call"} | body, MeterDraft)
            await publish_meter(connection=connection, draft=draft, now=OPENED, wall_now=OPENED)


async def stock(dsn):
    """Customers of several plans, whose usage is early, late, wide, or of many digits."""
    await kills.open_books(dsn, mode="live", timezone="Europe/Berlin")
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(PLANS[0])
            await open_meters(shop)
            for each in PLANS[1:]:
                await shop.publish_plan(each)
            for number in range(PERSONS):
                key, start = f"c{number:03}", at(f"2026-01-{number % 9 + 1:02}")
                await shop.customer(key)
                fields = {"starts_at": start.isoformat()} | OPTIONS[number % len(OPTIONS)]
                await shop.subscribe(key, key, **fields)
                if number % 13 == 12:
                    await shop.subscribe(f"{key}-more", key, **fields)
                for day in (0, 20, 31, 45, 80):
                    tokens = WIDE if number % 20 == 19 else f"{number}.{day}"
                    await shop.use(key, start + timedelta(days=day), tokens, host=f"h{day % 3}")
            await shop.bill(at("2026-01-10"), portions=EACH)
            await shop.change("c006", now=at("2026-01-20"), quantities={"seats": "3"})
            await shop.change("c012", now=at("2026-01-20"), plan="many", effective="now")
            await shop.cancel("c018", now=at("2026-01-20"), effective=at("2026-01-25").isoformat())
            await shop.cancel("c024", now=at("2026-01-20"), effective=at("2026-03-25").isoformat())
            await shop.use("c030", at("2026-01-09"), 5)
    finally:
        await database.close()


async def run(dsn, portions):
    """Bill through the spring; how many customers were derived together by each run."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    together = []
    try:
        for when in RUNS:
            reports = []
            instants = {"as_of": at(when), "now": at(when)}
            await run_billing(
                database=database, seller=1, portions=portions, report=reports.append, **instants
            )
            together.append(reports[-1].together)
            async with open_shop(database, 1) as shop:
                await kills.use(shop, when, PERSONS // 2, at("2026-01-15"), 3)
    finally:
        await database.close()
    return together


@pytest.fixture(scope="module")
def books(cluster):
    """The address of the books, and a function that copies them."""
    source = asyncio.run(cluster.make_clone())
    asyncio.run(stock(cluster.dsn(source)))
    made = [source]

    def copy():
        made.append(f"{source}_{len(made)}")
        asyncio.run(kills.copy_database(cluster.admin_dsn, source, made[-1]))
        return cluster.dsn(made[-1])

    yield copy
    for name in made:
        asyncio.run(cluster.drop(name))


@pytest.fixture(scope="module")
def wanted(books):
    """What is in the books where each portion reads its usage."""
    dsn = books()
    together = asyncio.run(run(dsn, EACH))
    found = asyncio.run(kills.everything(dsn))
    assert len(found["invoices"]) > 3 * PERSONS
    assert not found["parked_accounts"]
    return together, found


def right(*columns):
    return columns


def late(customer, start, end):
    return customer, start + np.where(customer % 3 == 0, 3_600_000_000, 0), end


def other(customer, start, end):
    return customer + 1, start, end


def overlapping(customer, start, end):
    return np.repeat(customer, 2), np.repeat(start, 2) - [1, 0] * len(start), np.repeat(end, 2)


@pytest.mark.parametrize(
    ("portions", "told"),
    [(ONCE, right), (SCANTY, right), (ONCE, late), (SCANTY, other), (ONCE, overlapping)],
    ids=["once", "scanty", "late", "other", "overlapping"],
)
def test_the_books_are_the_same(books, wanted, monkeypatch, portions, told):
    lists = []

    async def listed(**options):
        columns = await list_expected(**options)
        lists.append((options["limit"], len(columns[0])))
        return told(*columns)

    monkeypatch.setattr(expect_usage, "list_expected", listed)
    dsn = books()
    together = asyncio.run(run(dsn, portions))
    assert all(mine >= its for mine, its in zip(together, wanted[0], strict=True))
    assert lists
    assert all(limit == portions.expected >= length for limit, length in lists)
    if portions is SCANTY:
        assert max(length for _, length in lists) > SCANTY.most
        assert len(lists) > 2 * len(RUNS)
    found = asyncio.run(kills.everything(dsn))
    for table, rows in wanted[1].items():
        assert found[table] == rows, table
    assert asyncio.run(violations(dsn)) == []


class Readings:
    """Which meters (numbers) are read, in order."""

    def __init__(self, monkeypatch, cut=None):
        self.meters, self.cut = [], cut
        stream = block_store.stream_blocks

        async def counted(**options):
            self.meters.append(options["meter"].number)
            async for block in stream(**options):
                yield block
                if len(self.meters) == self.cut:
                    raise kills.CutError

        monkeypatch.setattr(block_store, "stream_blocks", counted)


@pytest.mark.parametrize(
    ("expected", "most_sums", "readings"),
    [(500, 500, 1), (0, 500, 3), (6, 500, 3), (12, 500, 2), (500, 12, 2)],
)
async def test_later_portions_read_no_usage(shop, monkeypatch, expected, most_sums, readings):
    monkeypatch.setattr(kept_usage, "MOST_SUMS", most_sums)
    monkeypatch.setattr(expect_usage, "LEAST", 0)
    await fill(shop)
    seen = Readings(monkeypatch)
    portions = msgspec.structs.replace(SMALL, expected=expected)
    done = await shop.bill(FEBRUARY, portions=portions, pending=False)
    assert done.documents == CUSTOMERS
    assert len(seen.meters) == readings


@pytest.mark.parametrize(
    ("least", "readings"),
    [(0, [2, 2, 2, 2]), (500, [1, 1, 6, 6]), (15, [2, 2, 2, 6])],
)
async def test_no_more_are_expected_than_there_is_room_for_of_every_meter(
    shop, monkeypatch, least, readings
):
    """Of four meters 48 sums: of 12 customers of 18, or of so many at least."""
    monkeypatch.setattr(kept_usage, "MOST_SUMS", 48)
    monkeypatch.setattr(expect_usage, "LEAST", least)
    await open_meters(shop)
    await shop.publish_plan(plan(SEATS, TIERS, *PRICES[:3], key="many"))
    for number in range(CUSTOMERS):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}", plan="many")
    await shop.bill(at("2026-01-01"))
    for number in range(CUSTOMERS):
        await shop.use(f"c{number:02}", at("2026-01-20"), number + 1)
    seen = Readings(monkeypatch)
    portions = msgspec.structs.replace(SMALL, first=3, most=3, expected=500)
    done = await shop.bill(FEBRUARY, portions=portions, pending=False)
    assert (done.documents, done.lines) == (CUSTOMERS, 5 * CUSTOMERS)
    assert sorted(Counter(seen.meters).values()) == readings


async def test_a_run_of_one_portion_foresees_nothing(shop, monkeypatch):
    await fill(shop)

    async def listed(**options):
        raise AssertionError(options)

    monkeypatch.setattr(expect_usage, "list_expected", listed)
    size = msgspec.structs.replace(SMALL, first=CUSTOMERS + 1, most=CUSTOMERS + 1)
    assert (await shop.bill(FEBRUARY, portions=size)).documents == CUSTOMERS
    await fill_more(shop)
    who = [each for (each,) in await shop.rows("SELECT id FROM customers")]
    assert (await shop.bill(at("2026-03-01"), portions=SMALL, customers=who)).documents


async def fill_more(shop):
    for number in range(CUSTOMERS):
        await shop.use(f"c{number:02}", at("2026-02-20"), 1)


@pytest.mark.parametrize("ahead", [True, False])
async def test_what_was_read_before_a_sweep_is_read_again(
    shop, superuser, database_url, monkeypatch, ahead
):
    """It takes off the inbox what no sum has, and touches nobody who is not billed yet."""
    seen = Readings(monkeypatch)

    async def swept(shop, connection, run):
        del run
        await shop.use("c09", at("2026-01-22"), 1000)
        await shop.use("c17", at("2026-01-22"), 2000)
        await sweep_usage(connection=connection)

    await bill(shop, superuser, swept, ahead=ahead)
    told = await shop.rows(
        "SELECT c.key, l.quantity FROM line_items l JOIN invoices i ON i.id = l.document"
        " JOIN customers c ON c.id = i.customer"
        " WHERE l.price_key = 'tokens' AND c.key IN ('c08', 'c09', 'c17') ORDER BY c.key"
    )
    assert [(key, int(quantity)) for key, quantity in told] == [
        ("c08", 81),
        ("c09", 1091),
        ("c17", 2171),
    ]
    assert len(seen.meters) == 2
    assert await violations(database_url) == []


def asked(meters, lines):
    """Windows of (meter, customer, start, end)."""
    columns = list(zip(*lines, strict=True))
    return Windows(
        meter=np.array([meters[each].number for each in columns[0]], dtype=np.int32),
        customer=np.array(columns[1], dtype=np.int64),
        start_micros=np.array([micros_of(each) for each in columns[2]], dtype=np.int64),
        end_micros=np.array([micros_of(each) for each in columns[3]], dtype=np.int64),
    )


async def test_a_reading_that_is_cut_short_leaves_no_sums(shop, monkeypatch):
    await fill(shop)
    numbers = await shop.rows("SELECT number FROM customers WHERE key LIKE 'c%' ORDER BY key")
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        meters = await meters_by_key(connection=connection)
        windows = asked(meters, [("tokens", who, JANUARY, FEBRUARY) for (who,) in numbers])
        options = {
            "connection": connection,
            "meters": {each.number: each for each in meters.values()},
            "windows": windows,
        }
        kept = KeptUsage()
        kept.expect(
            customer=windows.customer[3:],
            start_micros=windows.start_micros[3:],
            end_micros=windows.end_micros[3:],
        )
        seen = Readings(monkeypatch, cut=1)
        with pytest.raises(kills.CutError):
            await measure(kept=kept, **options)
        assert not kept.is_known(meters["tokens"].number)
        first, second = [await measure(kept=kept, **options) for _ in range(2)]
        plain = await measure(**options)
    wanted = [10 * number + 1 for number in range(CUSTOMERS)]
    assert first.mantissa.tolist() == second.mantissa.tolist() == plain.mantissa.tolist() == wanted
    assert len(seen.meters) == 4  # cut, everything, those three that were not expected, everything


async def test_what_is_expected_is_read_off_the_work_list(shop, superuser):
    for number in range(6):
        await shop.customer(f"d{number}")
        start = at(f"2026-01-{number + 1:02}").isoformat()
        await shop.subscribe(f"d{number}", f"d{number}", starts_at=start)
    await shop.bill(at("2026-01-03"))
    numbers = dict(await shop.rows("SELECT key, number FROM customers"))
    due_by = at("2026-02-03")
    due = [
        (numbers["d3"], at("2026-01-04"), at("2026-01-04")),
        (numbers["d4"], at("2026-01-05"), at("2026-01-05")),
        (numbers["d5"], at("2026-01-06"), at("2026-01-06")),
        (numbers["d0"], at("2026-01-01"), at("2026-02-01")),
        (numbers["d1"], at("2026-01-02"), at("2026-02-02")),
        (numbers["d2"], at("2026-01-03"), at("2026-02-03")),
    ]
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        after = Place(due_at=at("2026-01-05"), key="d4")
        for place, limit, told in ((None, 9, due), (None, 2, due[:2]), (after, 3, due[2:5])):
            columns = await list_expected(
                connection=connection, due_by=due_by, after=place, limit=limit
            )
            found = list(zip(*(each.tolist() for each in columns), strict=True))
            assert sorted(found) == sorted(
                (who, micros_of(start), micros_of(end)) for who, start, end in told
            )
        late = await list_expected(connection=connection, due_by=OPENED, after=None, limit=9)
        assert [len(each) for each in late] == [0, 0, 0]
        joins = await connection.exec_driver_sql("SHOW enable_nestloop")
        assert joins.scalar_one() == "on"
    await forget_statistics(superuser)
    await superuser.execute("SELECT set_config('app.seller', $1, false)", str(shop.seller))
    await superuser.execute("SET ROLE usance_app")
    async with superuser.transaction():
        await superuser.execute(LIST_IN_ORDER)
        lines = await planned(superuser, EXPECTED, due_by, at("2026-01-05"), "d4", 9)
    assert not any("Nested Loop" in line or "Sort" in line for line in lines)
    assert any(
        line.startswith("Index Cond: ") and "ROW(next_due_at, key) > ROW(" in line for line in lines
    )
