"""What is derived while the portion before it is posted: nobody sees it, whatever comes between."""

import asyncio

import msgspec
import pytest
from sqlalchemy import text

from engine.db import driver, open_database
from engine.errors import BillingError
from invoicing.control_run import control_run
from invoicing.derive_ahead import DeriveAhead
from invoicing.draft_store import insert_edit
from invoicing.drafts import WaitingEdit
from invoicing.grant_credit import grant_credit
from invoicing.issue_invoice import issue_invoice
from invoicing.one_off import OneOffDraft
from invoicing.portions import Portions
from invoicing.run_billing import run_billing, take_up_run
from invoicing.run_states import RunAct
from invoicing.store import lock_billing
from metering.correct_event import void_event
from plans.credit_grants import CreditGrantDraft
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, open_shop, plan, shop, violations

__all__ = ["shop"]

FEBRUARY, MARCH = at("2026-02-01"), at("2026-03-01")
SMALL = Portions(first=6, most=6, chunk=2, few=0)
CUSTOMERS = 18
PATIENCE_SECONDS = 120
BOOKS = """
SELECT d.number, d.billed_at, c.key, d.total_minor, l.price_key, l.amount_minor, l.quantity,
  l.reason FROM (
    SELECT id, number, billed_at, customer, total_minor FROM invoices
    UNION ALL SELECT id, number, billed_at, customer, -total_minor FROM credit_notes) d
  JOIN customers c ON c.id = d.customer LEFT JOIN line_items l ON l.document = d.id
ORDER BY d.number, l.ordinal
"""
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
SUMS = """
SELECT c.key, sum(d.total_minor) FROM (
    SELECT customer, total_minor FROM invoices
    UNION ALL SELECT customer, -total_minor FROM credit_notes) d
  JOIN customers c ON c.id = d.customer GROUP BY c.key ORDER BY c.key
"""


async def fill(shop, twice=()):
    """Customers who fall due together, with usage of January; `twice` have two subscriptions."""
    for number in range(CUSTOMERS):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}")
    for customer in twice:
        await shop.subscribe(f"{customer}-more", customer)
    await shop.bill(at("2026-01-01"))
    for number in range(CUSTOMERS):
        await shop.use(f"c{number:02}", at("2026-01-20"), 10 * number + 1)


def deriving():
    """Whether any portion is being derived."""
    return any("_derive_portion" in str(task.get_coro()) for task in asyncio.all_tasks())


class Between:
    """Does something while a run holds a portion derived ahead and waits to post."""

    def __init__(self, shop, superuser, act):
        self.shop, self.superuser, self.act = shop, superuser, act
        self.task = None
        self.reports = []

    def __call__(self, progress):
        self.reports.append(progress)
        if self.task is None and progress.customers == SMALL.chunk:
            self.task = asyncio.create_task(self.between(progress.run))

    async def between(self, run):
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            self.shop.database.transaction(seller=self.shop.seller) as connection,
        ):
            await lock_billing(connection=connection, sweep=False)
            waiting = 0
            while deriving() or not waiting:
                waiting = await self.superuser.fetchval(WAITING)
            await self.act(self.shop, connection, run)


async def cancelled(shop, connection, run):
    del connection, run
    await shop.cancel("s07", now=FEBRUARY, effective=at("2026-01-21").isoformat())


async def changed(shop, connection, run):
    del connection, run
    await shop.change("s08", now=FEBRUARY, quantities={"seats": "7"})


async def suspended(shop, connection, run):
    del connection, run
    await shop.turn("s06", now=FEBRUARY, paused=True)


async def another(shop, connection, run):
    del connection, run
    await shop.subscribe("more", "c07", now=FEBRUARY, starts_at=at("2026-01-15").isoformat())


async def credited(shop, connection, run):
    del run
    body = {"key": "g", "customer": "c08", "amount": "5.00", "currency": "EUR"}
    draft = msgspec.convert(body | {"kind": "promotional"}, CreditGrantDraft)
    seller = await load_seller(connection=connection)
    await grant_credit(
        connection=connection, seller=seller, draft=draft, now=FEBRUARY, wall_now=FEBRUARY
    )


async def paid_too_much(shop, connection, run):
    del shop, run
    await connection.execute(
        text(
            "INSERT INTO customer_balances (customer, currency, amount_minor)"
            " SELECT id, 'EUR', 700 FROM customers WHERE key = 'c09'"
        )
    )


