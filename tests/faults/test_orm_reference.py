"""The billing run through ORM objects, which a benchmark is measured against, does the same work.

It compares itself with the run; here that comparison is shown to notice what is not the same.
"""

import functools
import importlib
from datetime import timedelta

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks.billing_world import OPENED, SECOND_RUN, build_world
from invoicing.run_billing import run_billing
from tests.processes import ROOT

SUBSCRIPTIONS = 60
LINE = "(SELECT min(id) FROM sample.line_items WHERE document IN (SELECT id FROM sample.invoices))"
DEFECTS = (
    ("invoices", "SET due_at = due_at + interval '1 day'"),
    ("invoices", "SET sequence = sequence + 1000 WHERE sequence % 7 = 0"),
    ("line_items", f"SET amount_minor = amount_minor + 1 WHERE id = {LINE}"),
    ("line_items", f"SET quantity = quantity + 0.000000001 WHERE id = {LINE}"),
    ("postings", "SET account = 'tax_payable' WHERE account = 'contract_balance'"),
    ("postings", f"SET amount_minor = amount_minor - 1 WHERE line = {LINE}"),
    ("journal_entries", "SET entry_on = entry_on + 1"),
    ("outbox", "SET type = 'invoice.paid'"),
    ("subscriptions", "SET next_due_at = next_due_at + interval '1 month'"),
)


@pytest.fixture
def reference(monkeypatch):
    """The modules, found as the benchmark finds them."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("orm_billing"), importlib.import_module("orm_sample")


async def refused(orm_sample, raw, run, statement):
    """What the comparison says where a statement has changed what objects gave."""
    change = raw.transaction()
    await change.start()
    try:
        assert not (await raw.execute(statement)).endswith(" 0"), statement
        with pytest.raises(SystemExit) as told:
            await orm_sample.compare(raw, run=run, documents=SUBSCRIPTIONS)
        return str(told.value)
    finally:
        await change.rollback()


@pytest.fixture
async def billed(reference, database, database_url):
    """(connection, seller, id of the run, what bills the sample) of a world that our run billed."""
    orm_billing, orm_sample = reference
    seller = await build_world(
        dsn=database_url, subscriptions=SUBSCRIPTIONS, events=6_000, anchors=28
    )
    raw = await asyncpg.connect(database_url, timeout=60)
    try:
        await orm_sample.keep_sample(
            raw, seller=seller, as_of=SECOND_RUN, documents=2 * SUBSCRIPTIONS
        )
        run = await run_billing(database=database, seller=seller, as_of=SECOND_RUN, now=SECOND_RUN)
        assert run.documents == SUBSCRIPTIONS
        bill = functools.partial(
            orm_billing.bill_sample,
            raw=raw,
            database=database,
            dsn=database_url,
            seller=seller,
            run=run.id,
            as_of=SECOND_RUN,
        )
        yield raw, seller, run.id, bill
    finally:
        await raw.close()


async def test_it_gives_the_same_documents_and_would_tell_if_not(reference, billed):
    orm_billing, orm_sample = reference
    raw, _, run, bill = billed
    found = await bill()
    assert found.documents == SUBSCRIPTIONS - orm_billing.WARMING
    assert 0 < found.measuring_seconds < found.seconds
    for table, change in DEFECTS:
        told = await refused(orm_sample, raw, run, f"UPDATE sample.{table} {change}")
        assert told.startswith("the numbers" if "SET sequence" in change else table), told
    told = await refused(orm_sample, raw, run, "DELETE FROM sample.outbox")
    assert told.startswith("outbox: our run alone has"), told
    with pytest.raises(SystemExit, match="0 documents through objects"):
        await orm_sample.compare(raw, run=run, documents=0)


@pytest.mark.parametrize("defect", ["'0.5'", "'0'"])
async def test_a_price_that_is_rated_otherwise_is_noticed(billed, defect):
    raw, _, _, bill = billed
    await raw.execute(
        f"UPDATE sample.prices SET body = jsonb_set(body, '{{unit_amount}}', to_jsonb({defect}"
        " ::text)) WHERE key = 'calls'"
    )
    with pytest.raises(SystemExit, match="objects alone has"):
        await bill()


@pytest.mark.parametrize("meter", ["calls", "tokens"])
async def test_it_measures_what_lies_there(billed, meter):
    raw, _, _, bill = billed
    gone = (
        "DELETE FROM event_measures WHERE batch = (SELECT max(batch) FROM event_measures)"
        " AND meter = (SELECT number FROM meters WHERE key = $1)"
    )
    assert await raw.execute(gone, meter) == "DELETE 1"
    with pytest.raises(SystemExit, match=r"(invoices|line_items): objects alone has"):
        await bill()


async def test_a_window_takes_its_first_instant_and_not_its_end(billed, reference, database_url):
    raw, seller, _, bill = billed
    await bill()
    orm_usage = importlib.import_module("orm_usage")
    meters = await orm_usage.read_meters(raw, seller)
    start, end = OPENED + timedelta(days=400), OPENED + timedelta(days=401)
    just_before = timedelta(microseconds=1)
    for at, value in [(start - just_before, 1), (start, 20), (end - just_before, 300), (end, 4000)]:
        for key, each in (("calls", None), ("tokens", value)):
            await orm_usage.copy_events(raw, [(seller, 1, meters[key].number, at, each)])
    windows = [
        orm_usage.Window(1, start, end),
        orm_usage.Window(2, start, end),
        orm_usage.Window(1, end, end + just_before),
    ]
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=functools.partial(asyncpg.connect, database_url)
    )
    try:
        async with AsyncSession(engine) as session:
            found = await orm_usage.measure(
                session, seller=seller, meters=list(meters.values()), windows=windows
            )
    finally:
        await engine.dispose()
    told = {key: [found[window, meters[key]] for window in windows] for key in meters}
    assert told == {"calls": [2, 0, 1], "tokens": [320, 0, 4000]}
