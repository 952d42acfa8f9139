"""Books with work of every kind, copies of them, and a run in a process that can be killed."""

import asyncio
import contextlib
import os
import signal
import threading
from pathlib import Path

import asyncpg
import msgspec
from sqlalchemy import event, text

from engine.db import PATIENT, open_database
from metering.intake import read_events
from plans.agreement import CancelDraft, SubscriptionDraft
from plans.cancel import cancel
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import CustomerDraft
from plans.register_customer import register_customer
from plans.seller_store import load_seller
from plans.subscribe import subscribe
from tests.billing_world import OPENED, SEATS, TIERS, at, open_shop, plan, written
from tests.processes import program, python, wait_until

PATIENCE_SECONDS = 600
"""A run ends by itself; this only keeps one that hangs from hanging for ever."""
AS_OF = at("2026-03-15")
SMALL = "Portions(segment=40, chunk=9, few=0)"

RUN = f"""
import asyncio, sys
from datetime import datetime
from invoicing.portions import Portions
from invoicing.run_billing import run_billing
from tests.faults.billing_kills import mortal, stands_still

async def main():
    as_of = datetime.fromisoformat("{AS_OF.isoformat()}")
    async with mortal(*sys.argv[1:]) as database:
        await run_billing(
            database=database, seller=1, as_of=as_of, now=as_of, portions={SMALL},
            report=stands_still(*sys.argv[1:]),
        )

asyncio.run(main())
"""
# Whoever stands still in the middle of a chunk makes others of its seller wait.
RUN_THAT_HALTS = RUN.replace(SMALL, SMALL.replace(")", ", ahead=False)"))
RUN_ONE_BY_ONE = RUN.replace(SMALL, "Portions(few=1_000_000)")
ADVANCE = f"""
import asyncio, sys
from datetime import datetime
from invoicing.advance_clock import advance_clock
from tests.faults.billing_kills import mortal

async def main():
    to = datetime.fromisoformat("{AS_OF.isoformat()}")
    async with mortal(*sys.argv[1:]) as database:
        await advance_clock(database=database, seller=1, to=to)

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def mortal(dsn, commits=None, delay_seconds=None):
    """A pool for a process that kills itself so long after it began so many commits.

    At the latest it does when it is through; without a delay it lives.
    """
    database = open_database(dsn=dsn, role="usance_app", pool_size=6, waiting=PATIENT)
    left = None if delay_seconds is None else int(commits)
    death = (os.getpid(), signal.SIGKILL)

    def count(*_):
        nonlocal left
        left -= 1
        if left == 0 and float(delay_seconds):
            threading.Timer(float(delay_seconds), os.kill, death).start()
        elif left == 0:
            os.kill(*death)

    if left is not None:
        event.listen(database.engine.sync_engine, "commit", count)
    yield database
    await database.close()
    if left is not None:
        os.kill(*death)


class CutError(Exception):
    """The line to the database breaks here."""


@contextlib.contextmanager
def cut_at(database, number):
    """The statement or commit of that number (None: of no number) raises a CutError.

    Yields a function that tells whether it came to that.
    """
    seen = 0

    def count(*_):
        nonlocal seen
        seen += 1
        if seen == number:
            raise CutError

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", count)
    try:
        yield lambda: number is not None and seen >= number
    finally:
        event.remove(engine, "before_cursor_execute", count)
        event.remove(engine, "commit", count)


def stands_still(*arguments):
    """A report that stands still after the first chunk until it may go on: see `halted`."""
    folder = Path(arguments[1]) if len(arguments) == 2 else None

    def report(_):
        if folder is not None and not (folder / "stands").exists():
            (folder / "stands").touch()
            wait_until((folder / "goes on").exists)

    return report


async def open_books(dsn, **fields):
    """The one seller of a database; it has number 1."""
    draft = msgspec.convert({"legal_name": "Nordwind GmbH"} | fields, SellerDraft)
    database = open_database(dsn=dsn, role="usance_app", pool_size=1, waiting=PATIENT)
    try:
        made = await create_seller(database=database, draft=draft, now=OPENED)
    finally:
        await database.close()
    assert made.seller == 1


async def enrol(shop, count):
    """Customers with a subscription each, begun on 20 different days of January."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        for number in range(count):
            key = f"c{number:03}"
            draft = CustomerDraft(key=key, name=key)
            times = {"now": OPENED, "wall_now": OPENED}
            await register_customer(connection=connection, draft=draft, **times)
            body = {"key": key, "customer": key, "plan": "team"}
            body["starts_at"] = at(f"2026-01-{number % 20 + 1:02}").isoformat()
            draft = msgspec.convert(body, SubscriptionDraft)
            await subscribe(connection=connection, seller=seller, draft=draft, **times)


