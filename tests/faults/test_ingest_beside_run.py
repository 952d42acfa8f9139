"""Ingest beside a billing run whose processes are killed: acknowledged = stored = billed.

Clients post single events and batches, over sockets, into the period that is being billed. What is
acknowledged before a customer is measured is in its invoice, what comes later in the next run.
"""

import asyncio
import contextlib
import random
import signal
from collections import Counter
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import asyncpg
import httpx
import pytest

from benchmarks.billing_world import SECOND_RUN, build_world, start_of
from engine.db import PATIENT, open_database
from metering.store import decode_payload
from plans.api_keys import ApiKeyDraft, Scope
from plans.issue_key import issue_key
from plans.model import Mode
from tests.api.command_line import USANCE, environment
from tests.api.test_readme import is_ready
from tests.billing_world import violations
from tests.faults.test_chaos import mismatches
from tests.processes import SECONDS, free_ports, program, python, wait_until

SUBSCRIPTIONS, ANCHORS = 1_000, 28
DEATHS = ((12, 0), (15, 0.003), (18, 0.01), (20, 0.02))
"""Each dies so many seconds after it began so many commits."""
CLOCK = datetime(2026, 2, 1, tzinfo=UTC)
"""All of it is in the first month of everybody, and young enough to be taken in."""
SIZES = (1, 1, 20, 100)
pytestmark = [pytest.mark.slow, pytest.mark.timeout(10 * SECONDS)]
RUN = f"""
import asyncio, sys
from datetime import datetime
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from tests.faults.billing_kills import mortal

async def main():
    as_of = datetime.fromisoformat("{SECOND_RUN.isoformat()}")
    portions = Portions(most=500, segment=500, chunk=25, few=0)
    async with mortal(*sys.argv[1:]) as database:
        await run_billing(database=database, seller=1, as_of=as_of, now=as_of, portions=portions)

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
    database = open_database(dsn=dsn, role="usance_app", pool_size=1, waiting=PATIENT)
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
    (port,) = free_ports(1)
    command = [*USANCE, "serve", "--role", "api", "--port", str(port)]
    with program(command, env=environment(database_url=dsn, home=home)) as server:
        address = f"http://127.0.0.1:{port}"
        wait_until(lambda: is_ready(address, server))
        yield address


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
        async with asyncio.timeout(SECONDS):
            while True:
                if len(self.acknowledged) >= wanted:
                    return
                await asyncio.sleep(0.01)


async def rows(dsn, sql):
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        return await raw.fetch(sql)
    finally:
        await raw.close()


async def kill_again_and_again(dsn, senders):
    """Runs, each of which dies at another place."""
    for commits, delay_seconds in DEATHS:
        with program(python(RUN, dsn, str(commits), str(delay_seconds))) as process:
            assert await asyncio.to_thread(process.wait) == -signal.SIGKILL
        if not delay_seconds:
            ((posted,),) = await rows(dsn, "SELECT count(*) FROM invoices WHERE status <> 'draft'")
            print(f"{posted} documents are posted")
            assert 0 < posted < 2 * SUBSCRIPTIONS
        await senders.wait_for_more()


async def run_to_its_end(dsn):
    with program(python(RUN, dsn)) as process:
        assert await asyncio.to_thread(process.wait) == 0


async def beside(dsn, address, key):
    """What was acknowledged while runs were killed."""
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=SECONDS) as http:
        senders = Senders(http)
        async with asyncio.TaskGroup() as group:
            for number, size in enumerate(SIZES):
                group.create_task(senders.send(number, size))
            await senders.wait_for_more()
            await kill_again_and_again(dsn, senders)
            await run_to_its_end(dsn)
            await senders.wait_for_more()
            senders.stopping.set()
    print(f"{len(senders.acknowledged)} events, {senders.busy} times busy")
    return senders.acknowledged


def cents(plan, count):
    price = Decimal(f"0.{12 + int(plan.removeprefix('plan')):04d}")
    return int((count * price * 100).quantize(Decimal(1), ROUND_HALF_UP))


def test_acknowledged_is_stored_is_billed_beside_a_run_that_dies(dsn, tmp_path):
    key = asyncio.run(make_key(dsn))
    with serving(dsn, tmp_path) as address:
        acknowledged = asyncio.run(beside(dsn, address, key))
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
