"""A billing run that is killed, anywhere and again and again, ends in the very same books."""

import asyncio
import random
import shutil
import tempfile
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from engine.db import PATIENT, open_database
from engine.postgres import start_or_join
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from tests.billing_world import SEATS, TIERS, at, open_shop, plan, violations
from tests.faults import billing_kills as kills
from tests.faults.embedded_homes import pid_of
from tests.fixtures_database import SMALL, make_template
from tests.processes import wait_until

CUSTOMERS = 200
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * kills.PATIENCE_SECONDS)]
DOCUMENT_TABLES = (
    "invoices",
    "credit_notes",
    "line_items",
    "settlements",
    "journal_entries",
    "postings",
    "outbox",
)


@pytest.fixture(scope="module")
def server():
    """A server of this module's own: it is going to be killed."""
    home = Path(tempfile.mkdtemp(prefix="usance-kill-"))
    home.chmod(0o711)
    try:
        with start_or_join(home=home, throw_away=False, overrides=SMALL) as running:
            cluster = asyncio.run(make_template(admin_dsn=running.admin_dsn))
            yield running, cluster, home
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def books(server):
    """The address of each copy of the same books, made when asked for; `calm` is never killed."""
    running, cluster, _ = server
    asyncio.run(cluster.run(f"CREATE DATABASE filled TEMPLATE {cluster.template}"))
    asyncio.run(kills.fill_books(cluster.dsn("filled"), CUSTOMERS))

    def copy(name):
        asyncio.run(kills.copy_database(running.admin_dsn, "filled", name))
        return cluster.dsn(name)

    return copy


@pytest.fixture(scope="module")
def undisturbed(books):
    """What a run writes that nobody kills, and that derives subscriptions one by one."""
    dsn = books("calm")
    kills.finish(kills.RUN_ONE_BY_ONE, dsn)
    found = asyncio.run(kills.everything(dsn))
    assert asyncio.run(violations(dsn)) == []
    kinds = {row[3] for row in found["settlements"]}
    assert kinds == {"credit_note", "customer_balance"}, "the books must hold every kind of work"
    return found


def assert_same(dsn, undisturbed):
    found = asyncio.run(kills.everything(dsn))
    for table, rows in undisturbed.items():
        assert found[table] == rows, table


def test_a_run_killed_again_and_again_ends_in_the_same_books(books, undisturbed):
    dsn = books("killed")
    before = kills.count_rows(dsn) + kills.count_rows(dsn, "credit_notes")
    documents = len(undisturbed["invoices"]) + len(undisturbed["credit_notes"]) - before
    moments = random.Random(7)
    kills.kill_again_and_again(kills.RUN, dsn, [(9, 0), (14, 0)])
    posted = kills.count_rows(dsn) + kills.count_rows(dsn, "credit_notes") - before
    assert 0 < posted < documents
    deaths = [(commits, moments.uniform(0, 0.02)) for commits in (1, 12, 20)]
    kills.kill_again_and_again(kills.RUN, dsn, deaths)
    kills.finish(kills.RUN, dsn)
    assert_same(dsn, undisturbed)
    kills.finish(kills.RUN, dsn)
    after = asyncio.run(kills.everything(dsn))
    assert after["invoices"] == undisturbed["invoices"]


