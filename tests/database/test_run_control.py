"""A billing run in somebody's hands: paused, resumed, cancelled, its parked tried again."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.worker import tick
from engine.db import PATIENT, open_database
from engine.errors import BillingError
from invoicing.control_run import control_run
from invoicing.portions import Portions
from invoicing.run_billing import run_billing, take_up_run
from invoicing.run_states import RunAct
from invoicing.run_store import list_runs
from tests.billing_world import Shop, at, shop, violations

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
# Nobody else's posting waits for a chunk that is begun while a test holds up the loop of the run.
SMALL = Portions(segment=8, chunk=2, few=0, ahead=False)
INVOICES = "SELECT count(*) FROM invoices"


async def step(shop, run, act, **more):
    async with shop.database.transaction(seller=shop.seller) as connection:
        await control_run(
            connection=connection, run=run, act=RunAct(act), actor="key_test", reason=None,
            now=FEBRUARY, wall_now=FEBRUARY, **more,
        )  # fmt: skip


async def go_on(shop, run, **more):
    return await take_up_run(
        database=shop.database, seller=shop.seller, run=run, now=FEBRUARY, portions=SMALL, **more
    )


async def refused(work):
    with pytest.raises(BillingError) as error:
        await work
    return error.value.code


async def fill(shop, count=20, *, first=0):
    for number in range(first, first + count):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}", starts_at="2026-01-31T00:00:00Z")


class Between:
    """Does something to the run between two chunks: from another process's connection."""

    def __init__(self, shop, database_url, act, *, after):
        self.shop, self.database_url, self.act, self.after = shop, database_url, act, after
        self.chunks, self.told = 0, []

    def __call__(self, progress):
        self.chunks += 1
        self.told.append(progress)
        if self.chunks == self.after:
            with ThreadPoolExecutor() as other:
                other.submit(asyncio.run, self.do(progress.run)).result()

    async def do(self, run):
        database = open_database(
            dsn=self.database_url, role="usance_app", pool_size=4, waiting=PATIENT
        )
        try:
            await self.act_upon(
                Shop(database=database, seller=self.shop.seller, ingester=None), run
            )
        finally:
            await database.close()

    async def act_upon(self, shop, run):
        await step(shop, run, self.act)


class FourAtOnce(Between):
    """Four do the same at once; `ends` tells what became of each."""

    async def act_upon(self, shop, run):
        acts = (step(shop, run, self.act) for _ in range(4))
        self.ends = await asyncio.gather(*acts, return_exceptions=True)


async def stopped(shop, database_url, act="pause", *, as_of=FEBRUARY, after=3, **more):
    """A run that is stopped after some chunks."""
    between = Between(shop, database_url, act, after=after)
    return await shop.bill(as_of, portions=SMALL, report=between, **more)


async def test_a_paused_run_posts_nothing_until_it_resumes(shop, database_url):
    await fill(shop)
    run = await stopped(shop, database_url)
    posted = await shop.one(INVOICES)
    assert (run.status, posted) == ("paused", 6)
    assert run.documents == run.customers_done == posted
    assert run.customers_total == 20
    assert await refused(shop.bill(FEBRUARY)) == "billing_on_hold"
    assert await refused(shop.bill(at("2026-03-05"))) == "billing_on_hold"
    assert await tick(database=shop.database, now=at("2026-03-05")) == 0
    assert (await go_on(shop, run.id)).status == "paused"  # it is not running: nothing is done
    assert await shop.one(INVOICES) == posted
    await step(shop, run.id, "resume")
    told = await go_on(shop, run.id)
    assert (told.status, told.documents, told.customers_done) == ("finished", 20, 20)
    assert await shop.one(INVOICES) == await shop.one("SELECT max(sequence) FROM invoices") == 20
    assert await violations(database_url) == []


async def test_a_resumed_run_is_taken_up_by_the_next_one(shop, database_url):
    await fill(shop)
    run = await stopped(shop, database_url)
    await step(shop, run.id, "resume")
    await tick(database=shop.database, now=at("2026-02-10"))
    async with shop.database.transaction(seller=shop.seller) as connection:
        (told,) = await list_runs(connection=connection, run=run.id)
    assert (told.status, told.documents) == ("finished", 20)


