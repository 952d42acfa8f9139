"""A run that is paused, resumed and killed in between ends in the books of an undisturbed one."""

import asyncio
import random
import signal

import pytest

from engine.db import PATIENT, open_database
from engine.errors import BillingError
from invoicing.control_run import control_run
from invoicing.portions import Portions
from invoicing.run_billing import take_up_run
from invoicing.run_states import RunAct
from tests.billing_world import violations
from tests.faults import billing_kills as kills


@pytest.fixture
def copies(cluster):
    """Three copies of the same books."""
    names = [asyncio.run(cluster.make_clone())]
    asyncio.run(kills.fill_books(cluster.dsn(names[0]), 60))
    for suffix in ("a", "b"):
        names.append(f"{names[0]}_{suffix}")
        asyncio.run(kills.copy_database(cluster.admin_dsn, names[0], names[-1]))
    yield [cluster.dsn(name) for name in names]
    for name in names:
        asyncio.run(cluster.drop(name))


async def move(database, act):
    """Do this to the run, if it is such that it may be done; tell its id then."""
    async with database.transaction(seller=1) as connection:
        rows = await connection.exec_driver_sql(
            "SELECT id FROM billing_runs WHERE as_of = '2026-03-15' AND seller = 1"
        )
        (run,) = rows.scalars()
    try:
        async with database.transaction(seller=1) as connection:
            await control_run(
                connection=connection,
                run=run,
                act=RunAct(act),
                actor="key_test",
                reason=None,
                now=kills.AS_OF,
                wall_now=kills.AS_OF,
            )
    except BillingError:
        return None
    return run


async def resume_and_pause(dsn, chunks):
    """Go on with the run for so many chunks; whether it is through."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=6, waiting=PATIENT)
    seen, pausing = 0, []

    def report(progress):
        nonlocal seen
        seen += 1
        if seen == chunks:
            pausing.append(asyncio.ensure_future(move(database, "pause")))

    try:
        run = await move(database, "resume")
        assert run is not None
        told = await take_up_run(
            database=database,
            seller=1,
            run=run,
            now=kills.AS_OF,
            portions=Portions(segment=40, chunk=9, few=0),
            report=report,
        )
        await asyncio.gather(*pausing)
        return told.status == "finished"
    finally:
        await database.close()


async def pause_it(dsn):
    database = open_database(dsn=dsn, role="usance_app", pool_size=1, waiting=PATIENT)
    try:
        return await move(database, "pause")
    finally:
        await database.close()


@pytest.mark.slow
def test_paused_and_killed_it_ends_in_the_same_books(copies, tmp_path):
    calm, paused, killed = copies
    kills.finish(kills.RUN_ONE_BY_ONE, calm)
    expected = asyncio.run(kills.everything(calm))
    moments = random.Random(5)
    for dsn, is_killed in ((paused, False), (killed, True)):
        before = kills.count_rows(dsn) + kills.count_rows(dsn, "credit_notes")
        with kills.halted(dsn, tmp_path / str(is_killed)) as (process, go_on):
            held = kills.count_rows(dsn), kills.count_rows(dsn, "credit_notes")
            assert sum(held) > before
            assert asyncio.run(pause_it(dsn))
            if is_killed:
                process.kill()
            go_on()
            assert process.wait() == (-signal.SIGKILL if is_killed else 0)
        assert (kills.count_rows(dsn), kills.count_rows(dsn, "credit_notes")) == held
        assert len(expected["invoices"]) > held[0]
        for _ in range(4):
            if asyncio.run(resume_and_pause(dsn, moments.randrange(1, 4))):
                break
        else:
            assert asyncio.run(resume_and_pause(dsn, 10_000))
        found = asyncio.run(kills.everything(dsn))
        for table, rows in expected.items():
            assert found[table] == rows, table
        assert asyncio.run(violations(dsn)) == []