async def by_hand(shop, connection, run):
    del run
    (customer,) = (await shop.rows("SELECT id FROM customers WHERE key = 'c10'"))[0]
    edit = WaitingEdit(
        id="ded_1", customer=customer, billed_at=FEBRUARY, currency="EUR", invoice_group="",
        key="k", name="By hand", amount_minor=1234, quantity="1", unit_amount="12.34",
        tax_rates=(), adjusts=None,
    )  # fmt: skip
    await insert_edit(connection=connection, edit=edit)


async def invoiced(shop, connection, run):
    del shop, run
    body = {"customer": "c11", "lines": [{"key": "extra", "amount": "3.00"}]}
    seller = await load_seller(connection=connection)
    draft = msgspec.convert(body, OneOffDraft)
    await issue_invoice(connection=connection, seller=seller, draft=draft, now=FEBRUARY)


async def used(shop, connection, run):
    del connection, run
    await shop.use("c09", at("2026-01-22"), 1000)


async def voided(shop, connection, run):
    del connection, run
    async with shop.database.transaction(seller=shop.seller) as other:
        await void_event(connection=other, event_id="e9", source="", now=FEBRUARY)


async def bill(shop, superuser, act, twice=(), **portions):
    """Bill February, with something between; the run and its reports. It leaves nothing open."""
    await fill(shop, twice)
    spare = shop.database.spare
    between = Between(shop, superuser, act)
    size = msgspec.structs.replace(SMALL, **portions)
    run = await shop.bill(FEBRUARY, portions=size, report=between)
    assert between.task is not None
    await between.task
    assert not deriving()
    assert shop.database.spare == spare
    return run, between.reports


async def in_two_shops(database, make_seller, superuser, act, query):
    """What the books say in the end, with and without deriving ahead."""
    told = []
    for ahead in (True, False):
        async with open_shop(database, await make_seller()) as shop:
            await shop.publish(plan(SEATS, TIERS))
            await bill(shop, superuser, act, ahead=ahead)
            await shop.bill(at("2026-02-02"))
            told.append(await shop.rows(query))
    return told


@pytest.mark.parametrize(
    "act",
    [cancelled, changed, suspended, credited, paid_too_much, by_hand, invoiced],
    ids=lambda act: act.__name__,
)
async def test_a_fact_that_changes_gives_the_same_documents(
    database, make_seller, superuser, database_url, act
):
    ahead, after = await in_two_shops(database, make_seller, superuser, act, BOOKS)
    numbers = [row[0] for row in ahead]
    if act is invoiced:  # it takes its number sooner or later
        assert len(set(numbers)) == 2 * CUSTOMERS + 1
        ahead, after = (sorted(row[1:] for row in books) for books in (ahead, after))
    assert ahead == after
    assert len(set(numbers)) >= 2 * CUSTOMERS
    found = await violations(database_url)
    # A balance out of nothing is told; what is made of it is right.
    assert {one.check for one in found} <= (
        {"customer_balance_control"} if act is paid_too_much else set()
    )


@pytest.mark.parametrize("act", [used, voided, another], ids=lambda act: act.__name__)
async def test_what_comes_late_is_billed_exactly_once(
    database, make_seller, superuser, database_url, act
):
    ahead, after = await in_two_shops(database, make_seller, superuser, act, SUMS)
    assert ahead == after
    assert await violations(database_url) == []


async def test_nothing_in_between_derives_all_together(shop, superuser):
    async def nothing(shop, connection, run):
        del shop, connection, run

    run, reports = await bill(shop, superuser, nothing)
    assert (run.documents, reports[-1].together) == (CUSTOMERS, CUSTOMERS)


@pytest.mark.parametrize("act", ["pause", "cancel"])
async def test_a_run_that_is_stopped_leaves_nothing_behind(shop, superuser, database_url, act):
    async def stop(shop, connection, run):
        del shop
        await control_run(
            connection=connection, run=run, act=RunAct(act), actor="key_test", reason=None,
            now=FEBRUARY, wall_now=FEBRUARY,
        )  # fmt: skip

    run, _ = await bill(shop, superuser, stop)
    assert run.status == {"pause": "paused", "cancel": "cancelled"}[act]
    assert 0 < run.documents < CUSTOMERS
    if act == "pause":
        async with shop.database.transaction(seller=shop.seller) as connection:
            await control_run(
                connection=connection, run=run.id, act=RunAct.RESUME, actor="key_test",
                reason=None, now=FEBRUARY, wall_now=FEBRUARY,
            )  # fmt: skip
        again = {"database": shop.database, "seller": shop.seller, "now": FEBRUARY}
        told = await take_up_run(run=run.id, portions=SMALL, **again)
    else:
        told = await shop.bill(FEBRUARY, portions=SMALL)
    assert told.status == "finished"
    assert await shop.one("SELECT max(sequence) FROM invoices") == 2 * CUSTOMERS
    assert await shop.one("SELECT count(*) FROM invoices") == 2 * CUSTOMERS
    assert await violations(database_url) == []