async def test_a_cancelled_run_leaves_what_is_posted_and_the_rest_due(shop, database_url):
    await fill(shop)
    run = await stopped(shop, database_url, "cancel")
    posted = await shop.one(INVOICES)
    assert (run.status, posted) == ("cancelled", 6)
    assert run.finished_at is not None
    again = await shop.bill(FEBRUARY)
    assert again.id != run.id
    assert (again.documents, await shop.one(INVOICES)) == (20 - posted, 20)
    assert await violations(database_url) == []


async def test_a_run_of_some_customers_holds_only_these(shop, database_url):
    await fill(shop, 6)
    ids = [i for (i,) in await shop.rows("SELECT id FROM customers ORDER BY key LIMIT 4")][1:]
    run = await stopped(shop, database_url, after=1, customers=ids)
    assert run.status == "paused"
    held = await shop.one(INVOICES)
    assert await refused(shop.bill(FEBRUARY, customers=ids[2:])) == "billing_on_hold"
    assert (await shop.bill(FEBRUARY)).documents == 6 - 3
    assert await shop.one(INVOICES) == held + 3
    await step(shop, run.id, "resume")
    assert (await go_on(shop, run.id)).documents == 3
    assert await shop.one(INVOICES) == 6


async def test_differences_that_wait_are_posted_by_the_run_that_resumes(shop, database_url):
    await fill(shop, 6)
    await shop.bill(at("2026-01-31"))
    await shop.bill(at("2026-02-28"))
    for number in range(6):
        await shop.use(f"c{number:02}", at("2026-02-10"), 150)
    run = await stopped(shop, database_url, as_of=at("2026-03-01"), after=1)
    assert (run.status, run.documents) == ("paused", 2)
    await step(shop, run.id, "resume")
    await shop.bill(at("2026-03-02"), pending=False)
    late = "SELECT count(*) FROM line_items WHERE price_key = 'tokens'"
    assert await shop.one(late) == 6


async def test_of_two_who_do_the_same_one_is_told_that_it_is_done(shop, database_url):
    await fill(shop)
    pausing = FourAtOnce(shop, database_url, "pause", after=1)
    run = await shop.bill(FEBRUARY, portions=SMALL, report=pausing)
    codes = sorted(getattr(end, "code", "done") for end in pausing.ends)
    assert codes == ["done", *["run_not_running"] * 3]
    ends = await asyncio.gather(
        *(step(shop, run.id, act) for act in ("resume", "resume", "resume")),
        return_exceptions=True,
    )
    assert sorted(getattr(end, "code", "done") for end in ends) == [
        "done", "run_not_paused", "run_not_paused",
    ]  # fmt: skip
    log = await shop.rows(
        "SELECT action FROM audit_log WHERE object = :run ORDER BY id", run=run.id
    )
    assert sorted(log) == [("billing_run.pause",), ("billing_run.resume",)]
    await go_on(shop, run.id)
    for act, code in (
        ("pause", "run_not_running"),
        ("resume", "run_not_paused"),
        ("cancel", "run_is_over"),
        ("retry", "nothing_parked"),
    ):
        assert await refused(step(shop, run.id, act)) == code
    assert await refused(step(shop, "run_none", "pause")) == "not_found"


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_posted_after_a_pause_is_answered(shop, database_url, seed):
    """Somebody pauses and resumes all the time, from another process's connection."""
    dice, seen, count = random.Random(seed), [], 0
    other = open_database(dsn=database_url, role="usance_app", pool_size=2, waiting=PATIENT)

    async def meddle():
        while await shop.one("SELECT count(*) FROM subscriptions WHERE next_due_at <= :now",
                             now=FEBRUARY):  # fmt: skip
            await asyncio.sleep(dice.random() / 20)
            runs = await shop.rows("SELECT id FROM billing_runs WHERE status = 'running'")
            for (run,) in runs:
                try:
                    await step(shop, run, "pause")
                except BillingError:
                    continue
                before = await shop.one(INVOICES)
                await asyncio.sleep(dice.random() / 20)
                assert await shop.one(INVOICES) == before
                seen.append(before)
                await step(shop, run, "resume")

    async def keep_billing():
        while await shop.one(INVOICES) < count:
            try:
                await run_billing(
                    database=other, seller=shop.seller, as_of=FEBRUARY, now=FEBRUARY,
                    portions=SMALL,
                )  # fmt: skip
            except BillingError as error:
                assert error.code in {"billing_on_hold", "billing_busy"}  # noqa: PT017

    try:
        while not seen:  # a run may be over before it could be paused
            await fill(shop, 24, first=count)
            count += 24
            await asyncio.gather(meddle(), keep_billing())
    finally:
        await other.close()
    assert await shop.one(INVOICES) == await shop.one("SELECT max(sequence) FROM invoices") == count
    assert await violations(database_url) == []


