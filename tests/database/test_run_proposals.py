"""A seller that approves its runs: the worker proposes, and posts nothing that nobody looked at."""

from datetime import timedelta

import msgspec

from api.background_runs import BackgroundRuns
from api.worker import tick
from invoicing.control_run import control_run
from invoicing.grant_credit import grant_credit
from invoicing.run_states import RunAct
from plans.change_seller import change_seller
from plans.credit_grants import CreditGrantDraft
from plans.model import SellerPatch
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
INVOICES = "SELECT count(*) FROM invoices"
OPEN = "SELECT id, status, as_of FROM billing_runs WHERE status NOT IN ('finished', 'cancelled')"


async def ask_first(shop, count=3):
    async with shop.database.transaction(seller=shop.seller) as connection:
        await change_seller(connection=connection, patch=SellerPatch(run_approval=True))
    for number in range(count):
        await shop.customer(f"c{number}")
        await shop.subscribe(f"s{number}", f"c{number}", starts_at="2026-01-31T00:00:00Z")


async def work(shop, now):
    """What a worker does at that instant."""
    posted = await tick(database=shop.database, now=now)
    runs = BackgroundRuns(database=shop.database, clock=lambda: now)
    await runs.look()
    await runs.wait()
    return posted


async def decide(shop, run, act, now, *, background=True):
    async with shop.database.transaction(seller=shop.seller) as connection:
        await control_run(
            connection=connection, run=run, act=RunAct(act), actor="key_test", reason=None,
            now=now, wall_now=now, background=background,
        )  # fmt: skip


async def proposals(shop):
    return await shop.rows(
        "SELECT object, version FROM outbox WHERE type = 'billing_run.proposed' ORDER BY position"
    )


async def test_the_worker_proposes_and_posts_what_was_approved(shop, database_url):
    await ask_first(shop)
    assert await work(shop, FEBRUARY) == 0
    ((run, status, as_of),) = await shop.rows(OPEN)
    assert (status, as_of) == ("awaiting_approval", FEBRUARY)
    assert await proposals(shop) == [(run, 1)]
    assert await shop.one(INVOICES) == 0
    await work(shop, FEBRUARY + timedelta(hours=1))
    assert len(await shop.rows(OPEN)) == 1
    await decide(shop, run, "approve", FEBRUARY)
    await work(shop, FEBRUARY + timedelta(hours=2))
    assert await shop.one(INVOICES) == 3
    assert await shop.rows(OPEN) == []
    await work(shop, FEBRUARY + timedelta(hours=3))
    assert await shop.rows(OPEN) == []
    assert len(await shop.rows("SELECT id FROM billing_runs")) == 1
    await work(shop, at("2026-03-01"))
    ((following, status, _),) = await shop.rows(OPEN)
    assert following != run
    assert await violations(database_url) == []


async def test_a_rejected_proposal_is_made_again_a_day_later(shop):
    await ask_first(shop)
    await work(shop, FEBRUARY)
    ((run, _, _),) = await shop.rows(OPEN)
    await decide(shop, run, "reject", FEBRUARY)
    await work(shop, FEBRUARY + timedelta(hours=23))
    assert await shop.rows(OPEN) == []
    await work(shop, FEBRUARY + timedelta(hours=25))
    ((again, status, _),) = await shop.rows(OPEN)
    assert again != run
    assert status == "awaiting_approval"


async def test_what_changed_since_is_proposed_again_by_itself(shop, database_url):
    await ask_first(shop)
    await work(shop, FEBRUARY)
    ((run, _, _),) = await shop.rows(OPEN)
    await grant(shop, "c1", amount="1.00")
    await decide(shop, run, "approve", FEBRUARY)
    await work(shop, FEBRUARY + timedelta(hours=1))
    assert await shop.one(INVOICES) == 2
    assert [(each, status) for each, status, _ in await shop.rows(OPEN)] == [
        (run, "awaiting_approval")
    ]
    assert await proposals(shop) == [(run, 1), (run, 2)]
    await decide(shop, run, "approve", FEBRUARY)
    await work(shop, FEBRUARY + timedelta(hours=2))
    assert await shop.one(INVOICES) == 3
    assert await violations(database_url) == []


async def test_a_proposal_whose_process_died_is_taken_up(shop, superuser):
    await ask_first(shop)
    await work(shop, FEBRUARY)
    ((run, _, _),) = await shop.rows(OPEN)
    for status, wanted in (("reviewing", "awaiting_approval"), ("running", "finished")):
        await superuser.execute(
            "UPDATE billing_runs SET status = $1, background = false WHERE id = $2", status, run
        )
        await work(shop, FEBRUARY + timedelta(minutes=1))
        assert await shop.one("SELECT status FROM billing_runs") == wanted
    assert await shop.one(INVOICES) == 3


