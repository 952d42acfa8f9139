"""Deriving together and one by one write the same books, column for column."""

import asyncio

import msgspec
import pytest
from sqlalchemy import text

from engine.db import PATIENT, open_database
from invoicing.draft_store import insert_edit
from invoicing.drafts import WaitingEdit
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from plans.model import CustomerDraft
from plans.register_customer import register_customer
from tests.billing_world import OPENED, SEATS, TIERS, at, open_shop, plan, shop, violations
from tests.faults import billing_kills as kills

__all__ = ["shop"]

TOGETHER = Portions(segment=7, chunk=11, few=0)
ONE_BY_ONE = Portions(few=1_000_000)
DAYS = 6
YEARLY = {"key": "base", "kind": "recurring", "model": "flat", "flat_amount": "99.99"}
SETUP = {"key": "setup", "kind": "one_time", "model": "flat", "flat_amount": "5.00"}
ARREARS = {
    "key": "seats",
    "kind": "recurring",
    "model": "volume",
    "bill": "in_arrears",
    "tiers": [{"up_to": "3", "unit_amount": "7.33"}, {"up_to": None, "unit_amount": "0"}],
}
LEAST = {
    "key": "least",
    "kind": "usage",
    "meter": "tokens",
    "model": "package",
    "package_size": "7",
    "unit_amount": "0.333333333333",
    "minimum_amount": "1.00",
    "prorate_tiers": True,
}
SHARE = {"key": "share", "kind": "usage", "meter": "tokens", "model": "percentage", "rate": "2.5"}
PLANS = (
    plan(SEATS, TIERS),
    plan(YEARLY, SETUP, key="yearly", interval={"unit": "year"}, trial_days=10),
    plan(ARREARS, LEAST, key="arrears", currency="JPY", alignment="calendar"),
    plan(SEATS, SHARE, key="events"),
)
OPTIONS = (
    {},
    {"quantities": {"seats": "3"}},
    {"plan": "yearly", "net_terms_days": 3},
    {"plan": "arrears", "quantities": {"seats": "4"}},
    {"plan": "events"},
    {"overrides": {"seats": {"unit_amount": "0.005"}}},
    {"anchor": {"day": 31}},
    {"ends_at": "2026-02-20T12:00:00Z"},
    {"invoice_group": "apart"},
)
PERSONS = (
    {},
    {"timezone": "America/New_York", "po_number": "PO 7"},
    {"net_terms_days": 0, "po_number": "Bestellung Nr. 12 – Größe"},
)