async def use(shop, name, count, when, tokens):
    """One event of each of the first customers."""
    body = [
        {
            "id": f"{name}{number}",
            "type": "call",
            "subject": f"c{number:03}",
            "time": when.isoformat(),
            "data": {"tokens": tokens + number},
        }
        for number in range(count)
    ]
    intake = read_events(msgspec.json.encode(body), lines=False)
    await shop.ingester.submit(seller=shop.seller, intake=intake, now=when)


async def swap(shop, count):
    """Some give a subscription back and take two: one charge is set off against another."""
    now = at("2026-02-11")
    for number in range(0, count, 4):
        key, day = f"c{number:03}", number % 20 + 1
        if day < 10:
            await shop.cancel(key, now=now, effective=at(f"2026-02-{day:02}").isoformat())
            await shop.subscribe(f"{key}-b", key, now=now)
            await shop.subscribe(f"{key}-c", key, now=now, starts_at="2026-02-14T00:00:00Z")
    await shop.bill(now)


async def leave(shop, count):
    """Cancellations: some give credit on open invoices, some more than is open on them."""
    days = ("2026-01-31", "2026-02-05", "2026-02-28", "2026-03-12")
    async with shop.database.transaction(seller=shop.seller) as connection:
        for number in range(count):
            key, day = f"c{number:03}", days[number // 3 % 4]
            if number % 4 == 0 and number % 20 < 9:
                key, day = f"{key}-b", "2026-02-27"
            elif number % 3:
                continue
            await cancel(
                connection=connection,
                reference=key,
                draft=CancelDraft(effective=at(day).isoformat()),
                now=at("2026-02-27"),
            )


async def fill_books(dsn, count):
    """Billed through January; then come usage, late usage and cancellations, past and future."""
    await open_books(dsn, mode="live")
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            await shop.publish(plan(SEATS, TIERS))
            await enrol(shop, count)
            await use(shop, "first", count, at("2026-01-25"), 80)
            await shop.bill(at("2026-02-10"))
            await swap(shop, count)
            await use(shop, "late", count // 2, at("2026-01-27"), 3)
            await use(shop, "next", count, at("2026-02-24"), 50)
            await leave(shop, count)
    finally:
        await database.close()


async def copy_database(admin_dsn, source, target):
    """A clone of a database that nobody uses at the moment."""
    raw = await asyncpg.connect(admin_dsn, timeout=60)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                with contextlib.suppress(asyncpg.ObjectInUseError):
                    made = f"CREATE DATABASE {target} TEMPLATE {source} OWNER usance_owner"
                    return await raw.execute(made)
                await asyncio.sleep(0.05)  # a backend is on its way out
    finally:
        await raw.close()


async def everything(dsn):
    """What billing wrote for the seller, and its clock."""
    database = open_database(dsn=dsn, role="usance_app", pool_size=1, waiting=PATIENT)
    try:
        found = await written(database, 1)
        async with database.transaction(seller=1) as connection:
            found["clock"] = list(await connection.execute(text("SELECT clock_at FROM sellers")))
        return found
    finally:
        await database.close()


def count_rows(dsn, table="invoices"):
    async def ask():
        raw = await asyncpg.connect(dsn, timeout=60)
        try:
            return await raw.fetchval(f"SELECT count(*) FROM {table}")
        finally:
            await raw.close()

    return asyncio.run(ask())


def finish(script, dsn, *, seconds=PATIENCE_SECONDS):
    with program(python(script, dsn)) as process:
        assert process.wait(seconds) == 0


def kill_again_and_again(script, dsn, deaths):
    """Run it so many times; each dies so many seconds after so many commits."""
    for commits, delay_seconds in deaths:
        with program(python(script, dsn, str(commits), str(delay_seconds))) as process:
            assert process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


@contextlib.contextmanager
def halted(dsn, folder):
    """A run that stands still after its first chunk, until it is told to go on."""
    folder.mkdir()
    with program(python(RUN_THAT_HALTS, dsn, str(folder))) as process:

        def stands():
            process.require_running()
            return (folder / "stands").exists()

        wait_until(stands)
        yield process, (folder / "goes on").touch


def children_of(pid):
    """The process ids whose parent that is."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == pid:
                found.append(int(entry.name))
    return found


def kill_server(pid):
    """SIGKILL a postmaster and every process of it, as a power cut would."""
    os.kill(pid, signal.SIGSTOP)  # it must not tidy up after its children
    for child in children_of(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