async def test_whoever_is_parked_is_no_reason_for_a_run_every_tick(shop, superuser):
    await ask_first(shop, 1)
    await superuser.execute("ALTER TABLE invoices ADD CONSTRAINT spoilt CHECK (total_minor < 0)")
    for minutes in (0, 1, 59):
        await work(shop, FEBRUARY + timedelta(minutes=minutes))
    assert await shop.rows("SELECT status FROM billing_runs") == [("finished",)]
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    await work(shop, FEBRUARY + timedelta(minutes=61))
    ((_, status, _),) = await shop.rows(OPEN)
    assert status == "awaiting_approval"


async def test_whoever_is_parked_is_no_reason_for_a_run_that_nobody_approves_either(
    shop, superuser
):
    for customer in ("c0", "c1"):
        await shop.customer(customer)
    await shop.subscribe("s0", "c0", starts_at="2026-01-31T00:00:00Z")
    await superuser.execute("ALTER TABLE invoices ADD CONSTRAINT spoilt CHECK (total_minor < 0)")
    for minutes, runs in ((0, 1), (1, 1), (9, 1), (11, 2), (12, 2)):
        await work(shop, FEBRUARY + timedelta(minutes=minutes))
        assert await shop.one("SELECT count(*) FROM billing_runs") == runs
    await superuser.execute("ALTER TABLE invoices DROP CONSTRAINT spoilt")
    await shop.subscribe(
        "s1", "c1", starts_at="2026-01-31T00:00:00Z"
    )  # for whom a run begins, which tries the other one too
    await work(shop, FEBRUARY + timedelta(minutes=13))
    assert await shop.one(INVOICES) == 2
    assert await shop.one("SELECT count(*) FROM billing_runs") == 3


async def test_a_run_that_died_when_nothing_was_due_any_more_is_taken_up(shop, superuser):
    await shop.customer("c0")
    await shop.subscribe("s0", "c0", starts_at="2026-01-31T00:00:00Z")
    await work(shop, FEBRUARY)
    died = "UPDATE billing_runs SET status = 'running', finished_at = NULL"
    await superuser.execute(died)
    await work(shop, FEBRUARY + timedelta(minutes=1))
    assert await shop.rows("SELECT status FROM billing_runs") == [("finished",)]
    assert await shop.one(INVOICES) == 1


async def grant(shop, customer, **fields):
    body = {"key": f"g-{customer}", "customer": customer, "amount": "500.00", "kind": "promotional",
            "effective_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    draft = msgspec.convert(body | fields, CreditGrantDraft)
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        await grant_credit(
            connection=connection, seller=seller, draft=draft, now=at("2026-01-02"),
            wall_now=at("2026-01-02"),
        )  # fmt: skip


async def test_credit_that_expires_before_it_is_approved_pays_what_was_due_by_its_end(
    shop, database_url
):
    await ask_first(shop, 1)
    await grant(shop, "c0", expires_at="2026-02-01T00:00:00Z")
    await work(shop, FEBRUARY - timedelta(hours=12))
    ((run, _, _),) = await shop.rows(OPEN)
    await work(shop, FEBRUARY + timedelta(days=2))
    assert await shop.one("SELECT count(*) FROM credit_grants WHERE ended_at IS NOT NULL") == 0
    await decide(shop, run, "approve", FEBRUARY + timedelta(days=2))
    await work(shop, FEBRUARY + timedelta(days=2))
    assert await shop.rows("SELECT total_minor, promotional_minor FROM invoices") == [(0, 3100)]
    await work(shop, FEBRUARY + timedelta(days=2, minutes=1))
    assert await shop.one("SELECT count(*) FROM credit_grants WHERE ended_at IS NOT NULL") == 1
    assert await proposals(shop) == [(run, 1)]
    assert await violations(database_url) == []


async def test_what_is_due_by_the_end_of_credit_is_proposed_first(shop):
    await ask_first(shop, 1)
    await shop.subscribe("later", "c0", starts_at="2026-02-10T00:00:00Z")
    await grant(shop, "c0", expires_at="2026-02-01T00:00:00Z")
    now = at("2026-02-12")
    for as_of, total in ((FEBRUARY, 0), (now, 3100)):
        await work(shop, now)
        ((run, status, found),) = await shop.rows(OPEN)
        assert (status, found) == ("awaiting_approval", as_of)
        await decide(shop, run, "approve", now)
        await work(shop, now)
        posted = await shop.rows("SELECT total_minor FROM invoices WHERE run = :run", run=run)
        assert posted == [(total,)]