async def test_who_is_parked_does_not_disturb_the_others(shop, superuser, database_url):
    await fill(shop)
    ids = await shop.rows("SELECT id FROM customers WHERE key IN ('c04', 'c07', 'c13')")
    refused = ", ".join(f"'{each}'" for (each,) in ids)
    await superuser.execute(
        f"ALTER TABLE invoices ADD CONSTRAINT spoilt CHECK (customer NOT IN ({refused})) NOT VALID"
    )
    run = await shop.bill(FEBRUARY, portions=SMALL)
    assert [each.customer for each in run.parked] == ["c04", "c07", "c13"]
    assert run.documents == CUSTOMERS - 3
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    assert (await shop.bill(FEBRUARY, portions=SMALL)).documents == 3
    assert await violations(database_url) == []


async def test_a_run_opens_with_few_and_goes_on_with_many(shop):
    await fill(shop)
    reports = []
    sizes = Portions(first=12, most=12, chunk=5, opening=2, few=0)
    await shop.bill(FEBRUARY, portions=sizes, report=reports.append)
    assert [each.customers for each in reports] == [2, 7, 12, 17, 18]


@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_numbers_follow_due_instants_whatever_the_portion(shop, size):
    """Of customers with several subscriptions, and instants that come twice in a run."""
    starts = {"a": ("01", "20"), "b": ("05",), "c": ("03", "04"), "d": ("20",), "e": ("01", "01")}
    for customer, days in starts.items():
        await shop.customer(customer)
        for place, day in enumerate(days):
            start = at(f"2026-01-{day}").isoformat()
            await shop.subscribe(f"{customer}{place}", customer, starts_at=start)
    small = Portions(first=size, most=size, segment=size, chunk=size, few=0)
    await shop.bill(at("2026-03-15"), portions=small)
    told = await shop.rows(
        "SELECT i.billed_at, c.key FROM invoices i JOIN customers c ON c.id = i.customer"
        " ORDER BY i.sequence"
    )
    assert len(told) == 19
    assert told == sorted(told)


async def test_a_pool_without_a_connection_to_spare_bills_one_after_the_other(shop, database_url):
    await fill(shop)
    narrow = open_database(dsn=database_url, role="usance_app", pool_size=2)
    try:
        run = await run_billing(
            database=narrow, seller=shop.seller, as_of=FEBRUARY, now=FEBRUARY, portions=SMALL
        )
    finally:
        await narrow.close()
    assert run.documents == CUSTOMERS


async def wait_in(database, seller, begun, seconds=PATIENCE_SECONDS):
    async with database.transaction(seller=seller, snapshot=True) as connection:
        begun.set()
        await (await driver(connection)).fetch("SELECT pg_sleep($1)", seconds)


async def test_what_is_dropped_while_it_reads_gives_its_connection_back(shop):
    spare, ahead, begun = shop.database.spare, DeriveAhead(), asyncio.Event()
    ahead.begin(wait_in(shop.database, shop.seller, begun))
    await begun.wait()
    assert shop.database.spare == spare - 1
    await ahead.drop()
    assert shop.database.spare == spare
    assert await ahead.take() is None
    assert await shop.one("SELECT 1") == 1


async def test_who_waits_for_a_portion_and_is_cancelled_cancels_it(shop):
    spare, ahead, begun = shop.database.spare, DeriveAhead(), asyncio.Event()
    ahead.begin(wait_in(shop.database, shop.seller, begun))
    waiting = asyncio.create_task(ahead.take())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert shop.database.spare == spare


async def fail(error):
    await asyncio.sleep(0)
    raise error


async def test_an_error_is_not_lost():
    ahead = DeriveAhead()
    ahead.begin(fail(ConnectionResetError("gone")))
    assert not ahead.chunks()
    with pytest.raises(ConnectionResetError):
        await ahead.take()
    assert await ahead.take() is None
    ahead.begin(fail(BillingError("spoilt", "one account's doing")))
    assert await ahead.take() is None
    ahead.begin(fail(ConnectionResetError("gone, and nobody asks")))
    await asyncio.sleep(0.01)
    assert not ahead.chunks()
    await ahead.drop()