async def spoil(shop, superuser, *keys):
    ids = [await shop.one("SELECT id FROM customers WHERE key = :key", key=key) for key in keys]
    refused = ", ".join(f"'{each}'" for each in ids)
    await superuser.execute(
        f"ALTER TABLE invoices ADD CONSTRAINT spoilt CHECK (customer NOT IN ({refused})) NOT VALID"
    )


async def test_a_retry_bills_only_what_was_parked(shop, superuser, database_url):
    await fill(shop, 6)
    await spoil(shop, superuser, "c02", "c04")
    run = await shop.bill(FEBRUARY, portions=SMALL)
    assert [each.customer for each in run.parked] == ["c02", "c04"]
    assert (run.customers_done, run.customers_total) == (4, 6)
    await step(shop, run.id, "retry")
    told = await go_on(shop, run.id)
    assert [each.customer for each in told.parked] == ["c02", "c04"]
    assert told.status == "finished"
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    await shop.subscribe("new", "c00", starts_at="2026-01-31T00:00:00Z")
    assert await refused(step(shop, run.id, "retry", customers=["c02", "c03"])) == "invalid_body"
    await step(shop, run.id, "retry", customers=["c02"])
    told = await go_on(shop, run.id)
    assert [each.customer for each in told.parked] == ["c04"]
    await step(shop, run.id, "retry")
    told = await go_on(shop, run.id)
    assert (told.parked, told.documents, told.status) == ((), 6, "finished")
    assert (told.customers_done, told.customers_total) == (6, 6)
    assert await shop.one("SELECT count(*) FROM invoices WHERE run = :run", run=run.id) == 6
    assert (await shop.bill(FEBRUARY)).documents == 1
    assert await violations(database_url) == []


async def test_a_retry_that_is_paused_keeps_what_it_has_not_tried(shop, superuser, database_url):
    await fill(shop, 6)
    await spoil(shop, superuser, *(f"c0{number}" for number in range(6)))
    run = await shop.bill(FEBRUARY, portions=SMALL)
    assert len(run.parked) == 6
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    await step(shop, run.id, "retry")
    between = Between(shop, database_url, "pause", after=1)
    told = await go_on(shop, run.id, report=between)
    assert (told.status, len(told.parked)) == ("paused", 6)
    await step(shop, run.id, "resume")
    told = await go_on(shop, run.id)
    assert (told.status, told.parked, told.documents) == ("finished", (), 6)


async def test_progress_tells_the_rate_and_when_it_should_be_through(shop, database_url):
    await fill(shop)
    between = Between(shop, database_url, "pause", after=3)
    run = await shop.bill(FEBRUARY, portions=SMALL, report=between)
    assert [(each.done, each.total) for each in between.told] == [(2, 20), (4, 20), (6, 20)]
    assert run.customers_per_second is not None and float(run.customers_per_second) > 0
    assert run.progress_at is not None and run.estimated_finish_at is None
    await step(shop, run.id, "resume")
    async with shop.database.transaction(seller=shop.seller) as connection:
        (told,) = await list_runs(connection=connection, run=run.id)
    assert told.estimated_finish_at > told.progress_at
