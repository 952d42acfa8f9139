"""The billing run through ORM objects, which a benchmark is measured against, does the same work.

It compares itself with the run; here that comparison is shown to notice what is not the same.
"""

import importlib

import asyncpg
import pytest

from benchmarks.billing_world import SECOND_RUN, build_world
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


async def test_it_gives_the_same_documents_and_would_tell_if_not(reference, database, database_url):
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
        billed, _ = await orm_billing.bill_sample(
            raw=raw,
            database=database,
            dsn=database_url,
            seller=seller,
            run=run.id,
            as_of=SECOND_RUN,
        )
        assert billed == SUBSCRIPTIONS - orm_billing.WARMING
        for table, change in DEFECTS:
            told = await refused(orm_sample, raw, run.id, f"UPDATE sample.{table} {change}")
            assert told.startswith("the numbers" if "SET sequence" in change else table), told
        told = await refused(orm_sample, raw, run.id, "DELETE FROM sample.outbox")
        assert told.startswith("outbox: our run alone has"), told
        with pytest.raises(SystemExit, match="0 documents through objects"):
            await orm_sample.compare(raw, run=run.id, documents=0)
    finally:
        await raw.close()


@pytest.mark.parametrize("defect", ["'0.5'", "'0'"])
async def test_a_price_that_is_rated_otherwise_is_noticed(
    reference, database, database_url, defect
):
    orm_billing, orm_sample = reference
    seller = await build_world(
        dsn=database_url, subscriptions=SUBSCRIPTIONS, events=6_000, anchors=28
    )
    raw = await asyncpg.connect(database_url, timeout=60)
    try:
        await orm_sample.keep_sample(raw, seller=seller, as_of=SECOND_RUN, documents=SUBSCRIPTIONS)
        await raw.execute(
            f"UPDATE sample.prices SET body = jsonb_set(body, '{{unit_amount}}', to_jsonb({defect}"
            " ::text)) WHERE key = 'calls'"
        )
        run = await run_billing(database=database, seller=seller, as_of=SECOND_RUN, now=SECOND_RUN)
        with pytest.raises(SystemExit, match="objects alone has"):
            await orm_billing.bill_sample(
                raw=raw,
                database=database,
                dsn=database_url,
                seller=seller,
                run=run.id,
                as_of=SECOND_RUN,
            )
    finally:
        await raw.close()
