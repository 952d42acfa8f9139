"""IN1, IN2, IN3, CL1: servers and PostgreSQL die at random; acknowledged = stored = billed.

`USANCE_KILLS` says how many die and `USANCE_SEED` when (`make crash` kills fifty). Two servers bill
by themselves while clients send, again and again and at once, into a week that is over and into the
one that runs.
"""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from decimal import Decimal
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import asyncpg
import msgspec
import pytest

from engine.db import AUDITOR_ROLE, PATIENT, open_database
from engine.postgres import start_or_join
from invoicing.rederive import rederive
from metering.store import decode_payload
from metering.verify_usage import verify_usage
from plans.seller_store import load_seller
from tests.api.command_line import USANCE, create_live_seller, environment
from tests.api.test_readme import is_ready
from tests.billing_world import violations
from tests.faults import chaos_sender
from tests.faults.embedded_homes import pid_of
from tests.fixtures_database import SMALL, make_template
from tests.processes import SECONDS, free_ports, program, wait_until

KILLS = int(os.environ.get("USANCE_KILLS") or 4)
SEED = int(os.environ.get("USANCE_SEED") or 1)
PATIENCE_SECONDS = 2 * SECONDS
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200 + 60 * KILLS)]
WEEK = {"unit": "week"}
PRICE = {"key": "n", "kind": "usage", "meter": "n", "model": "per_unit", "unit_amount": "0.01"}
STEPS = ["50", "500", "5000"]


class Scene:
    """A PostgreSQL, two servers on it, and the clients."""

    def __init__(self, *, running, home, dsn, work):
        self.running, self.home, self.dsn, self.work = running, home, dsn, work
        self.ports = free_ports(2)
        self.urls = [f"http://127.0.0.1:{port}" for port in self.ports]
        self.servers = [None, None]
        self.stack = contextlib.ExitStack()
        self.died = Counter()
        self.key = create_live_seller(database_url=dsn, home=work)

    def start(self, number):
        variables = environment(database_url=self.dsn, home=self.work)
        del variables["USANCE_WAIT_SECONDS"]  # the clients know what to do with a 503
        command = [*USANCE, "serve", "--port", str(self.ports[number])]
        self.servers[number] = self.stack.enter_context(program(command, env=variables))

    def is_ready(self, number):
        return is_ready(self.urls[number], self.servers[number])

    def ask(self, method, path, body=None):
        """The answer; what cannot be done now is asked again, and nothing is done twice for it."""
        named = {"idempotency-key": uuid.uuid4().hex}
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self.ask_once(method, path, body, named)
            except HTTPError as error:
                status, told = error.code, error.read().decode()
                error.close()
            assert status == 503 or "idempotency_in_progress" in told, told
            assert time.monotonic() < until, told
            time.sleep(1)

    def ask_once(self, method, path, body=None, named=None):
        data = None if body is None else msgspec.json.encode(body)
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        headers |= named or {}
        request = Request(f"{self.urls[0]}{path}", data=data, headers=headers, method=method)
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return msgspec.json.decode(answer.read() or b"null")

    def listed(self, path):
        """Every object of a list, page by page."""
        found, cursor = [], ""
        while True:
            page = self.ask("GET", f"{path}?limit=200{cursor}")
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def set_up(self, now):
        prices = {"key": "week", "currency": "USD", "interval": WEEK, "prices": [PRICE]}
        alert = {"key": "much", "meter": "n", "thresholds": STEPS}
        meter = {"key": "n", "event_type": "call", "aggregation": "sum", "value": "n"}
        starts_at = (now - 8 * chaos_sender.timedelta(days=1)).isoformat()
        for path, body in (
            ("/v1/meters", meter),
            ("/v1/plans", prices),
            ("/v1/usage_alerts", alert),
        ):
            self.ask("POST", path, body)
        for number in range(chaos_sender.CLIENTS):
            customer = f"c{number}"
            self.ask("POST", "/v1/customers", {"key": customer, "name": customer})
            body = {"key": f"s{number}", "customer": customer, "plan": "week"}
            self.ask("POST", "/v1/subscriptions", body | {"starts_at": starts_at})

    def kill(self, what, moments):
        """One of them dies on the spot, and whoever looks after it starts it again."""
        self.died[what] += 1
        if what == "server":
            number = moments.randrange(2)
            self.servers[number].kill()
            self.start(number)
            return
        if what == "postgres":
            os.kill(pid_of(self.home), signal.SIGKILL)
            self.running.ensure_running()
            return
        for pid in self.backends(moments):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def backends(self, moments):
        """A process of PostgreSQL that works for a server, if it can be asked."""

        async def find():
            raw = await asyncpg.connect(self.dsn, timeout=60)
            try:
                sql = (
                    "SELECT pid FROM pg_stat_activity WHERE application_name = 'usance' ORDER BY 1"
                )
                return [row["pid"] for row in await raw.fetch(sql)]
            finally:
                await raw.close()

        with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
            found = asyncio.run(find())
            return [moments.choice(found)] if found else []
        return []


