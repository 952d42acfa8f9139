"""A run that waits for approval: what is posted is what was approved, or it is asked again."""

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError

from api.worker import tick
from engine.errors import BillingError
from invoicing.report_rows_store import report_page
from invoicing.report_run import report_run
from invoicing.run_report import Remark
from tests.billing_world import SEATS, at, plan, shop, violations
from tests.database.test_run_control import Between, go_on, refused, spoil, step

__all__ = ["shop"]

FEBRUARY, MARCH = at("2026-02-01"), at("2026-03-01")
INVOICES = "SELECT count(*) FROM invoices"


async def propose(shop, as_of=MARCH, **more):
    return await shop.bill(as_of, approve=True, **more)


async def report(shop, run):
    async with shop.database.transaction(seller=shop.seller) as connection:
        return await report_run(connection=connection, run=run)


async def approve(shop, run, **more):
    await step(shop, run, "approve")
    return await go_on(shop, run, **more)


async def fill(shop, count=8):
    """Customers with a month behind them: billed for January and February, seats in advance."""
    for number in range(count):
        await shop.customer(f"c{number}")
        await shop.subscribe(f"s{number}", f"c{number}")
    await shop.bill(FEBRUARY)
    for number in range(count):
        await shop.use(f"c{number}", at("2026-02-10"), 10 * number)


def remarks(told):
    return {
        each.remark.value: [row.customer for row in each.first]
        for each in told.remarks
        if each.customers
    }


async def test_nothing_is_posted_before_it_is_approved_and_then_just_that(shop, database_url):
    await fill(shop)
    before = await shop.written()
    run = await propose(shop)
    assert (run.status, run.documents) == ("awaiting_approval", 0)
    now = await shop.written()
    told = {"billing_runs", "outbox"}
    assert {name: rows for name, rows in now.items() if name not in told} == {
        name: rows for name, rows in before.items() if name not in told
    }
    told = await report(shop, run.id)
    (total,) = told.totals
    assert (total.customers, total.invoices, total.lines) == (8, 8, 15)
    assert (total.net, total.previous) == ("276.00", "248.00")
    assert [row.customer for row in told.biggest_changes][:2] == ["c7", "c6"]
    assert [row.difference for row in told.biggest_changes][:2] == ["7.00", "6.00"]
    assert remarks(told) == {}
    assert await refused(shop.bill(MARCH)) == "billing_on_hold"
    assert await tick(database=shop.database, now=at("2026-04-02")) == 0
    done = await approve(shop, run.id)
    assert (done.status, done.documents, done.approved_at) == ("finished", 8, FEBRUARY)
    sums = await shop.rows(
        "SELECT sum(total_minor), count(*) FROM invoices WHERE run = :run", run=run.id
    )
    assert sums == [(27600, 8)]
    assert (await shop.bill(MARCH)).documents == 0
    log = await shop.rows("SELECT action, actor FROM audit_log WHERE object = :run", run=run.id)
    assert log == [("billing_run.approve", "key_test")]
    assert await violations(database_url) == []


async def test_what_changed_since_is_not_posted_but_told_and_asked_again(shop, database_url):
    await fill(shop)
    run = await propose(shop)
    await shop.use("c3", at("2026-02-20"), 1000)
    await shop.change("s5", now=at("2026-02-20"), quantities={"seats": "3"}, effective="now")
    again = await approve(shop, run.id)
    assert (again.status, again.documents, again.parked) == ("awaiting_approval", 6, ())
    told = await report(shop, run.id)
    assert remarks(told) == {"changed": ["c5", "c3"]}
    changed = {row.customer: (row.approved, row.net) for row in told.remarks[-1].first}
    assert changed["c3"] == ("34.00", "50.30")
    assert changed["c5"] == ("36.00", "117.93")
    assert told.totals[0].customers == 2
    done = await approve(shop, run.id)
    assert (done.status, done.documents, done.parked) == ("finished", 8, ())
    posted = await shop.rows(
        "SELECT c.key, i.total_minor FROM invoices i JOIN customers c ON c.id = i.customer"
        " WHERE i.run = :run AND c.key IN ('c3', 'c5') ORDER BY 1", run=run.id
    )  # fmt: skip
    assert posted[0] == ("c3", 5030)
    assert await violations(database_url) == []


async def test_what_is_owed_no_more_is_told_too(shop):
    await fill(shop, 3)
    run = await propose(shop)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await connection.exec_driver_sql(
            "UPDATE subscriptions SET next_due_at = '2026-05-01' WHERE key = 's1' AND seller = "
            f"{shop.seller}"
        )
    again = await approve(shop, run.id)
    assert (again.status, again.documents) == ("awaiting_approval", 2)
    told = await report(shop, run.id)
    (changed,) = told.remarks[-1].first
    assert (changed.customer, changed.approved, changed.net) == ("c1", "32.00", "0.00")
    assert (await approve(shop, run.id)).status == "finished"