async def fill(dsn):
    """Customers of many kinds, a few of each, with usage, some with two subscriptions."""
    await kills.open_books(dsn, mode="live", timezone="Europe/Berlin")
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(*PLANS)
            for number in range(3 * len(OPTIONS) * len(PERSONS)):
                key = f"{'kunde' * (number % 3)}c{number:03}"
                person = PERSONS[number // len(OPTIONS) % len(PERSONS)]
                draft = msgspec.convert({"key": key, "name": key} | person, CustomerDraft)
                async with database.transaction(seller=1) as connection:
                    times = {"now": OPENED, "wall_now": OPENED}
                    await register_customer(connection=connection, draft=draft, **times)
                start = at(f"2026-01-{number % DAYS + 1:02}").isoformat()
                options = {"starts_at": start} | OPTIONS[number % len(OPTIONS)]
                await shop.subscribe(key, key, **options)
                if number % 10 == 9:
                    await shop.subscribe(f"{key}-more", key, **options)
                if number % 4:
                    await shop.use(key, at("2026-01-20"), 37 * number)
                    await shop.use(key, at("2026-02-15"), number)
            await shop.bill(at("2026-01-10"), portions=ONE_BY_ONE)
            for number in range(0, 50, 8):
                key = f"{'kunde' * (number % 3)}c{number:03}"
                await shop.cancel(key, now=at("2026-01-12"), effective=at("2026-02-03").isoformat())
            await shop.use("c003", at("2026-01-04"), 11)
    finally:
        await database.close()


async def bill(dsn, portions):
    """Bill through the winter; how many customers were derived together."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    together = []
    try:
        for when in ("2026-02-02", "2026-03-31T15:00", "2027-01-20"):
            reports = []
            await run_billing(
                database=database,
                seller=1,
                as_of=at(when),
                now=at(when),
                report=reports.append,
                portions=portions,
            )
            together.append(reports[-1].together)
    finally:
        await database.close()
    return together


@pytest.fixture(scope="module")
def books(cluster):
    """The address of a copy of the same books, by name."""
    source = asyncio.run(cluster.make_clone())
    asyncio.run(fill(cluster.dsn(source)))
    names = [f"{source}_{name}" for name in ("together", "apart")]
    for name in names:
        asyncio.run(kills.copy_database(cluster.admin_dsn, source, name))
    yield [cluster.dsn(name) for name in names]
    for name in (source, *names):
        asyncio.run(cluster.drop(name))


def test_the_books_are_the_same(books) -> None:
    together, apart = books
    some = asyncio.run(bill(together, TOGETHER))
    assert min(some) > 20
    assert asyncio.run(bill(apart, ONE_BY_ONE)) == [0, 0, 0]
    found, wanted = (asyncio.run(kills.everything(dsn)) for dsn in books)
    assert len(wanted["invoices"]) > 700
    for table, rows in wanted.items():
        assert found[table] == rows, table
    assert asyncio.run(violations(together)) == []


async def bill_who_used(dsn):
    """Twelve customers of a plan of usage alone, of whom every other one used anything."""
    await kills.open_books(dsn, mode="live", timezone="UTC")
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    reports = []
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(plan(LEAST | {"minimum_amount": "0"}, key="usage"))
            for number in range(12):
                await shop.customer(f"c{number:02}")
                start = at("2026-01-01").isoformat()
                await shop.subscribe(f"s{number}", f"c{number:02}", plan="usage", starts_at=start)
                if number % 2:
                    await shop.use(f"c{number:02}", at("2026-01-20"), 7 * number)
            run = await shop.bill(at("2026-02-02"), portions=TOGETHER, report=reports.append)
    finally:
        await database.close()
    return run.documents, reports[-1].together


def test_who_owes_nothing_is_derived_together_too(database_url) -> None:
    assert asyncio.run(bill_who_used(database_url)) == (6, 24), "at the start and at the end"


BALANCES = """
INSERT INTO customer_balances (seller, customer, currency, amount_minor)
SELECT seller, id, 'EUR', CASE WHEN key < 'c10' THEN 250 ELSE 999999 END FROM customers
WHERE key IN ('c02', 'c03', 'c13')
"""


async def fill_with_balances(dsn):
    """Twenty alike, of whom three have a balance, and one a line by hand."""
    await kills.open_books(dsn, mode="live", timezone="UTC")
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(plan(SEATS, TIERS))
            for number in range(20):
                await shop.customer(f"c{number:02}")
                start = at(f"2026-01-{1 + number // 7:02}").isoformat()
                await shop.subscribe(f"s{number:02}", f"c{number:02}", starts_at=start)
            customer = await shop.one("SELECT id FROM customers WHERE key = 'c17'")
            edit = WaitingEdit(
                id="ded_1", customer=customer, billed_at=OPENED, currency="EUR",
                invoice_group="", key="k", name="By hand", amount_minor=7, quantity="1",
                unit_amount="0.07",
            )  # fmt: skip
            async with database.transaction(seller=1) as connection:
                await connection.execute(text(BALANCES))
                await insert_edit(connection=connection, edit=edit)
    finally:
        await database.close()


async def bill_apart(dsn, portions):
    """How many were derived together, and for how many that was tried in vain."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    reports = []
    when = at("2026-01-10")
    try:
        run = await run_billing(
            database=database, seller=1, as_of=when, now=when, report=reports.append,
            portions=portions,
        )  # fmt: skip
    finally:
        await database.close()
    return reports[-1].together, [(each.reason, each.customers) for each in run.fallbacks]


def test_only_who_is_not_alike_is_derived_one_by_one(cluster) -> None:
    """Three have a balance, which pays an invoice or a part of it; the books are the same."""
    source = asyncio.run(cluster.make_clone())
    asyncio.run(fill_with_balances(cluster.dsn(source)))
    found, told = [], []
    for portions in (TOGETHER, ONE_BY_ONE):
        name = f"{source}_{len(told)}"
        asyncio.run(kills.copy_database(cluster.admin_dsn, source, name))
        told.append(asyncio.run(bill_apart(cluster.dsn(name), portions)))
        found.append(asyncio.run(kills.everything(cluster.dsn(name))))
        asyncio.run(cluster.drop(name))
    asyncio.run(cluster.drop(source))
    assert told == [(16, [("not_alike", 4)]), (0, [])]
    together, apart = found
    assert len(apart["invoices"]) == 20
    assert len(apart["settlements"]) == 3
    for table, rows in apart.items():
        assert together[table] == rows, table


async def test_a_document_of_the_instant_of_another_is_in_nobodys_way(shop):
    """A subscription that begins in the past falls due with one that is billed since then."""
    await shop.publish_plan(plan(YEARLY, key="yearly", interval={"unit": "year"}))
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-10"))
    await shop.customer("late")
    await shop.subscribe("s2", "late", plan="yearly", starts_at="2026-01-01T00:00:00Z")
    reports = []
    run = await shop.bill(at("2026-02-10"), portions=TOGETHER, report=reports.append)
    assert (run.documents, reports[-1].together, run.fallbacks) == (2, 2, ())
