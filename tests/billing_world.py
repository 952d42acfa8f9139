"""A seller with a catalogue, customers and usage: what the tests of billing stand on."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec
import pytest
from sqlalchemy import text

from engine.audit import audit
from engine.db import AUDITOR_ROLE, PATIENT, Database, open_database
from invoicing.advance_clock import ClockAnswer, advance_clock
from invoicing.audit_all import Audited, audit_all
from invoicing.model import BillingRun
from invoicing.run_billing import run_billing
from metering.ingest import Ingester
from metering.intake import read_events
from plans.agreement import CancelDraft, ChangeDraft, PauseDraft, SubscriptionDraft
from plans.cancel import cancel
from plans.change import change, pause, resume
from plans.model import CustomerDraft, MeterDraft, PlanDraft
from plans.publish import publish_meter, publish_plan
from plans.register_customer import register_customer
from plans.seller_store import load_seller
from plans.subscribe import subscribe
from tests.metering_world import running
from tests.processes import SECONDS

OPENED: Final = datetime(2026, 1, 1, tzinfo=UTC)
METER: Final = {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "tokens"}
SEATS: Final = {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "31.00"}
TIERS: Final = {
    "key": "tokens",
    "kind": "usage",
    "meter": "tokens",
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.10"}, {"up_to": None, "unit_amount": "0.01"}],
}
WRITTEN: Final = {
    "invoices": "id",
    "credit_notes": "id",
    "line_items": "id",
    "payments": "id",
    "refunds": "id",
    "settlements": "id",
    "journal_entries": "id",
    "postings": "entry, ordinal",
    "outbox": "id",
    "customer_balances": "customer, currency",
    "number_series": "series",
    "subscriptions": "id",
    "parked_accounts": "run, customer",
}
_RUNS: Final = "SELECT id, as_of, status, documents, lines FROM billing_runs ORDER BY id"


def at(when: str) -> datetime:
    """An instant in UTC from `2026-01-31` or `2026-01-31T12:00`."""
    return datetime.fromisoformat(when).replace(tzinfo=UTC)


def plan(*prices: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """A monthly plan named `team` in euros."""
    body = {"key": "team", "currency": "EUR", "interval": {"unit": "month"}}
    return body | {"prices": list(prices)} | fields


async def written(database: Database, seller: int) -> dict[str, list[tuple[Any, ...]]]:
    """Every column of everything that billing writes, in an order of its own.

    When a run began and ended is left out: that is the only thing a crash may change.
    """
    found: dict[str, list[tuple[Any, ...]]] = {}
    async with database.transaction(seller=seller) as connection:
        for table, order in WRITTEN.items():
            rows = await connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))
            # A commit that failed takes its numbers with it, so these have gaps.
            kept = [name for name in rows.keys() if name != "position"]  # noqa: SIM118
            found[table] = [tuple(row[name] for name in kept) for row in rows.mappings()]
        found["billing_runs"] = [tuple(row) for row in await connection.execute(text(_RUNS))]
    return found


async def violations(dsn: str) -> list[Any]:
    """What the audit finds in a database, given by the superuser's address."""
    auditor = open_database(dsn=dsn, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=None, snapshot=True) as connection:
            return await audit(connection=connection)
    finally:
        await auditor.close()


async def audited(dsn: str) -> Audited:
    """What the whole audit of all sellers says of a database, given by the superuser's address."""
    raw = await asyncpg.connect(dsn, timeout=SECONDS)
    try:
        sellers = dict(await raw.fetch("SELECT seller, id FROM sellers ORDER BY seller"))
    finally:
        await raw.close()
    auditor = open_database(dsn=dsn, role=AUDITOR_ROLE, pool_size=2, waiting=PATIENT)
    try:
        return await audit_all(reader=auditor, sellers=sellers)
    finally:
        await auditor.close()


