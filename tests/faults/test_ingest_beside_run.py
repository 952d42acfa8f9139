"""Ingest beside a billing run whose processes are killed: acknowledged = stored = billed.

Clients post single events and batches, over sockets, into the period that is being billed. What is
acknowledged before a customer is measured is in its invoice, what comes later in the next run.
"""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import asyncpg
import httpx
import pytest

from benchmarks.billing_world import SECOND_RUN, build_world, start_of
from engine.db import open_database
from metering.store import decode_payload
from plans.api_keys import ApiKeyDraft, Scope
from plans.issue_key import issue_key
from plans.model import Mode
from tests.api.command_line import USANCE, environment
from tests.api.test_readme import free_port, wait_until_ready
from tests.billing_world import violations
from tests.faults import billing_kills as kills
from tests.faults.test_chaos import mismatches

SUBSCRIPTIONS, ANCHORS, KILLS = 1_000, 28, 4
CLOCK = datetime(2026, 2, 1, tzinfo=UTC)
"""All of it is in the first month of everybody, and young enough to be taken in."""
SIZES = (1, 1, 20, 100)
PATIENCE_SECONDS = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
RUN = f"""
import asyncio, sys
from datetime import datetime
from engine.db import open_database
from invoicing.run_billing import Portions, run_billing

async def main():
    database = open_database(dsn=sys.argv[1], role="usance_app", pool_size=3)
    as_of = datetime.fromisoformat("{SECOND_RUN.isoformat()}")
    portions = Portions(most=500, segment=500, chunk=25, few=0)
    await run_billing(database=database, seller=1, as_of=as_of, now=as_of, portions=portions)
    await database.close()

asyncio.run(main())
"""
BILLED = """
SELECT c.key, p.key AS plan, coalesce(sum(l.amount_minor), 0) AS minor
FROM customers c JOIN subscriptions s ON s.customer = c.id JOIN plans p ON p.id = s.plan
  LEFT JOIN (SELECT i.customer, l.amount_minor FROM invoices i JOIN line_items l
      ON l.document = i.id AND l.price_key = 'calls'
    UNION ALL SELECT n.customer, -l.amount_minor FROM credit_notes n JOIN line_items l
      ON l.document = n.id AND l.price_key = 'calls') l ON l.customer = c.id
GROUP BY 1, 2
"""


@pytest.fixture
def dsn(cluster):
    """A seller with subscriptions whose first month is to be billed, and a clock in it."""
    name = asyncio.run(cluster.make_clone())
    where = cluster.dsn(name)
    world = {"subscriptions": SUBSCRIPTIONS, "events": 0, "anchors": ANCHORS}
    assert asyncio.run(build_world(dsn=where, **world)) == 1
    asyncio.run(rows(where, f"UPDATE sellers SET mode = 'test', clock_at = '{CLOCK}'"))
    yield where
    asyncio.run(cluster.drop(name))


async def make_key(dsn):
    database = open_database(dsn=dsn, role="usance_app", pool_size=1)
    try:
        draft = ApiKeyDraft(name="test", scopes=(Scope.INGEST,))
        async with database.transaction(seller=1) as connection:
            made = await issue_key(
                connection=connection, mode=Mode.TEST, draft=draft, now=SECOND_RUN
            )
        return made.secret
    finally:
        await database.close()


@contextlib.contextmanager
def serving(dsn, home):
    """The API without a worker, which would bill by the clock on the wall."""
    port = free_port()
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [*USANCE, "serve", "--role", "api", "--port", str(port)],
            env=environment(database_url=dsn, home=home),
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
            server.wait()


