"""The next chunk's lines and entries are copied while one is posted: whatever comes between."""

import asyncio
import contextlib

import asyncpg
import msgspec
import pytest

from engine.db import PATIENT, open_database
from invoicing import copy_ahead
from invoicing.issue_invoice import issue_invoice
from invoicing.one_off import OneOffDraft
from invoicing.portions import Portions
from invoicing.preview import preview
from invoicing.rehearsal import PreviewDraft
from invoicing.run_billing import run_billing
from plans.seller_store import load_seller
from tests.billing_world import SEATS, TIERS, at, open_shop, plan, shop, violations

__all__ = ["shop"]

FEBRUARY = at("2026-02-01")
SMALL = Portions(first=6, most=6, chunk=2, few=0)
CUSTOMERS = 18
PATIENCE_SECONDS = 120
SHARED = """
SELECT count(*) FILTER (WHERE granted), count(*) FILTER (WHERE NOT granted) FROM pg_locks
WHERE locktype = 'advisory' AND mode = 'ShareLock'
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
ALONE = SHARED.replace("ShareLock", "ExclusiveLock")
THERE = (1 + copy_ahead.CHUNKS, 0)
LYING = (1, copy_ahead.CHUNKS)
OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
"""
LIES_THERE = """
SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'),
  count(*) FILTER (WHERE state = 'idle in transaction' AND query LIKE 'RESET ROLE%')
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
FALLS_BACK = """
SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'run_fallbacks'::regclass
"""
BOOKS = """
SELECT i.number, c.key, i.billed_at, i.total_minor, l.price_key, l.amount_minor, l.quantity
FROM invoices i JOIN customers c ON c.id = i.customer JOIN line_items l ON l.document = i.id
ORDER BY i.number, l.ordinal
"""


async def fill(shop):
    """Customers who fall due together, with usage of January."""
    for number in range(CUSTOMERS):
        await shop.customer(f"c{number:02}")
        await shop.subscribe(f"s{number:02}", f"c{number:02}")
    await shop.bill(at("2026-01-01"))
    for number in range(CUSTOMERS):
        await shop.use(f"c{number:02}", at("2026-01-20"), 10 * number + 1)


class Held:
    """A run that posts its first chunk, and waits for a lock: two more lie there as well."""

    def __init__(self, run, holder, transaction):
        self.run, self._holder, self._transaction = run, holder, transaction

    async def until(self, query, *expected):
        """Wait until the query answers with that row."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while tuple(await self._holder.fetchrow(query)) != expected:
                await asyncio.sleep(0)
                await self._holder.execute("SELECT pg_stat_clear_snapshot()")

    async def let_go(self):
        await self._transaction.rollback()


@contextlib.asynccontextmanager
async def held_run(shop, database_url):
    await fill(shop)
    holder = await asyncpg.connect(database_url, timeout=PATIENCE_SECONDS)
    transaction = holder.transaction()
    await transaction.start()
    await holder.execute("SELECT FROM number_series FOR UPDATE")
    held = Held(asyncio.create_task(shop.bill(FEBRUARY, portions=SMALL)), holder, transaction)
    try:
        await held.until(SHARED, *THERE)
        yield held
    finally:
        await holder.close()
        held.run.cancel()
        await asyncio.wait({held.run})


async def books_without(database, make_seller, act):
    """What the books say where chunks are posted one after the other, and `act` comes first."""
    async with open_shop(database, await make_seller()) as shop:
        await shop.publish(plan(SEATS, TIERS))
        await fill(shop)
        await act(shop)
        await shop.bill(FEBRUARY, portions=msgspec.structs.replace(SMALL, ahead=False))
        return await shop.rows(BOOKS)


async def nothing(shop):
    del shop


async def cancelled(shop):
    await shop.cancel("s03", now=FEBRUARY, effective=at("2026-01-21").isoformat())


async def changed(shop):
    await shop.change("s02", now=FEBRUARY, quantities={"seats": "7"})


