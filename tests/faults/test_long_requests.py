"""Clients that leave while a run or a simulation works, and a server that dies meanwhile."""

import asyncio
import contextlib
import signal
import socket
import time
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from tests.api.command_line import create_seller
from tests.api.test_readme import serving
from tests.api.test_serve import ask
from tests.api.world import METER, PLAN
from tests.processes import SECONDS

RUN = {"as_of": "2026-03-01T00:00:00Z"}
SIMULATION = {"from": "2026-01-01", "to": "2026-03-01",
              "price_lists": [{"plan": "pro", "prices": []}]}  # fmt: skip


@pytest.fixture
def shop(database_url, tmp_path):
    """A test seller with three customers that owe three months; where it is, and its key."""
    place = {"database_url": database_url, "home": tmp_path}
    _, key = create_seller(**place)
    with serving(**place) as (address, _):
        for path, body in [
            ("/v1/meters", METER),
            ("/v1/plans", PLAN),
            *(("/v1/customers", {"key": f"c{n}", "name": "C"}) for n in range(3)),
            *(("/v1/subscriptions", {"key": f"s{n}", "customer": f"c{n}", "plan": "pro",
                                     "starts_at": "2026-01-01T00:00:00Z"}) for n in range(3)),
        ]:  # fmt: skip
            status, told = ask(address, key, "POST", path, body)
            assert status == 201, told
    asyncio.run(execute(database_url, "UPDATE sellers SET clock_at = '2026-03-01'"))
    return place, key


async def execute(dsn, statement):
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        await raw.execute(statement)
    finally:
        await raw.close()


async def wait_for(dsn, condition):
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        until = time.monotonic() + SECONDS
        while not await raw.fetchval(f"SELECT EXISTS ({condition})"):
            assert time.monotonic() < until, condition
            await asyncio.sleep(0.02)
    finally:
        await raw.close()


@contextlib.contextmanager
def gate(dsn):
    """No invoice is posted before it is left; gives a function that waits until one would be."""
    asyncio.run(execute(dsn, """
        CREATE TABLE gate AS SELECT true AS is_shut; CREATE UNLOGGED SEQUENCE gate_knocks;
        CREATE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
          PERFORM nextval('gate_knocks');
          WHILE EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.02); END LOOP;
          RETURN NULL;
        END $$;
        CREATE TRIGGER zz_gate BEFORE INSERT ON invoices FOR EACH STATEMENT
          EXECUTE FUNCTION wait_at_gate()
    """))  # fmt: skip
    try:
        yield lambda: asyncio.run(wait_for(dsn, "SELECT FROM gate_knocks WHERE is_called"))
    finally:
        asyncio.run(execute(dsn, "DELETE FROM gate"))


@contextlib.contextmanager
def locked(dsn, table):
    """Nobody gets at the table; gives a function that waits until somebody wants to."""
    with asyncio.Runner() as loop:
        raw = loop.run(asyncpg.connect(dsn, timeout=60))
        try:
            loop.run(raw.execute(f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            waits = "SELECT FROM pg_locks WHERE NOT granted AND relation = '{}'::regclass"
            yield lambda: loop.run(wait_for(dsn, waits.format(table)))
        finally:
            loop.run(raw.close())


def send_and_stay(address, key, path, body):
    """A request on a socket of its own, its answer not waited for."""
    content = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: usance\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nIdempotency-Key: gone\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    place = urlsplit(address)
    opened = socket.create_connection((place.hostname, place.port), timeout=SECONDS)
    opened.sendall(head.encode() + content)
    return opened


def eventually(address, key, path, wanted):
    until = time.monotonic() + SECONDS
    while True:
        status, told = ask(address, key, "GET", path)
        assert status in {200, 503}, told  # a disk may stand still
        found = msgspec.json.decode(told)
        if status == 200 and wanted(found):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.05)


def test_a_run_goes_on_when_its_client_leaves(shop):
    place, key = shop
    with serving(**place) as (address, _):
        with gate(place["database_url"]) as wanted:
            opened = send_and_stay(address, key, "/v1/billing_runs", RUN)
            wanted()
            opened.close()
        found = eventually(
            address, key, "/v1/billing_runs",
            lambda page: page["data"] and page["data"][0]["status"] == "finished",
        )  # fmt: skip
        (run,) = found["data"]
        assert run["documents"] == 9
        # The answer that nobody took is kept under the key.
        with send_and_stay(address, key, "/v1/billing_runs", RUN) as opened:
            answer = b""
            while b'"documents"' not in answer:
                more = opened.recv(65_536)
                assert more, answer
                answer += more
        assert b" 201 " in answer.splitlines()[0]
        assert run["id"].encode() in answer
        _, told = ask(address, key, "GET", "/v1/billing_runs")
        assert len(msgspec.json.decode(told)["data"]) == 1


def test_a_simulation_ends_when_its_client_leaves(shop):
    place, key = shop
    with serving(**place) as (address, _):
        with locked(place["database_url"], "meters") as wanted:
            opened = send_and_stay(address, key, "/v1/simulations", SIMULATION)
            wanted()
            opened.close()
        until = time.monotonic() + SECONDS
        while True:
            status, told = ask(address, key, "POST", "/v1/simulations", SIMULATION)
            if status == 200:
                break
            assert status == 503 or msgspec.json.decode(told)["code"] == "simulation_running"
            assert time.monotonic() < until
            time.sleep(0.1)
        assert msgspec.json.decode(told)["totals"]


def test_a_run_that_nobody_waits_for_outlives_its_server(shop):
    place, key = shop
    with gate(place["database_url"]) as wanted, serving(**place) as (address, server):
        status, told = ask(address, key, "POST", "/v1/billing_runs", RUN | {"wait": False})
        assert status == 202, told
        run = msgspec.json.decode(told)["id"]
        wanted()
        server.send_signal(signal.SIGKILL)
        server.wait()
    with serving(**place) as (address, _):
        path = f"/v1/billing_runs/{run}"
        found = eventually(address, key, path, lambda told: told["status"] == "finished")
    assert found["documents"] == 9
