"""The worker bills what is due, seller by seller, once."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from api.app import create_app
from api.background_runs import BackgroundRuns
from api.in_process import Client, lifespan
from api.worker import tick, tidy_up, working
from engine.db import Database
from metering.ingest import PATIENT_SECONDS
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Mode
from tests.processes import SECONDS

pytestmark = pytest.mark.anyio
NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
PLAN: dict[str, Any] = {
    "key": "base",
    "currency": "USD",
    "interval": {"unit": "month"},
    "prices": [{"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": "10.00"}],
}


async def agreement(database: Database, *, mode: Mode) -> Client:
    """A seller with one customer, whose fee has been due since yesterday."""
    clock_at = NOW if mode is Mode.TEST else None
    draft = SellerDraft(legal_name="Acme", mode=mode, clock_at=clock_at)
    made = await create_seller(database=database, draft=draft, now=NOW)
    application = create_app(database=database, clock=lambda: NOW, commit_seconds=PATIENT_SECONDS)
    async with lifespan(application=application):
        client = Client(application=application, key=made.secret)
        starts_at = (NOW - timedelta(days=1)).isoformat()
        subscription = {"key": "s", "customer": "c", "plan": "base", "starts_at": starts_at}
        for path, body in (
            ("/v1/plans", PLAN),
            ("/v1/customers", {"key": "c", "name": "C"}),
            ("/v1/subscriptions", subscription),
        ):
            answer = await client.post(path, body)
            assert answer.ok, answer.body
    return client


async def invoices(client: Client) -> list[str]:
    return [entry["total"] for entry in (await client.get("/v1/invoices")).json()["data"]]


async def test_a_tick_bills_live_sellers_once_and_leaves_test_sellers_alone(
    database: Database,
) -> None:
    live = await agreement(database, mode=Mode.LIVE)
    test = await agreement(database, mode=Mode.TEST)
    assert await tick(database=database, now=NOW) == 1
    assert await tick(database=database, now=NOW) == 0
    assert await invoices(live) == ["10.00"]
    assert await invoices(test) == []


async def test_nothing_is_billed_before_it_is_due(database: Database) -> None:
    await agreement(database, mode=Mode.LIVE)
    assert await tick(database=database, now=NOW - timedelta(days=2)) == 0
    assert await tick(database=database, now=NOW + timedelta(days=29)) == 1


async def test_a_run_that_failed_rests_from_ticks_too(
    database: Database, database_url: str
) -> None:
    superuser: Any = await asyncpg.connect(database_url, timeout=60)
    client = await agreement(database, mode=Mode.LIVE)
    runs = BackgroundRuns(database=database, clock=lambda: NOW)

    async def set_rest(until: str) -> None:
        await superuser.execute(f"UPDATE billing_runs SET tried_again_at = '{until}'")

    async def tell() -> tuple[str, int]:
        row = await superuser.fetchrow("SELECT status, failures FROM billing_runs")
        return row["status"], row["failures"]

    await superuser.execute("REVOKE INSERT ON invoices FROM usance_app, usance_loader")
    await tick(database=database, now=NOW)
    await tick(database=database, now=NOW)  # from now on it is left to a worker
    await runs.look()
    await runs.wait()
    assert await tell() == ("running", 1)
    await superuser.execute("GRANT INSERT ON invoices TO usance_app, usance_loader")
    await set_rest("infinity")
    assert await tick(database=database, now=NOW) == 0
    assert await tell() == ("running", 1)
    await set_rest("2026-01-01")
    assert await tick(database=database, now=NOW) == 1
    assert await tell() == ("finished", 0)
    assert await invoices(client) == ["10.00"]
    await superuser.close()


async def test_a_worker_that_stops_finishes_its_tick(database: Database) -> None:
    client = await agreement(database, mode=Mode.LIVE)
    asked, ticks = list[datetime](), asyncio.Event()

    def clock() -> datetime:
        asked.append(NOW)
        if len(asked) == 1:
            return datetime.now(UTC)  # when the first tick is to be
        ticks.set()
        return NOW

    async with working(database=database, clock=clock):
        await asyncio.wait_for(ticks.wait(), timeout=SECONDS)
    assert await invoices(client) == ["10.00"]


async def test_old_answers_are_forgotten_after_thirty_days(database: Database) -> None:
    draft = SellerDraft(legal_name="Acme", mode=Mode.TEST, clock_at=NOW)
    made = await create_seller(database=database, draft=draft, now=NOW)
    application = create_app(database=database, clock=lambda: NOW, commit_seconds=PATIENT_SECONDS)
    body = b'{"key": "c", "name": "C"}'
    headers = {"content-type": "application/json", "idempotency-key": "once"}
    async with lifespan(application=application):
        client = Client(application=application, key=made.secret)
        first = await client.send("POST", "/v1/customers", content=body, headers=headers)
        again = await client.send("POST", "/v1/customers", content=body, headers=headers)
    assert first.ok and again.body == first.body
    assert await tidy_up(database=database, now=NOW + timedelta(days=29)) == 0
    assert await tidy_up(database=database, now=NOW + timedelta(days=31)) == 1
    assert await tidy_up(database=database, now=NOW + timedelta(days=31)) == 0
