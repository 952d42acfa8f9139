"""A run is cut while the next chunk lies there already: the books that follow are the same."""

import asyncio
import contextlib
from itertools import count

import pytest

from engine.db import PATIENT, open_database
from invoicing.copy_ahead import CopyAhead
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from tests.billing_world import SEATS, TIERS, open_shop, plan
from tests.database.test_copy_ahead import CUSTOMERS, FEBRUARY, fill
from tests.faults import billing_kills as kills

pytestmark = [pytest.mark.slow, pytest.mark.timeout(kills.PATIENCE_SECONDS)]
PORTIONS = Portions(first=9, most=9, chunk=3, few=0)
STRIDE = 5


@pytest.fixture
def filled(cluster):
    """The name of a database with a month to bill."""
    name = asyncio.run(cluster.make_clone())
    asyncio.run(fill_shop(cluster.dsn(name)))
    yield name
    asyncio.run(cluster.drop(name))


async def fill_shop(dsn):
    await kills.open_books(dsn, mode="live")
    database = open_database(dsn=dsn, role="usance_app", pool_size=3, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(plan(SEATS, TIERS))
            await fill(shop)
    finally:
        await database.close()


async def bill(dsn, cut_at=None):
    """(run or None, whether it came to the cut)."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=6, waiting=PATIENT)
    run = None
    try:
        with kills.cut_at(database, cut_at) as is_cut, contextlib.suppress(kills.CutError):
            run = await run_billing(
                database=database, seller=1, as_of=FEBRUARY, now=FEBRUARY, portions=PORTIONS
            )
        return run, is_cut()
    finally:
        await database.close()


def test_a_run_that_fails_at_any_statement_ends_in_the_same_books(cluster, filled, monkeypatch):
    """What fails ahead is done anew, and what fails in its turn ends the run: until the next."""
    taken = []
    take = CopyAhead.take

    async def counted(ahead, chunk):
        begun = await take(ahead, chunk)
        taken.append(begun is not None)
        return begun

    monkeypatch.setattr(CopyAhead, "take", counted)

    def copy(place):
        name = f"{filled}_{place}"
        asyncio.run(kills.copy_database(cluster.admin_dsn, filled, name))
        return name

    calm = copy(0)
    assert asyncio.run(bill(cluster.dsn(calm)))[0].documents == CUSTOMERS
    assert taken == [True] * (CUSTOMERS // PORTIONS.chunk)
    expected = asyncio.run(kills.everything(cluster.dsn(calm)))
    expected.pop("billing_runs")  # a run that is cut at its very end is followed by one of nothing
    asyncio.run(cluster.drop(calm))
    swallowed = raised = 0
    for cut_at in count(1, STRIDE):
        name = copy(cut_at)
        run, is_cut = asyncio.run(bill(cluster.dsn(name), cut_at))
        if run is None:
            raised += 1
            asyncio.run(bill(cluster.dsn(name)))
        else:
            swallowed += is_cut
        found = asyncio.run(kills.everything(cluster.dsn(name)))
        asyncio.run(cluster.drop(name))
        for table, rows in expected.items():
            assert found[table] == rows, (cut_at, table)
        if not is_cut:
            break
    assert raised > 10
    assert swallowed > 0
