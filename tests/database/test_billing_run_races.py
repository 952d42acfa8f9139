"""What comes between the steps of a run, and runs that meet: every difference is posted once."""

import asyncio
import contextlib

import pytest

from engine.db import PATIENT, open_database
from engine.errors import BillingError
from invoicing.derive import derive, load_work
from invoicing.portions import Portions
from invoicing.post import StaleDerivationError, post
from invoicing.run_billing import run_billing
from invoicing.run_progress_store import note_progress
from invoicing.run_store import Unfinished, begin_run
from invoicing.store import lock_billing
from invoicing.sweep_usage import sweep_usage
from invoicing.work_store import due_customers
from plans.seller_store import load_seller
from plans.subscription_store import PriceBook
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")


class Halves:
    """A billing run in two halves, with room for something to happen between them."""

    def __init__(self, shop, as_of=FEBRUARY):
        self.shop, self.as_of = shop, as_of

    def begin(self, **how):
        return self.shop.database.transaction(seller=self.shop.seller, **how)

    async def sweep(self):
        async with self.begin() as connection:
            return await sweep_usage(connection=connection)

    async def derive(self):
        async with self.begin() as connection:
            await lock_billing(connection=connection, sweep=False)
        self.sweeps = await self.sweep()
        async with self.begin(snapshot=True) as connection:
            self.seller = await load_seller(connection=connection)
            due = await due_customers(connection=connection, due_by=self.as_of, limit=100)
            work = await load_work(connection=connection, due=due, book=PriceBook())
            self.derived = await derive(connection=connection, seller=self.seller, work=work)

    async def post(self):
        async with self.begin() as connection:
            begun = Unfinished(as_of=self.as_of)
            await begin_run(connection=connection, run="run_half", begun=begun, now=self.as_of)
            posted = await post(
                connection=connection,
                seller=self.seller,
                run="run_half",
                as_of=self.as_of,
                sweeps=self.sweeps,
                derived=self.derived,
            )
            await note_progress(
                connection=connection,
                run="run_half",
                customers=len(self.derived),
                documents=posted.documents,
                lines=posted.lines,
            )


async def billed_once(shop, database_url, lines):
    found = await shop.rows(
        "SELECT price_key, amount_minor, reason FROM line_items WHERE charge_start_at = :start"
        " ORDER BY price_key, sequence",
        start=at("2026-01-01"),
    )
    assert found == lines
    assert await violations(database_url) == []


async def test_usage_between_measuring_and_posting_is_billed_by_the_next_run(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.use("acme", at("2026-01-10"), 90)
    await shop.bill(at("2026-01-01"))
    halves = Halves(shop)
    await halves.derive()
    await shop.use("acme", at("2026-01-20"), 20)
    await halves.post()
    await shop.bill(FEBRUARY)
    await shop.bill(FEBRUARY)
    lines = [("seats", 3100, "initial"), ("tokens", 900, "initial"), ("tokens", 110, "late_usage")]
    await billed_once(shop, database_url, lines)


async def test_usage_between_sweeping_and_measuring_is_billed_at_once_and_not_again(
    shop, database_url
):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    halves = Halves(shop)
    sweep = halves.sweep

    async def sweep_then_use():
        sweeps = await sweep()
        await shop.use("acme", at("2026-01-20"), 90)
        return sweeps

    halves.sweep = sweep_then_use
    await halves.derive()
    await halves.post()
    lines = [("seats", 3100, "initial"), ("tokens", 900, "initial")]
    await billed_once(shop, database_url, lines)
    await shop.bill(at("2026-02-02"))
    await billed_once(shop, database_url, lines)


async def test_a_cancellation_between_deriving_and_posting_derives_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    halves = Halves(shop, at("2026-01-01"))
    await halves.derive()
    await shop.cancel("s1", now=at("2026-01-01"), effective="2026-01-11T00:00:00Z")
    with pytest.raises(StaleDerivationError):
        await halves.post()
    assert await shop.one("SELECT count(*) FROM number_series") == 0
    await shop.bill(at("2026-01-11"))
    assert await shop.one("SELECT sum(amount_minor) FROM line_items") == 1000
    assert await violations(database_url) == []


async def test_a_sweep_between_deriving_and_posting_derives_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    halves = Halves(shop)
    await halves.derive()
    await shop.use("acme", at("2026-01-20"), 90)
    await halves.sweep()  # another run took the event off the inbox, and touched nothing yet billed
    with pytest.raises(StaleDerivationError):
        await halves.post()
    await shop.bill(FEBRUARY)
    await billed_once(shop, database_url, [("seats", 3100, "initial"), ("tokens", 900, "initial")])


async def test_two_runs_at_once_post_everything_once(shop, database_url):
    for number in range(60):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}")
    other = open_database(dsn=database_url, role="usance_app", pool_size=3, waiting=PATIENT)
    small = {"seller": shop.seller, "now": FEBRUARY, "portions": Portions(segment=20, chunk=7)}
    try:
        runs = await asyncio.gather(
            run_billing(database=shop.database, as_of=FEBRUARY, **small),
            run_billing(database=other, as_of=FEBRUARY, **small),
            run_billing(database=other, as_of=at("2026-01-01"), **small),
        )
    finally:
        await other.close()
    assert sum(run.documents for run in runs) >= 120
    assert await shop.one("SELECT count(*) FROM invoices") == 120
    assert await shop.one("SELECT max(sequence) FROM invoices") == 120
    statuses = await shop.rows("SELECT DISTINCT status FROM billing_runs")
    assert statuses == [("finished",)]
    assert await violations(database_url) == []


async def test_usage_that_pours_in_during_runs_is_billed_exactly_once(shop, database_url):
    for number in range(6):
        await shop.customer(f"c{number}")
        await shop.subscribe(f"s{number}", f"c{number}")
    await shop.bill(at("2026-01-01"))

    async def pour(customer):
        for day in range(1, 29):
            await shop.use(customer, at(f"2026-01-{day:02}T12:00"), 1)

    async def keep_billing():
        for _ in range(6):
            await shop.bill(FEBRUARY, portions=Portions(segment=4, chunk=2))
            await asyncio.sleep(0)

    await asyncio.gather(keep_billing(), *(pour(f"c{number}") for number in range(6)))
    await shop.bill(FEBRUARY)
    sums = await shop.rows(
        "SELECT sum(amount_minor), sum(quantity) FROM line_items WHERE price_key = 'tokens'"
        " AND charge_start_at = :start GROUP BY subscription",
        start=at("2026-01-01"),
    )
    assert sums == [(280, 28)] * 6
    assert await violations(database_url) == []


async def test_cancellations_during_a_run_are_billed_as_if_one_came_after_the_other(
    shop, database_url
):
    for number in range(30):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}")

    async def cancel_all():
        for number in range(30):
            await shop.cancel(
                f"s{number:02}", now=at("2026-01-01"), effective="2026-01-11T00:00:00Z"
            )

    async def bill():
        with contextlib.suppress(BillingError):  # too many cancellations in its way
            await shop.bill(at("2026-01-01"), portions=Portions(segment=9, chunk=3))

    await asyncio.gather(bill(), cancel_all())
    await shop.bill(at("2026-01-11"))
    sums = await shop.rows("SELECT sum(amount_minor) FROM line_items GROUP BY subscription")
    assert sums == [(1000,)] * 30
    assert await violations(database_url) == []