@pytest.mark.parametrize("act", [nothing, cancelled, changed], ids=lambda act: act.__name__)
async def test_a_fact_of_a_chunk_that_lies_there_gives_the_same_documents(
    database, make_seller, shop, database_url, act
):
    async with held_run(shop, database_url) as held:
        await act(shop)
        await held.let_go()
        assert (await held.run).status == "finished"
    await shop.bill(FEBRUARY)
    ahead = sorted(row[1:] for row in await shop.rows(BOOKS))
    after = sorted(row[1:] for row in await books_without(database, make_seller, act))
    assert ahead == after
    assert await shop.one("SELECT max(sequence) = count(*) FROM invoices")
    assert await violations(database_url) == []


async def one_off(shop):
    body = {"customer": "c00", "lines": [{"key": "extra", "amount": "3.00"}]}
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        draft = msgspec.convert(body, OneOffDraft)
        return await issue_invoice(connection=connection, seller=seller, draft=draft, now=FEBRUARY)


async def test_an_invoice_by_hand_takes_its_turn_and_its_number(shop, database_url):
    async with held_run(shop, database_url) as held:
        by_hand = asyncio.create_task(one_off(shop))
        await held.until(ALONE, 1, 1)  # the run holds another such lock, for itself
        await held.let_go()
        await by_hand
        assert (await held.run).documents == CUSTOMERS
    # It came after the chunks that lay there, and before what shared the lock later.
    place = await shop.one("SELECT sequence FROM invoices WHERE total_minor = 300")
    assert place == CUSTOMERS + THERE[0] * SMALL.chunk + 1
    numbers = await shop.rows("SELECT min(sequence), max(sequence), count(*) FROM invoices")
    assert numbers == [(1, 2 * CUSTOMERS + 1, 2 * CUSTOMERS + 1)]
    assert await shop.one("SELECT count(*) FROM run_fallbacks") == 0
    assert await violations(database_url) == []


class Written:
    """The first number of each chunk whose rows are written, and how many it has."""

    def __init__(self, monkeypatch):
        self.calls, write = [], copy_ahead.write

        def watched(**arguments):
            chunk = arguments["chunk"]
            if arguments["outlook"].sequence > CUSTOMERS:  # not of the run before
                self.calls.append((arguments["outlook"].sequence, chunk.documents))
            return write(**arguments)

        monkeypatch.setattr(copy_ahead, "write", watched)


async def test_the_rows_of_each_chunk_are_written_once(shop, monkeypatch):
    await fill(shop)
    written = Written(monkeypatch)
    await shop.bill(FEBRUARY, portions=SMALL)
    first, last = CUSTOMERS + 1, 2 * CUSTOMERS
    assert sorted(written.calls) == [(each, 2) for each in range(first, last, SMALL.chunk)]


async def test_rows_are_written_as_soon_as_their_numbers_are_foreseen(
    shop, database_url, monkeypatch
):
    written = Written(monkeypatch)
    async with held_run(shop, database_url) as held:
        await held.until(LIES_THERE, *LYING)
        assert sorted(first for first, _ in written.calls) == [CUSTOMERS + n for n in (1, 3, 5)]
        await held.let_go()
        await held.run


async def test_rows_with_numbers_that_were_taken_meanwhile_are_written_anew(
    shop, database_url, monkeypatch
):
    written = Written(monkeypatch)
    async with held_run(shop, database_url) as held:
        by_hand = asyncio.create_task(one_off(shop))
        await held.until(ALONE, 1, 1)
        await held.let_go()
        await by_hand
        await held.run
    foreseen = [(CUSTOMERS + each, 2) for each in range(1, CUSTOMERS, SMALL.chunk)]
    anew = [(first + 1, size) for first, size in foreseen[THERE[0] + 1 :]]
    # The next one had a number that was gone when its turn came, and was posted by itself.
    assert {*foreseen[: THERE[0]], *anew} <= set(written.calls) <= {*foreseen, *anew}
    assert await violations(database_url) == []