class Senders:
    """Clients that send each request again until it is acknowledged."""

    def __init__(self, http):
        self.http = http
        self.stopping = asyncio.Event()
        self.acknowledged = []  # (customer, id)
        self.busy = 0

    async def send(self, number, size):
        moments, turn = random.Random(number), 0
        while not self.stopping.is_set():
            turn += 1
            events = [self._event(moments, f"{number}-{turn}-{each}") for each in range(size)]
            await self._deliver(events[0] if size == 1 else events)
            self.acknowledged += [(event["subject"], event["id"]) for event in events]
            await asyncio.sleep(0.02)

    @staticmethod
    def _event(moments, identity):
        customer = moments.randint(1, SUBSCRIPTIONS)
        start = start_of(customer, ANCHORS)
        when = start + (CLOCK - start) * moments.random()
        return {
            "id": identity, "type": "call", "subject": f"c{customer:07d}", "data": {},
            "time": when.isoformat(),
        }  # fmt: skip

    async def _deliver(self, body):
        while True:
            answer = await self.http.post("/v1/events", json=body)
            if answer.status_code == 200:
                told = answer.json()
                assert told["rejected"] == []
                return
            assert answer.status_code in {429, 503}, answer.text
            assert int(answer.headers["retry-after"]) >= 1
            self.busy += 1
            await asyncio.sleep(0.1)

    async def wait_for_more(self):
        """Until each of them may have been answered once more."""
        wanted = len(self.acknowledged) + sum(SIZES)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                if len(self.acknowledged) >= wanted:
                    return
                await asyncio.sleep(0.01)


async def rows(dsn, sql):
    raw = await asyncpg.connect(dsn, timeout=10)
    try:
        return await raw.fetch(sql)
    finally:
        await raw.close()


async def kill_again_and_again(dsn, senders):
    """Runs, each killed at another place; how many were alive then."""
    alive, posted = 0, "SELECT count(*) FROM invoices"
    for number in range(KILLS):
        ((before,),) = await rows(dsn, posted)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", RUN, dsn, cwd=kills.PROJECT
        )
        try:
            more = before + SUBSCRIPTIONS // (KILLS + 2) - number
            async with asyncio.timeout(PATIENCE_SECONDS):
                while process.returncode is None:
                    ((count,),) = await rows(dsn, posted)
                    if count > more:
                        break
            alive += process.returncode is None
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await senders.wait_for_more()
    return alive


async def run_to_its_end(dsn):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, dsn, cwd=kills.PROJECT
    )
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await process.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def beside(dsn, address, key):
    """What was acknowledged while runs were killed, and how many of them."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=address, headers=headers, timeout=PATIENCE_SECONDS
    ) as http:
        senders = Senders(http)
        async with asyncio.TaskGroup() as group:
            for number, size in enumerate(SIZES):
                group.create_task(senders.send(number, size))
            await senders.wait_for_more()
            alive = await kill_again_and_again(dsn, senders)
            await run_to_its_end(dsn)
            await senders.wait_for_more()
            senders.stopping.set()
    print(f"{len(senders.acknowledged)} events, {senders.busy} times busy, {alive} kills")
    return senders.acknowledged, alive


def cents(plan, count):
    price = Decimal(f"0.{12 + int(plan.removeprefix('plan')):04d}")
    return int((count * price * 100).quantize(Decimal(1), ROUND_HALF_UP))


def test_acknowledged_is_stored_is_billed_beside_a_run_that_dies(dsn, tmp_path):
    key = asyncio.run(make_key(dsn))
    with serving(dsn, tmp_path) as address:
        acknowledged, alive = asyncio.run(beside(dsn, address, key))
    assert alive
    stored = [
        (each.subject, each.id)
        for row in asyncio.run(rows(dsn, "SELECT payload FROM event_batches"))
        for each in decode_payload(row["payload"])
    ]
    assert sorted(stored) == sorted(acknowledged)
    asyncio.run(run_to_its_end(dsn))
    used = Counter(customer for customer, _ in acknowledged)
    billed = asyncio.run(rows(dsn, BILLED))
    assert len(billed) == SUBSCRIPTIONS
    wrong = {
        row["key"]: (row["minor"], used[row["key"]])
        for row in billed
        if row["minor"] != cents(row["plan"], used[row["key"]])
    }
    assert wrong == {}
    assert asyncio.run(mismatches(dsn)) == ()
    assert asyncio.run(violations(dsn)) == []