class Shop:
    """One seller, seen through the verbs that bill."""

    def __init__(self, *, database: Database, seller: int, ingester: Ingester) -> None:
        self.database, self.seller, self.ingester = database, seller, ingester
        self._events = 0

    async def publish(self, *plans: Mapping[str, Any]) -> None:
        """The meter `tokens`, and plans."""
        times = {"now": OPENED, "wall_now": OPENED}
        async with self.database.transaction(seller=self.seller) as connection:
            meter = msgspec.convert(METER, MeterDraft)
            await publish_meter(connection=connection, draft=meter, **times)
            for body in plans:
                draft = msgspec.convert(body, PlanDraft)
                await publish_plan(connection=connection, draft=draft, **times)

    async def publish_plan(self, body: Mapping[str, Any]) -> None:
        """One more plan."""
        draft = msgspec.convert(body, PlanDraft)
        async with self.database.transaction(seller=self.seller) as connection:
            await publish_plan(connection=connection, draft=draft, now=OPENED, wall_now=OPENED)

    async def customer(self, key: str, **fields: Any) -> None:
        """Take a customer in."""
        draft = msgspec.convert({"key": key, "name": key} | fields, CustomerDraft)
        async with self.database.transaction(seller=self.seller) as connection:
            await register_customer(connection=connection, draft=draft, now=OPENED, wall_now=OPENED)

    async def subscribe(
        self, key: str, customer: str, *, now: datetime = OPENED, **fields: Any
    ) -> str:
        """Begin a subscription of the plan `team`, unless another is named."""
        body = {"key": key, "customer": customer, "plan": "team"} | fields
        draft = msgspec.convert(body, SubscriptionDraft)
        async with self.database.transaction(seller=self.seller) as connection:
            found = await load_seller(connection=connection)
            return await subscribe(
                connection=connection, seller=found, draft=draft, now=now, wall_now=now
            )

    async def cancel(self, key: str, *, now: datetime, **fields: Any) -> None:
        """Cancel a subscription."""
        draft = msgspec.convert(fields, CancelDraft)
        async with self.database.transaction(seller=self.seller) as connection:
            await cancel(connection=connection, reference=key, draft=draft, now=now)

    async def change(self, key: str, *, now: datetime, **fields: Any) -> None:
        """Change a subscription."""
        draft = msgspec.convert(fields, ChangeDraft)
        async with self.database.transaction(seller=self.seller) as connection:
            found = await load_seller(connection=connection)
            await change(
                connection=connection,
                seller=found,
                reference=key,
                draft=draft,
                now=now,
                wall_now=now,
            )

    async def turn(self, key: str, *, now: datetime, paused: bool, effective: str = "now") -> None:
        """Pause or resume a subscription."""
        verb = pause if paused else resume
        draft = PauseDraft(effective=effective)
        async with self.database.transaction(seller=self.seller) as connection:
            found = await load_seller(connection=connection)
            await verb(
                connection=connection,
                seller=found,
                reference=key,
                draft=draft,
                now=now,
                wall_now=now,
            )

    async def use(
        self, customer: str, when: datetime, tokens: object = 1, **properties: object
    ) -> None:
        """One usage event, sent the moment it happened."""
        self._events += 1
        body = {
            "id": f"e{self._events}",
            "type": "call",
            "subject": customer,
            "time": when.isoformat(),
            "data": {"tokens": tokens} | properties,
        }
        intake = read_events(msgspec.json.encode([body]), lines=False)
        answer = await self.ingester.submit(seller=self.seller, intake=intake, now=when)
        assert answer.accepted == 1, answer

    async def bill(self, as_of: datetime, *, pending: bool = True, **more: Any) -> BillingRun:
        """A billing run of that instant."""
        return await run_billing(
            database=self.database,
            seller=self.seller,
            as_of=as_of,
            now=as_of,
            pending=pending,
            **more,
        )

    async def advance(self, to: datetime) -> ClockAnswer:
        """Move the clock of a test seller."""
        return await advance_clock(database=self.database, seller=self.seller, to=to)

    async def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """What the seller's own rows answer to a query."""
        async with self.database.transaction(seller=self.seller) as connection:
            return [tuple(row) for row in await connection.execute(text(sql), values)]

    async def one(self, sql: str, **values: Any) -> Any:
        """The only value of the only row."""
        ((value,),) = await self.rows(sql, **values)
        return value

    async def lines(self, document: str | None = None) -> list[tuple[Any, ...]]:
        """(price, amount in minor units, reason) of each line, in the order of documents."""
        return await self.rows(
            "SELECT l.price_key, l.amount_minor, l.reason FROM line_items l"
            " LEFT JOIN invoices i ON i.id = l.document"
            " LEFT JOIN credit_notes n ON n.id = l.document"
            " WHERE CAST(:number AS text) IS NULL OR coalesce(i.number, n.number) = :number"
            " ORDER BY coalesce(i.issued_at, n.issued_at), coalesce(i.number, n.number), l.ordinal",
            number=document,
        )

    async def written(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that billing wrote for this seller."""
        return await written(self.database, self.seller)


@contextlib.asynccontextmanager
async def open_shop(database: Database, seller: int) -> AsyncIterator[Shop]:
    """A shop whose ingester runs for the length of the block."""
    async with running(database, committers=1) as ingester:
        yield Shop(database=database, seller=seller, ingester=ingester)


@pytest.fixture
async def shop(database, make_seller) -> AsyncIterator[Shop]:
    """A live seller that sells seats in advance and tokens in two tiers."""
    async with open_shop(database, await make_seller()) as opened:
        await opened.publish(plan(SEATS, TIERS))
        await opened.customer("acme")
        yield opened