async def test_a_chunk_further_ahead_leaves_the_last_connection_to_others(
    shop, database_url, monkeypatch, caplog
):
    """Whom it waits for has been copied, and others have come to the pool meanwhile."""
    await fill(shop)
    mine = open_database(dsn=database_url, role="usance_app", pool_size=6, waiting=PATIENT)
    copy, share, others, left = copy_ahead.copy_encoded, copy_ahead.share_billing, [], []
    whole = msgspec.structs.replace(SMALL, first=CUSTOMERS, most=CUSTOMERS)

    async def copy_slowly(**arguments):
        while len(left) == 2 and mine.spare > 1:  # the third waits for this one
            others.append(await mine.engine.connect())
        await copy(**arguments)

    async def count_and_share(**arguments):
        left.append(mine.spare)
        await share(**arguments)

    monkeypatch.setattr(copy_ahead, "copy_encoded", copy_slowly)
    monkeypatch.setattr(copy_ahead, "share_billing", count_and_share)
    try:
        run = await run_billing(
            database=mine, seller=shop.seller, as_of=FEBRUARY, now=FEBRUARY, portions=whole
        )
    finally:
        for each in others:
            await each.close()
        await mine.close()
    assert others
    assert min(left) > 0
    assert run.documents == CUSTOMERS
    assert not [record for record in caplog.records if record.name == "usance.billing"]
    assert await violations(database_url) == []


async def test_an_instant_that_was_not_foreseen_posts_the_chunks_again(shop, database_url):
    """Somebody who does not ask for the lock moves the series on: no row of the run is wrong."""
    await fill(shop)
    later = at("2026-02-09")
    holder = await asyncpg.connect(database_url, timeout=PATIENCE_SECONDS)
    try:
        async with holder.transaction() as transaction:
            await holder.execute("SELECT FROM number_series FOR UPDATE")
            run = asyncio.create_task(shop.bill(FEBRUARY, portions=SMALL))
            await Held(run, holder, transaction).until(SHARED, *THERE)
            await holder.execute("UPDATE number_series SET last_issued_at = $1", later)
        assert (await run).documents == CUSTOMERS
    finally:
        await holder.close()
    told = await shop.rows(
        "SELECT DISTINCT i.issued_at, e.posted_at, e.entry_on FROM invoices i"
        " JOIN journal_entries e ON e.source = i.id WHERE i.sequence > :first"
        " ORDER BY i.issued_at", first=CUSTOMERS
    )  # fmt: skip
    assert told[-1] == (later, later, later.date())
    assert all(issued_at == posted_at for issued_at, posted_at, _ in told)
    assert await shop.one("SELECT count(*) FROM run_fallbacks") == 0
    assert await violations(database_url) == []


async def test_who_is_cancelled_leaves_neither_rows_nor_locks(shop, database_url):
    async with held_run(shop, database_url) as held:
        held.run.cancel()
        await asyncio.wait({held.run})
        await held.until(SHARED, 0, 0)
        assert shop.database.spare == shop.database.size - 1  # usage is taken in by the other
        await held.let_go()
        await held.until(OPEN, 0)
        assert await shop.one("SELECT count(*) FROM invoices") == CUSTOMERS
        assert await shop.one("SELECT count(*) FROM line_items") == CUSTOMERS
        assert (await shop.bill(FEBRUARY, portions=SMALL)).documents == CUSTOMERS