async def test_what_everybody_owes_may_change(shop, database_url):
    await fill(shop)
    run = await propose(shop)
    for number in range(8):
        await shop.use(f"c{number}", at("2026-02-21"), 500)
    again = await approve(shop, run.id)
    assert (again.status, again.documents) == ("awaiting_approval", 0)
    assert len(remarks(await report(shop, run.id))["changed"]) == 8
    assert (await approve(shop, run.id)).documents == 8
    assert await violations(database_url) == []


async def test_remarks_tell_who_is_new_gone_dear_or_billed_nothing(shop):
    await fill(shop, 4)
    free = SEATS | {"unit_amount": "0"}
    await shop.publish_plan(plan(free, key="free"))
    await shop.customer("newcomer")
    await shop.subscribe("n", "newcomer", starts_at="2026-02-20T00:00:00Z")
    await shop.cancel("s0", now=at("2026-02-11"), effective="2026-03-01T00:00:00Z")
    await shop.subscribe("f", "acme", plan="free", starts_at="2026-02-20T00:00:00Z")
    await shop.use("c2", at("2026-02-12"), 60_000)
    run = await propose(shop)
    told = remarks(await report(shop, run.id))
    assert told["new"] == ["newcomer"]
    assert told["gone"] == ["c0"]
    assert told["ten_times_mean"] == ["c2"]
    async with shop.database.transaction(seller=shop.seller) as connection:
        first = await report_page(connection=connection, run=run.id, limit=2)
        rest = await report_page(connection=connection, run=run.id, limit=100, after=first[-1][0])
        new = await report_page(connection=connection, run=run.id, limit=9, remark=Remark.NEW)
    assert len({place for place, _ in first + rest}) == 5 + ("acme" in str(first + rest))
    assert [row.customer for _, row in new] == ["newcomer"]


async def test_a_rejected_run_leaves_all_of_it_due(shop):
    await fill(shop, 3)
    run = await propose(shop)
    await step(shop, run.id, "reject")
    assert await refused(step(shop, run.id, "approve")) == "run_not_awaiting_approval"
    assert (await shop.bill(MARCH)).documents == 3


async def test_of_two_who_decide_one_is_told_that_it_is_decided(shop):
    await fill(shop, 3)
    run = await propose(shop)
    ends = await asyncio.gather(
        *(step(shop, run.id, act) for act in ("approve", "reject", "approve", "reject")),
        return_exceptions=True,
    )
    codes = sorted(getattr(end, "code", "done") for end in ends)
    assert codes == ["done", *["run_not_awaiting_approval"] * 3]


async def test_an_approved_run_may_be_paused(shop, database_url):
    await fill(shop)
    run = await propose(shop)
    told = await approve(shop, run.id, report=Between(shop, database_url, "pause", after=2))
    assert (told.status, told.documents) == ("paused", 4)
    await shop.use("c7", at("2026-02-22"), 100)
    await step(shop, run.id, "resume")
    told = await go_on(shop, run.id)
    assert (told.status, told.documents) == ("awaiting_approval", 7)
    assert remarks(await report(shop, run.id)) == {"changed": ["c7"]}


async def test_who_cannot_be_billed_is_told_and_asked_about_again(shop, superuser):
    await fill(shop, 4)
    await spoil(shop, superuser, "c2")
    run = await propose(shop)
    assert [each.customer for each in (await report(shop, run.id)).parked] == ["c2"]
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    told = await approve(shop, run.id)
    assert (told.status, told.documents, told.parked) == ("awaiting_approval", 3, ())
    assert (await report(shop, run.id)).totals[0].customers == 1
    told = await approve(shop, run.id)
    assert (told.status, told.documents) == ("finished", 4)


async def test_a_run_with_nothing_to_approve_is_over(shop):
    await fill(shop, 2)
    assert (await propose(shop, FEBRUARY)).status == "finished"
    assert (await shop.bill(MARCH)).documents == 2


async def test_a_review_that_died_is_resumed(shop, superuser):
    await fill(shop, 4)
    await superuser.execute(
        "ALTER TABLE run_report_rows ADD CONSTRAINT disk_full CHECK (lines < 0)"
    )
    with pytest.raises(DBAPIError):
        await propose(shop)
    await superuser.execute("ALTER TABLE run_report_rows DROP CONSTRAINT disk_full")
    (run,) = await shop.rows("SELECT id, status FROM billing_runs WHERE status <> 'finished'")
    assert run[1] == "reviewing"
    assert await refused(shop.bill(MARCH)) == "billing_on_hold"
    with pytest.raises(BillingError) as not_ready:
        await report(shop, run[0])
    assert not_ready.value.code == "report_not_ready"
    await step(shop, run[0], "resume")
    assert (await go_on(shop, run[0])).status == "awaiting_approval"
    assert (await approve(shop, run[0])).documents == 4