@pytest.fixture
def scene(tmp_path):
    """A server of this test's own, that waits for the disk: it is going to be killed."""
    home = Path(tempfile.mkdtemp(prefix="usance-chaos-"))
    home.chmod(0o711)
    try:
        with start_or_join(home=home, throw_away=False, overrides=SMALL) as running:
            cluster = asyncio.run(make_template(admin_dsn=running.admin_dsn))
            asyncio.run(cluster.run(f"CREATE DATABASE chaos TEMPLATE {cluster.template}"))
            made = Scene(running=running, home=home, dsn=cluster.dsn("chaos"), work=tmp_path)
            with made.stack:
                yield made
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextlib.contextmanager
def clients(scene, now):
    """The clients, until they are told to stop: then each brings to its end what it began."""
    plan = chaos_sender.Plan(
        urls=scene.urls,
        key=scene.key,
        notes=str(scene.work),
        seed=SEED,
        spans=chaos_sender.spans_before(now),
    )
    (scene.work / "plan").write_bytes(msgspec.json.encode(plan))
    command = [sys.executable, "-m", "tests.faults.chaos_sender", str(scene.work / "plan")]
    with program(command) as process:
        yield process
        (scene.work / "stop").touch()
        assert process.wait(PATIENCE_SECONDS) == 0


def wait_for_more(scene, process):
    """Until several requests more are acknowledged: nobody stays down."""
    wanted = count_of(scene.work) + chaos_sender.CLIENTS

    def enough():
        process.require_running()  # a client found something wrong
        return count_of(scene.work) >= wanted

    wait_until(enough, seconds=PATIENCE_SECONDS)


def kill_while_they_send(scene, process):
    moments = random.Random(SEED)
    kinds = ["server", "postgres", "backend"]
    asked = []
    for number in range(KILLS):
        wait_for_more(scene, process)
        if number % 3 == 0:
            moments.shuffle(kinds)
        if moments.random() < 0.5:
            asked.append(threading.Thread(target=bill, args=(scene,)))
            asked[-1].start()
        time.sleep(moments.uniform(0, 0.4))
        scene.kill(kinds[number % 3], moments)
    wait_for_more(scene, process)
    for one in asked:
        one.join()


def bill(scene):
    """Somebody asks for a billing run, which may well die."""
    now = chaos_sender.utc_now().isoformat()
    with contextlib.suppress(OSError, HTTPException):
        scene.ask_once("POST", "/v1/billing_runs", {"as_of": now})


def count_of(work):
    return sum(file.read_bytes().count(b"\n") for file in work.glob("acknowledged-*"))


async def rows(dsn, sql):
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        return await raw.fetch(sql)
    finally:
        await raw.close()