LOST = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (pid = ANY(SELECT pid FROM pg_locks WHERE NOT granted)) = $1
"""


async def test_a_chunk_ahead_whose_connection_is_lost_is_posted_anew(shop, superuser, database_url):
    """As when it lay idle for too long: the run does not fail of it."""
    async with held_run(shop, database_url) as held:
        await held.until(LIES_THERE, *LYING)
        assert await superuser.fetchval(LOST, False)
        await held.let_go()
        assert (await held.run).documents == CUSTOMERS
    assert await shop.one("SELECT count(*) FROM invoices") == 2 * CUSTOMERS
    assert await shop.one("SELECT count(*) FROM run_fallbacks") == 0
    assert await violations(database_url) == []


async def test_a_run_that_loses_its_connection_loses_no_document(shop, superuser, database_url):
    async with held_run(shop, database_url) as held:
        await held.until(LIES_THERE, *LYING)
        assert await superuser.fetchval(LOST, True)
        await held.let_go()
        await asyncio.wait({held.run})
        assert held.run.exception() is not None
    await shop.bill(FEBRUARY, portions=SMALL)
    assert await shop.one("SELECT count(*) FROM invoices") == 2 * CUSTOMERS
    assert await violations(database_url) == []


async def test_a_lost_connection_does_not_hide_why_a_run_ends(shop, superuser, database_url):
    async with held_run(shop, database_url) as held:
        await held.until(LIES_THERE, *LYING)
        assert await superuser.fetchval(LOST, False)
        held.run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held.run


async def test_who_is_cancelled_again_and_again_leaves_no_transaction(shop, database_url):
    async with held_run(shop, database_url) as held:
        await held.until(LIES_THERE, *LYING)
        while not held.run.done():
            held.run.cancel()
            await asyncio.sleep(0)
        await held.until(SHARED, 0, 0)
        await held.let_go()
        await held.until(OPEN, 0)
    assert (await shop.bill(FEBRUARY, portions=SMALL)).documents == CUSTOMERS


async def test_nobody_waits_for_a_chunk_ahead_while_another_is_derived_one_by_one(
    shop, database_url
):
    await fill(shop)
    holder = await asyncpg.connect(database_url, timeout=PATIENCE_SECONDS)
    try:
        await holder.execute(
            "INSERT INTO customer_balances (seller, customer, currency, amount_minor)"
            " SELECT seller, id, 'EUR', 1 FROM customers WHERE key = 'c01'"
        )
        async with holder.transaction() as transaction:
            await holder.execute("LOCK run_fallbacks IN EXCLUSIVE MODE")
            run = asyncio.create_task(shop.bill(FEBRUARY, portions=SMALL))
            await Held(run, holder, transaction).until(FALLS_BACK, 1)
            assert tuple(await holder.fetchrow(SHARED)) == (0, 0)
        assert (await run).documents == CUSTOMERS
    finally:
        await holder.close()
    assert await shop.one("SELECT count(*) FROM run_fallbacks") == 1


async def test_runs_and_previews_at_once_do_not_wait_for_each_other_for_ever(shop, database_url):
    await fill(shop)
    other = open_database(dsn=database_url, role="usance_app", pool_size=6, waiting=PATIENT)
    small = {"seller": shop.seller, "portions": SMALL}

    async def foretell(customer):
        draft = msgspec.convert({"customer": customer}, PreviewDraft)
        await preview(
            database=other, seller=shop.seller, draft=draft, now=FEBRUARY, wall_now=FEBRUARY
        )

    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            runs = await asyncio.gather(
                run_billing(database=shop.database, as_of=FEBRUARY, now=FEBRUARY, **small),
                run_billing(database=other, as_of=at("2026-02-02"), now=FEBRUARY, **small),
                *(foretell(f"c{number:02}") for number in range(0, CUSTOMERS, 3)),
            )
    finally:
        await other.close()
    assert sum(run.documents for run in runs[:2]) == CUSTOMERS
    numbers = await shop.rows("SELECT min(sequence), max(sequence), count(*) FROM invoices")
    assert numbers == [(1, 2 * CUSTOMERS, 2 * CUSTOMERS)]
    assert await violations(database_url) == []


async def test_a_portion_cut_short_of_its_chunks_is_posted_as_it_is(database, make_seller):
    """The first falls due again before others do once: a portion ends in the middle of a chunk."""
    portions = Portions(first=8, most=8, chunk=5, few=0)
    async with open_shop(database, await make_seller()) as shop:
        await shop.publish(plan(SEATS, TIERS))
        for number in range(8):
            start = f"2026-01-{1 + 5 * number:02d}" if number < 6 else f"2026-02-0{number - 3}"
            await shop.customer(f"c{number}")
            await shop.subscribe(f"s{number}", f"c{number}", starts_at=f"{start}T00:00:00+00:00")
        await shop.bill(at("2026-02-20"), portions=portions)
        assert await shop.one("SELECT count(*) FROM invoices") == 12
        assert await shop.one("SELECT count(*) FROM run_fallbacks") == 0
