"""A large run whose processes and servers are killed again and again writes the very same books.

`USANCE_RUN_SUBSCRIPTIONS` says how many subscriptions are billed, `USANCE_RUN_KILLS` how many times
something dies meanwhile and `USANCE_SEED` what and when (`make kills`: 100,000 and 100).
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from benchmarks.billing_world import SECOND_RUN, build_world
from engine.postgres import start_or_join
from tests.billing_world import violations
from tests.faults import billing_kills as kills
from tests.faults.book_digests import digests
from tests.faults.embedded_homes import pid_of
from tests.fixtures_database import SMALL, make_template
from tests.processes import program, python

SUBSCRIPTIONS = int(os.environ.get("USANCE_RUN_SUBSCRIPTIONS") or 300)
KILLS = int(os.environ.get("USANCE_RUN_KILLS") or 4)
SEED = int(os.environ.get("USANCE_SEED") or 1)
EVENTS = 10 * SUBSCRIPTIONS
ANCHORS = 28
MANY = 20
PATIENCE_SECONDS = 300
KINDS = ("run", "backend", "postmaster", "power")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200 + 60 * KILLS + SUBSCRIPTIONS // 50),
]
PORTIONS = f"Portions(most={max(40, SUBSCRIPTIONS // 10)}, chunk={max(9, SUBSCRIPTIONS // 200)})"
SCRIPT = f"""
import asyncio, sys
from datetime import datetime
from engine.db import PATIENT, open_database
from invoicing.portions import Portions
from invoicing.run_billing import run_billing

async def main():
    database = open_database(dsn=sys.argv[1], role="usance_app", pool_size=6, waiting=PATIENT)
    as_of = datetime.fromisoformat("{SECOND_RUN.isoformat()}")
    await run_billing(database=database, seller=1, as_of=as_of, now=as_of, portions={PORTIONS})
    await database.close()

asyncio.run(main())
"""


class Scene:
    """A server that is killed, and the books that are billed on it meanwhile."""

    def __init__(self, *, running, home, dsn):
        self.running, self.home, self.dsn = running, home, dsn
        self.died, self.idle = Counter(), 0

    def kill(self, kind, processes):
        """One of them dies on the spot; the server is started again by who finds it gone."""
        self.died[kind] += 1
        if kind == "run":
            processes[0].kill()
        elif kind == "backend":
            asyncio.run(self._kill_backend())
        elif kind == "postmaster":
            os.kill(pid_of(self.home), signal.SIGKILL)
        else:
            kills.kill_server(pid_of(self.home))

    async def _kill_backend(self):
        raw = await asyncpg.connect(self.dsn, timeout=60)
        try:
            found = await raw.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'usance'"
                " AND datname = current_database() ORDER BY state = 'active' DESC, pid LIMIT 1"
            )
        finally:
            await raw.close()
        if found is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(found, signal.SIGKILL)

    def recover(self):
        """Until the server answers again."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.running.ensure_running()
                return asyncio.run(self.numbered())
            except (OSError, asyncpg.PostgresError, TimeoutError):
                assert time.monotonic() < until, "the server does not come back"
                time.sleep(0.05)

    async def numbered(self):
        """How many invoices there are: their numbers have no gap."""
        raw = await asyncpg.connect(self.dsn, timeout=60)
        try:
            return await raw.fetchval(NUMBERED)
        finally:
            await raw.close()

    async def wait_for(self, more_than, processes):
        """Until so many are there, or nobody is at work any more."""
        raw = await asyncpg.connect(self.dsn, timeout=60)
        until = time.monotonic() + PATIENCE_SECONDS
        try:
            while any(each.poll() is None for each in processes):
                if await raw.fetchval(NUMBERED) > more_than:
                    return
                assert time.monotonic() < until, "the run does not go on"
                await asyncio.sleep(0.005)
        finally:
            await raw.close()


NUMBERED = "SELECT coalesce(max(next_sequence), 1) - 1 FROM number_series WHERE series = 'INV'"


@pytest.fixture
def scene():
    """The books, billed undisturbed in one copy and to be billed in the other."""
    home = Path(tempfile.mkdtemp(prefix="usance-scale-"))
    home.chmod(0o711)
    try:
        with start_or_join(home=home, throw_away=False, overrides=SMALL) as running:
            cluster = asyncio.run(make_template(admin_dsn=running.admin_dsn))
            asyncio.run(cluster.run(f"CREATE DATABASE calm TEMPLATE {cluster.template}"))
            world = {"subscriptions": SUBSCRIPTIONS, "events": EVENTS, "anchors": ANCHORS}
            assert asyncio.run(build_world(dsn=cluster.dsn("calm"), **world)) == 1
            asyncio.run(kills.copy_database(running.admin_dsn, "calm", "killed"))
            made = Scene(running=running, home=home, dsn=cluster.dsn("killed"))
            yield made, cluster.dsn("calm")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def bill(dsn):
    kills.finish(SCRIPT, dsn, seconds=PATIENCE_SECONDS + SUBSCRIPTIONS // 50)


def kill_again_and_again(scene):
    """Each kill waits for progress of its own, so they spread over the whole run."""
    moments = random.Random(SEED)
    begun = asyncio.run(scene.numbered())
    every, order = SUBSCRIPTIONS / (KILLS + 1), KINDS
    for number in range(KILLS):
        count = 1 + (moments.random() < 0.3)
        more_than = begun + int(every * (number + moments.random()))
        if number % len(KINDS) == 0:
            order = moments.sample(KINDS, len(KINDS))
        delay, kind = moments.uniform(0, 0.05), order[number % len(KINDS)]
        with contextlib.ExitStack() as stack:
            # Who loses the server fails by itself; who does not dies at the end of the block.
            command = python(SCRIPT, scene.dsn)
            processes = [stack.enter_context(program(command)) for _ in range(count)]
            asyncio.run(scene.wait_for(more_than, processes))
            time.sleep(delay)
            scene.idle += all(each.poll() is not None for each in processes)
            scene.kill(kind, processes)
        scene.recover()


def test_a_large_run_killed_again_and_again_writes_the_same_books(scene):
    scene, calm = scene
    bill(calm)
    wanted = asyncio.run(digests(calm))
    begin = time.monotonic()
    kill_again_and_again(scene)
    left = wanted["invoices"][0] - asyncio.run(scene.numbered())
    bill(scene.dsn)
    taken = time.monotonic() - begin
    print(
        f"{SUBSCRIPTIONS} subscriptions, killed: {dict(scene.died)}, {left} left;"
        f" {scene.idle} times idle, {taken:.0f} s"
    )
    assert sum(scene.died.values()) == KILLS
    if KILLS >= MANY:
        assert scene.idle <= KILLS // 4, "too often nobody was at work"
    found = asyncio.run(digests(scene.dsn))
    assert {table for table in wanted if found[table] != wanted[table]} == set()
    assert wanted["invoices"][0] == 2 * SUBSCRIPTIONS
    # The world is made without the identities of its events, which no run reads.
    assert {one.check for one in asyncio.run(violations(scene.dsn))} == {"event_batches"}
    bill(scene.dsn)
    again = asyncio.run(digests(scene.dsn))
    assert {table for table in found if again[table] != found[table]} == {"billing_runs"}