def stored(dsn):
    """(customer, id, quantity) of every event in the database, by the superuser."""
    return [
        (each.subject, each.id, msgspec.json.decode(each.data)["n"])
        for row in asyncio.run(rows(dsn, "SELECT payload FROM event_batches"))
        for each in decode_payload(row["payload"])
    ]


def told(dsn):
    """How often alerts told, by customer and threshold."""
    sql = """SELECT c.key, t.threshold, count(*) AS times
      FROM outbox o JOIN usage_alert_triggers t ON t.id = o.object
      JOIN customers c ON c.id = t.customer GROUP BY 1, 2"""
    return {(row["key"], row["threshold"]): row["times"] for row in asyncio.run(rows(dsn, sql))}


def to_be_told(notes):
    """What the week that runs came to."""
    running = Counter()
    for note in notes:
        running[note.customer] += note.quantity if note.span == 1 else 0
    return {(who, step) for who, used in running.items() for step in STEPS if used >= int(step)}


async def mismatches(dsn):
    auditor = open_database(dsn=dsn, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=1, snapshot=True) as connection:
            seller = await load_seller(connection=connection)
            usage = await verify_usage(connection=connection)
            derived = await rederive(connection=connection, seller=seller)
            return (*derived.mismatches, *usage.differing)
    finally:
        await auditor.close()


def billed(scene):
    """What the documents come to by customer, in units and in cents."""
    units, cents = Counter(), Counter()
    for kind, sign in (("invoices", 1), ("credit_notes", -1)):
        for document in scene.listed(f"/v1/{kind}"):
            for line in document["lines"]:
                units[document["customer"]] += sign * Decimal(line["quantity"])
                cents[document["customer"]] += sign * Decimal(line["amount"]) * 100
    return units, cents


def test_acknowledged_is_stored_is_billed_whatever_dies(scene):
    now = chaos_sender.utc_now()
    for number in range(2):
        scene.start(number)
    for number in range(2):
        wait_until(lambda number=number: scene.is_ready(number), seconds=PATIENCE_SECONDS)
    scene.set_up(now)
    with clients(scene, now) as process:
        kill_while_they_send(scene, process)
    notes = chaos_sender.notes_of(scene.work)
    wait_until(lambda: scene.is_ready(0), seconds=PATIENCE_SECONDS)
    due = to_be_told(notes)
    wait_until(lambda: told(scene.dsn).keys() >= due, seconds=PATIENCE_SECONDS)
    for number in range(chaos_sender.CLIENTS):
        scene.ask("POST", f"/v1/subscriptions/s{number}/cancel", {"effective": "now"})
    scene.ask("POST", "/v1/billing_runs", {"as_of": chaos_sender.utc_now().isoformat()})

    acknowledged, held, events = Counter(), Counter(), stored(scene.dsn)
    for note in notes:
        acknowledged[note.customer] += note.quantity
    for customer, _, quantity in events:
        held[customer] += quantity
    units, cents = billed(scene)
    report(scene, len(notes), len(events))
    for who in sorted(acknowledged):
        sums = f"acknowledged {acknowledged[who]}, stored {held[who]}, billed {units[who]}"
        print(f"{who}: {sums}")
    assert sorted(each for _, each, _ in events) == sorted(i for note in notes for i in note.ids)
    assert len(acknowledged) == chaos_sender.CLIENTS
    assert acknowledged == held == units == cents
    assert told(scene.dsn) == dict.fromkeys(due, 1)
    assert asyncio.run(mismatches(scene.dsn)) == ()
    assert asyncio.run(violations(scene.dsn)) == []


def report(scene, requests, events):
    tallies = msgspec.json.decode((scene.work / "tally").read_bytes())
    names = [name for name in tallies[0] if name != "acknowledged"]
    died = ", ".join(f"{count} x {what}" for what, count in sorted(scene.died.items()))
    print(
        f"\n{KILLS} kills ({died}), seed {SEED}; {requests} requests of {events} events;", end=" "
    )
    print(", ".join(f"{sum(one[name] for one in tallies)} {name}" for name in names))
