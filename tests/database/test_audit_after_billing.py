"""What the product's own verbs write satisfies every invariant, run after run."""

from datetime import UTC, datetime

import asyncpg
import msgspec
from sqlalchemy import text

from engine.audit import audit
from engine.db import AUDITOR_ROLE, PATIENT, open_database
from invoicing.run_billing import run_billing
from invoicing.void_invoice import void_invoice
from plans.agreement import CancelDraft, SubscriptionDraft
from plans.cancel import cancel
from plans.model import Aggregation, CustomerDraft, MeterDraft, PlanDraft
from plans.publish import publish_meter, publish_plan
from plans.register_customer import register_customer
from plans.seller_store import load_seller
from plans.subscribe import subscribe
from tests.metering_world import World, event, running
from tests.processes import SECONDS

START = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = {
    "key": "team",
    "currency": "EUR",
    "interval": {"unit": "month", "count": 1},
    "prices": [
        {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "10.00"},
        {
            "key": "calls",
            "kind": "usage",
            "meter": "calls",
            "model": "per_unit",
            "unit_amount": "0.015",
        },
    ],
}

# A cent of tax goes from one country to another where an invoice was void.
MOVED = """
INSERT INTO postings (seller, entry, ordinal, account, dimension, customer, contract, document,
  line, currency, amount_minor)
SELECT p.seller, p.entry, max(p.ordinal) + u.n, 'tax_payable', u.country, p.customer, '',
  p.document, '', p.currency, u.amount
FROM postings p JOIN journal_entries e ON e.seller = p.seller AND e.id = p.entry,
  (VALUES (1, 'DE', 1), (2, 'FR', -1)) AS u (n, country, amount)
WHERE e.kind = 'voided'
GROUP BY p.seller, p.entry, p.customer, p.document, p.currency, u.n, u.country, u.amount
"""


def month(number, day=1):
    return datetime(2026, number, day, tzinfo=UTC)


async def open_house(database, seller):
    """Three customers on one plan; `b2` is cancelled later."""
    times = {"now": START, "wall_now": START}
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
        meter = MeterDraft(key="calls", event_type="call", aggregation=Aggregation.COUNT)
        await publish_meter(connection=connection, draft=meter, **times)
        plan = msgspec.convert(PLAN, PlanDraft)
        await publish_plan(connection=connection, draft=plan, **times)
        for key in ("b1", "b2", "b3"):
            customer = CustomerDraft(key=key, name=key)
            await register_customer(connection=connection, draft=customer, **times)
            body = {"key": key, "customer": key, "plan": "team", "starts_at": START.isoformat()}
            draft = msgspec.convert(body, SubscriptionDraft)
            await subscribe(connection=connection, seller=found, draft=draft, **times)


async def violations(database_url):
    auditor = open_database(dsn=database_url, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=None, snapshot=True) as connection:
            return await audit(connection=connection)
    finally:
        await auditor.close()


async def bill(database, seller, as_of):
    return await run_billing(database=database, seller=seller, as_of=as_of, now=as_of)


async def count(database, seller, table):
    async with database.transaction(seller=seller) as connection:
        return (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()


async def test_the_books_stay_sound_through_advance_arrears_late_usage_and_credit(
    database, database_url, make_seller
):
    seller = await make_seller()
    await open_house(database, seller)
    async with running(database) as ingester:
        world = World(database=database, seller=seller, ingester=ingester)

        async def use(name, subject, at, now):
            sent = [event(f"{name}{n}", at=at, subject=subject) for n in range(7)]
            await world.send(sent, now=now)

        await bill(database, seller, START)
        assert await count(database, seller, "invoices") == 3
        assert await violations(database_url) == []
        for subject in ("b1", "b2"):
            await use(subject, subject, month(1, 10), month(1, 11))
        await bill(database, seller, month(2))
        assert await violations(database_url) == []
        await use("late", "b1", month(1, 20), month(2, 2))
        async with database.transaction(seller=seller) as connection:
            draft = CancelDraft(effective=month(2, 10).isoformat())
            await cancel(connection=connection, reference="b2", draft=draft, now=month(2, 10))
        await bill(database, seller, month(2, 11))
        assert await count(database, seller, "credit_notes") == 1
        assert await violations(database_url) == []
    before = await count(database, seller, "outbox")
    again = await bill(database, seller, month(2, 11))
    assert (again.documents, await count(database, seller, "outbox")) == (0, before)
    assert await violations(database_url) == []


async def test_ids_that_were_derived_and_voids_are_told_where_they_are_changed(
    database, database_url, make_seller
):
    seller = await make_seller()
    await open_house(database, seller)
    await bill(database, seller, START)
    async with database.transaction(seller=seller) as connection:
        found = await load_seller(connection=connection)
        await void_invoice(
            connection=connection, seller=found, reference="INV-000001", now=month(1, 2)
        )
    assert await violations(database_url) == []
    raw = await asyncpg.connect(database_url, timeout=SECONDS)
    try:
        await raw.execute("SET session_replication_role = replica")
        await raw.execute(MOVED)
        assert {each.check for each in await violations(database_url)} == {"void_amount"}
        await raw.execute("UPDATE invoices SET billed_at = billed_at + interval '1 ms'")
    finally:
        await raw.close()
    broken = {"void_amount", "document_ids"}
    assert {each.check for each in await violations(database_url)} == broken