def test_a_server_killed_in_the_middle_of_runs_ends_in_the_same_books(server, books, undisturbed):
    running, _, home = server
    dsn = books("power_cut")

    async def run(cut_after):
        database = open_database(dsn=dsn, role="usance_app", pool_size=6, waiting=PATIENT)
        chunks = 0

        def report(progress):
            nonlocal chunks
            chunks += 1
            if chunks == cut_after:
                kills.kill_server(pid_of(home))

        try:
            return await run_billing(
                database=database,
                seller=1,
                as_of=kills.AS_OF,
                now=kills.AS_OF,
                portions=Portions(segment=40, chunk=9),
                report=report,
            )
        finally:
            await database.close()

    for cut_after in (2, 7):
        with pytest.raises((OSError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            asyncio.run(run(cut_after))
        running.ensure_running()
        wait_until(lambda: kills.count_rows(dsn) > 0)
    asyncio.run(run(None))
    assert_same(dsn, undisturbed)


async def bill_small(database, **how):
    return await run_billing(database=database, seller=1, as_of=kills.AS_OF, now=kills.AS_OF, **how)


@pytest.fixture
def small(cluster):
    """Three copies of small books: calm, and two to be disturbed."""
    names = [asyncio.run(cluster.make_clone())]
    asyncio.run(kills.fill_books(cluster.dsn(names[0]), 12))
    for suffix in ("a", "b"):
        names.append(f"{names[0]}_{suffix}")
        asyncio.run(kills.copy_database(cluster.admin_dsn, names[0], names[-1]))
    yield [cluster.dsn(name) for name in names]
    for name in names:
        asyncio.run(cluster.drop(name))


def test_a_run_that_fails_at_every_statement_ends_in_the_same_books(small):
    calm, disturbed, _ = small

    async def attempt(dsn, cut_at):
        """Whether the run ended without being cut at the statement or commit of that number."""
        database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
        try:
            with kills.cut_at(database, cut_at):
                # What is derived ahead and thrown away would swallow the cut.
                await bill_small(database, portions=Portions(ahead=False))
        except kills.CutError:
            return False
        finally:
            await database.close()
        return True

    assert asyncio.run(attempt(calm, None))
    cut_at = 1
    while not asyncio.run(attempt(disturbed, cut_at)):
        cut_at += 1
    assert cut_at > 20
    assert_same(disturbed, asyncio.run(kills.everything(calm)))


def test_a_run_whose_tables_fail_one_by_one_ends_in_the_same_books(small):
    calm, disturbed, _ = small

    async def bill(dsn):
        database = open_database(dsn=dsn, role="usance_app", pool_size=6, waiting=PATIENT)
        try:
            await bill_small(database, portions=Portions(segment=5, chunk=2))
        finally:
            await database.close()

    async def break_down(table):
        raw = await asyncpg.connect(disturbed, timeout=60)
        try:
            await raw.execute(
                "CREATE OR REPLACE FUNCTION break_down() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'disk on fire' USING ERRCODE = 'io_error'; END $$;"
                f" CREATE TRIGGER zz_break AFTER INSERT ON {table} FOR EACH STATEMENT"
                " EXECUTE FUNCTION break_down()"
            )
            with pytest.raises(Exception, match="disk on fire"):
                await bill(disturbed)
            await raw.execute(f"DROP TRIGGER zz_break ON {table}")
        finally:
            await raw.close()

    asyncio.run(bill(calm))
    for table in DOCUMENT_TABLES:
        asyncio.run(break_down(table))
    asyncio.run(bill(disturbed))
    assert_same(disturbed, asyncio.run(kills.everything(calm)))


def test_a_clock_killed_on_its_way_arrives_with_the_same_books(server):
    running, cluster, _ = server

    async def open_clock(dsn):
        await kills.open_books(dsn, mode="test", clock_at="2026-01-01T00:00:00Z")
        database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
        try:
            async with open_shop(database, 1) as shop:
                await shop.publish(plan(SEATS, TIERS))
                await kills.enrol(shop, 40)
                await kills.use(shop, "first", 40, at("2026-01-25"), 80)
                await shop.cancel("c003", now=at("2026-01-01"), effective="2026-02-28T00:00:00Z")
        finally:
            await database.close()

    asyncio.run(cluster.run(f"CREATE DATABASE clock TEMPLATE {cluster.template}"))
    asyncio.run(open_clock(cluster.dsn("clock")))
    asyncio.run(kills.copy_database(running.admin_dsn, "clock", "clock_killed"))
    kills.finish(kills.ADVANCE, cluster.dsn("clock"))
    calm = asyncio.run(kills.everything(cluster.dsn("clock")))
    assert asyncio.run(violations(cluster.dsn("clock"))) == []
    dsn = cluster.dsn("clock_killed")
    moments = random.Random(11)
    kills.kill_again_and_again(kills.ADVANCE, dsn, [(20, 0), (50, 0)])
    assert 0 < kills.count_rows(dsn) < len(calm["invoices"])
    deaths = [(commits, moments.uniform(0, 0.03)) for commits in (60, 80)]
    kills.kill_again_and_again(kills.ADVANCE, dsn, deaths)
    kills.finish(kills.ADVANCE, dsn)
    assert_same(dsn, calm)
