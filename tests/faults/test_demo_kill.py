"""`usance demo --usage`, killed while it takes in and while it bills, ends as if it never was."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime

import asyncpg
import msgspec
import pytest

from api.app import create_app
from api.in_process import Client, lifespan
from api.runtime import DATABASE_NAME, make_ready, runtime
from engine.postgres import role_password
from engine.postgres_address import socket_dsn
from engine.settings import Settings
from metering.ingest import PATIENT_SECONDS
from tests.api.command_line import USANCE, environment
from tests.faults.embedded_homes import is_alive, pid_of
from tests.processes import SECONDS, program, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(10 * SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="death signals and /proc are Linux's"),
]

CUSTOMERS = 6
JANUARY, FEBRUARY = 12_000, 5_000
ROWS = JANUARY + FEBRUARY
OPTIONS = ("--time-column", "at", "--value", "Tokens", "--customers", str(CUSTOMERS))
AT_ONCE = "true"
SOME_EVENTS = "EXISTS (SELECT FROM event_keys)"
JANUARY_BILLED = """
EXISTS (SELECT FROM billing_runs WHERE as_of = '2026-02-01Z' AND status = 'finished')
"""
OPEN = "DROP FUNCTION IF EXISTS stand_still CASCADE"
CLOSE = """
CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN IF {when} THEN PERFORM pg_sleep(3600); END IF; RETURN NULL; END $$;
CREATE TRIGGER aa_stand_still BEFORE INSERT ON {table} FOR EACH STATEMENT
EXECUTE FUNCTION stand_still()
"""
STANDS_STILL = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')"


@pytest.fixture
def file(tmp_path):
    months = [("01", number) for number in range(JANUARY)]
    months += [("02", number) for number in range(FEBRUARY)]
    rows = [
        f"2026-{month}-{number % 28 + 1:02} {number % 24:02}:00:00,{number % 977}.25,x"
        for month, number in months
    ]
    made = tmp_path / "requests.csv"
    made.write_text("\n".join(["at,Tokens,note", *rows, ""]), encoding="utf-8")
    return made


def demo(home, file):
    """The demo, for the length of the block at most."""
    arguments = [*USANCE, "demo", "--usage", str(file), *OPTIONS]
    return program(arguments, env=environment(database_url="", home=home))


def to_the_end(home, file):
    """What a run that nobody kills prints."""
    with demo(home, file) as process:
        assert process.wait(3 * SECONDS) == 0
        return process.out()


async def ask(home, query):
    """What the server of the demo answers, None while it cannot."""
    with suppress(OSError, asyncpg.PostgresError):
        admin = socket_dsn(
            socket_dir=home / "postgres" / "run",
            port=5432,
            password=role_password(home=home, role="postgres"),
        )
        raw = await asyncpg.connect(admin.replace("/postgres?", f"/{DATABASE_NAME}?"))
        try:
            return await raw.fetchval(query)
        finally:
            raw.terminate()
    return None


def killed(home, file, table, *, when):
    """SIGKILL the demo at the moment when it is about to write to the table.

    From when on `when` holds the table lets nobody in: the demo cannot get past it meanwhile.
    """
    arrange(home, CLOSE.format(table=table, when=when))
    place = home / "demo"
    with demo(home, file) as process:

        def stands_still():
            process.require_running()
            return asyncio.run(ask(place, STANDS_STILL))

        wait_until(stands_still)
        server = pid_of(place)
        assert process.kill() == -signal.SIGKILL
    wait_until(lambda: not is_alive(place, server))
    arrange(home, OPEN)


def arrange(home, sql):
    """Do this to the demo's database while nobody uses it."""

    async def execute(running):
        await make_ready(started=running)
        raw = await asyncpg.connect(running.admin_dsn)
        try:
            await raw.execute(sql)
        finally:
            await raw.close()

    with runtime(settings=settings_of(home)) as running:
        asyncio.run(execute(running))


def settings_of(home):
    return Settings(home=home / "demo", search_path=os.environ["PATH"])


def documents(home, printed):
    """(invoices as canonical JSON, the hash of each one's PDF, the ids of all sellers)."""
    key = re.search(r"KEY=(\S+)", printed).group(1)

    async def read(running):
        database, reader = running.open(), running.open_for_audit()
        application = create_app(
            database=database, clock=lambda: datetime.now(UTC), commit_seconds=PATIENT_SECONDS
        )
        try:
            async with lifespan(application=application):
                client = Client(application=application, key=key)
                invoices = (await client.get("/v1/invoices?limit=200")).json()["data"]
                pdfs = {}
                for entry in invoices:
                    answer = await client.get(f"/v1/invoices/{entry['id']}.pdf")
                    assert answer.ok
                    pdfs[entry["number"]] = hashlib.sha256(answer.body).hexdigest()
            async with reader.transaction(seller=None) as connection:
                sellers = (await connection.exec_driver_sql("SELECT id FROM sellers")).all()
                working = "SELECT count(*) FROM api_keys WHERE revoked_at IS NULL"
                assert (await connection.exec_driver_sql(working)).scalar_one() == 1
        finally:
            await reader.close()
            await database.close()
        return msgspec.json.encode(invoices, order="sorted"), pdfs, sellers

    with runtime(settings=settings_of(home)) as running:
        return asyncio.run(read(running))


def without_ids(canonical):
    """Invoices by number; ids hold random bits of the customers, which two homes have each."""
    masked = re.sub(rb'"(inv|li|sub|cus)_[0-9a-z]{26}"', b'"id"', canonical)
    return sorted(msgspec.json.decode(masked), key=lambda entry: entry["number"])


def test_a_killed_demo_ends_in_the_same_invoices_byte_for_byte(home, file):
    home.mkdir(mode=0o711)
    killed(home, file, "subscriptions", when=AT_ONCE)
    killed(home, file, "event_keys", when=SOME_EVENTS)
    copy = home.with_name("copy")
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    killed(home, file, "line_items", when=AT_ONCE)
    killed(home, file, "line_items", when=JANUARY_BILLED)
    printed = to_the_end(home, file)
    assert f"It was here before: {2 * CUSTOMERS} invoices" in printed
    invoices, pdfs, sellers = documents(home, printed)
    assert len(pdfs) == 3 * CUSTOMERS
    assert len(sellers) == 1

    undisturbed = to_the_end(copy, file)
    new, duplicates = re.search(r"([\d,]+) new events, ([\d,]+) duplicates", undisturbed).groups()
    assert int(new.replace(",", "")) + int(duplicates.replace(",", "")) == ROWS
    assert duplicates != "0"
    assert new != "0"
    assert (invoices, pdfs, sellers) == documents(copy, undisturbed)

    never_killed = home.with_name("fresh")
    first, its_pdfs, _ = documents(never_killed, to_the_end(never_killed, file))
    assert without_ids(invoices) == without_ids(first)
    assert pdfs == its_pdfs

    again = to_the_end(home, file)
    assert f"0 new events, {ROWS:,} duplicates, 0 rejected" in again
    assert ": 0 documents posted." in again
    assert f"The same {3 * CUSTOMERS} invoices as before." in again
    assert (invoices, pdfs, sellers) == documents(home, again)
