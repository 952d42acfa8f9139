"""Two sellers with the same catalogue, keys of every kind, and the application between them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from litestar import Litestar

from api.app import create_app
from engine.db import Database
from invoicing.run_states import RunStatus
from invoicing.run_store import Unfinished, begin_run, finish_run, move_run, park
from metering.ingest import PATIENT_SECONDS
from metering.intake_error_store import save_refused
from metering.intake_errors import Refused, intake_error_id
from plans.api_keys import ApiKeyDraft, Scope
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.issue_key import issue_key
from plans.model import Mode
from plans.seller_store import revoke_api_key

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
METER = {"key": "tokens", "event_type": "completion", "aggregation": "sum", "value": "tokens"}
PLAN = {
    "key": "pro",
    "currency": "USD",
    "interval": {"unit": "month", "count": 1},
    "prices": [
        {"key": "base", "kind": "recurring", "model": "flat", "flat_amount": "49.00"},
        {
            "key": "tokens",
            "kind": "usage",
            "meter": "tokens",
            "model": "graduated",
            "tiers": [
                {"up_to": "1000", "unit_amount": "0"},
                {"up_to": None, "unit_amount": "0.002"},
            ],
        },
    ],
}
BY_HAND = {"customer": "acme", "lines": [{"key": "training", "amount": "90.00"}]}
RECEIPT = {
    "customer": "acme",
    "amount": "3.00",
    "currency": "USD",
    "method": "bank",
    "allocations": [],
}
CUSTOMER = {"key": "acme", "name": "Acme", "emails": ["ap@acme.example"]}


class WallClock:
    """Wall time that only the test moves."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def move(self, by: timedelta) -> None:
        self.now += by


@dataclass
class Seller:
    """One seller: a key for each scope, and the ids of what it has, by a short name."""

    id: str
    number: int
    keys: dict[str, str]
    ids: dict[str, str] = field(default_factory=dict)


@dataclass
class World:
    """The application with its two sellers."""

    app: Litestar
    database: Database
    clock: WallClock
    client: httpx.AsyncClient
    ours: Seller
    theirs: Seller

    async def send(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> httpx.Response:
        """One request; with our admin key unless another one, or the empty string, is given."""
        secret = self.ours.keys["admin"] if key is None else key
        sent = {"authorization": f"Bearer {secret}"} if secret else {}
        return await self.client.request(method, path, headers=sent | dict(headers or {}), **fields)


async def make_key(
    world_database: Database,
    *,
    seller: int,
    scopes: tuple[Scope, ...],
    mode: Mode = Mode.TEST,
    now: datetime = START,
    expires_at: datetime | None = None,
    revoked: bool = False,
) -> str:
    """The secret of a new key of the seller."""
    draft = ApiKeyDraft(name="test", scopes=scopes, expires_at=expires_at)
    async with world_database.transaction(seller=seller) as connection:
        made = await issue_key(connection=connection, mode=mode, draft=draft, now=now)
        if revoked:
            assert await revoke_api_key(connection=connection, key_id=made.id, now=now)
    assert made.secret is not None
    return made.secret


async def make_seller(database: Database, *, name: str, mode: Mode = Mode.TEST) -> Seller:
    """A seller with one key for each scope, one revoked and one that has expired."""
    made = await create_seller(
        database=database, draft=SellerDraft(legal_name=name, mode=mode), now=START
    )
    keys = {
        scope.value: await make_key(database, seller=made.seller, scopes=(scope,), mode=mode)
        for scope in Scope
    }
    every = tuple(Scope)
    keys["revoked"] = await make_key(
        database, seller=made.seller, scopes=every, mode=mode, revoked=True
    )
    keys["expired"] = await make_key(
        database,
        seller=made.seller,
        scopes=every,
        mode=mode,
        now=START - timedelta(days=2),
        expires_at=START - timedelta(days=1),
    )
    return Seller(id=made.id, number=made.seller, keys=keys)


async def refuse_message(database: Database, *, seller: int) -> str:
    """A message that came through a stream and was refused; gives the id it is shown under."""
    made = intake_error_id(stream="USAGE_EVENTS", sequence=seller, received_at=START)
    refused = Refused(
        id=made,
        status="refused",
        stream="USAGE_EVENTS",
        sequence=seller,
        received_at=START,
        code="malformed_json",
        detail="the body is no JSON",
        rejected=(),
        content_type="",
        content_encoding="",
        body=b"{",
    )
    async with database.transaction(seller=seller) as connection:
        await save_refused(connection=connection, refused=refused, now=START)
    return made


async def fill(world: World, seller: Seller) -> None:
    """Give a seller a meter, a plan, a customer and a spare key. Resources add theirs here."""
    key = seller.keys["admin"]
    for name, path, body in (
        ("meter", "/v1/meters", METER),
        ("plan", "/v1/plans", PLAN),
        ("customer", "/v1/customers", CUSTOMER),
        ("tax_rate", "/v1/tax_rates", {"key": "vat", "percentage": "20", "country": "FR"}),
        ("coupon", "/v1/coupons", {"key": "spring", "percent_off": "10"}),
        ("other_coupon", "/v1/coupons", {"key": "autumn", "amount_off": "5.00"}),
        ("kept_coupon", "/v1/coupons", {"key": "winter", "percent_off": "1"}),
        (
            "credit_grant",
            "/v1/credit_grants",
            {
                "key": "welcome",
                "customer": "acme",
                "amount": "1.00",
                "kind": "promotional",
                "scope": {"prices": ["sold-by-nobody"]},  # so that it changes no other test
            },
        ),
        (
            "usage_alert",
            "/v1/usage_alerts",
            {"key": "much", "meter": "tokens", "customer": "acme", "thresholds": ["1000000"]},
        ),
        (
            "other_alert",
            "/v1/usage_alerts",
            {"key": "more", "meter": "tokens", "thresholds": ["2000000"], "window": "day"},
        ),
        ("api_key", "/v1/api_keys", {"name": "spare", "scopes": ["read"]}),
    ):
        answer = await world.send("POST", path, key=key, json=body)
        assert answer.status_code == 201, answer.text
        seller.ids[name] = answer.json()["id"]


async def _give_back(world: World, seller: Seller, key: str) -> None:
    """Two refunds of one payment."""
    for name in ("refund", "other_refund"):
        body = {"payment": seller.ids["given_back"], "amount": "1.00"}
        answer = await world.send("POST", "/v1/refunds", key=key, json=body)
        seller.ids[name] = answer.json()["id"]


async def bill(world: World, seller: Seller) -> None:
    """A subscription that was billed and then cancelled: an invoice, a credit note, a journal."""
    key = seller.keys["admin"]
    run = {"as_of": START.isoformat()}
    for name, path, body in (
        ("subscription", "/v1/subscriptions", {"key": "s1", "customer": "acme", "plan": "pro"}),
        ("run", "/v1/billing_runs", run),
        ("gone", "/v1/subscriptions", {"key": "s2", "customer": "acme", "plan": "pro"}),
        (None, "/v1/billing_runs", run),
        (None, "/v1/subscriptions/s2/cancel", {}),
        (None, "/v1/billing_runs", run),
        ("paused", "/v1/subscriptions", {"key": "s3", "customer": "acme", "plan": "pro"}),
        (None, "/v1/subscriptions/s3/pause", {}),
        ("payment", "/v1/payments", RECEIPT),
        ("given_back", "/v1/payments", RECEIPT),
        ("written", "/v1/invoices", BY_HAND),
        ("gift", "/v1/subscriptions/s1/coupons", {"coupon": "autumn"}),
        (
            None,
            "/v1/subscriptions/s1/change",
            {"quantities": {"base": "3"}, "effective": "2026-03-20T00:00:00Z"},
        ),
    ):
        answer = await world.send("POST", path, key=key, json=body)
        assert answer.is_success, answer.text
        if name is not None:
            seller.ids[name] = answer.json()["id"]
    await _give_back(world, seller, key)
    await credit(world, seller)
    await stop_runs(world.database, seller)
    answer = await world.send("POST", "/v1/backfills", key=key, json={"key": "old"})
    seller.ids["backfill"] = answer.json()["id"]
    for name in ("event", "wrong_event", "odd_event", "odd_wrong_event"):
        seller.ids[name] = f"{name}_{seller.id.partition('_')[2]}"
        sent = {"id": seller.ids[name], "type": "completion", "subject": "acme"}
        answer = await world.send("POST", "/v1/events", key=key, json=sent)
        assert answer.json()["accepted"] == 1, answer.text
    seller.ids["intake_error"] = await refuse_message(world.database, seller=seller.number)
    for name, path in (
        ("invoice", "/v1/invoices"),
        ("credit_note", "/v1/credit_notes"),
        ("entry", "/v1/journal_entries"),
        ("scheduled_change", "/v1/subscriptions/s1/scheduled_changes"),
    ):
        listed = (await world.send("GET", path, key=key)).json()["data"]
        assert listed, path
        seller.ids[name] = listed[0]["id"]
        if name == "invoice":
            seller.ids["line"] = listed[0]["lines"][0]["id"]
    await world.send("PATCH", "/v1/seller", key=key, json={"grace_hours": 48})
    fixed = PLAN | {"key": "fixed", "prices": [{**PLAN["prices"][0], "bill": "in_advance"}]}
    for path, body in (
        ("/v1/customers", {"key": "beta", "name": "Beta"}),
        ("/v1/plans", fixed),
        ("/v1/subscriptions", {"key": "waits", "customer": "beta", "plan": "fixed"}),
    ):
        answer = await world.send("POST", path, key=key, json=body)
        assert answer.is_success, answer.text
    listed = (await world.send("GET", "/v1/invoices?status=draft", key=key)).json()["data"]
    seller.ids["draft"] = next(each["id"] for each in listed if each["customer"] == "beta")


async def stop_runs(database: Database, seller: Seller) -> None:
    """Runs that stand where each step begins; of nobody, so that they hold nobody back."""
    async with database.transaction(seller=seller.number) as connection:
        names = ("running_run", "paused_run", "waiting_run", "other_run", "parked_run")
        for hours, name in enumerate(names, start=1):
            as_of = START - timedelta(hours=hours)
            run = f"run_{name.partition('_')[0]}{seller.id.partition('_')[2]}"
            begun = Unfinished(as_of=as_of, customers=(f"nobody {hours}",))
            await begin_run(connection=connection, run=run, begun=begun, now=START)
            seller.ids[name] = run
        paused = seller.ids["paused_run"]
        await move_run(connection=connection, run=paused, status=RunStatus.PAUSED, now=START)
        for name in ("waiting_run", "other_run"):
            await move_run(
                connection=connection,
                run=seller.ids[name],
                status=RunStatus.AWAITING_APPROVAL,
                now=START,
            )
        run, customer = seller.ids["parked_run"], seller.ids["customer"]
        why = {"billed_at": START, "code": "why", "detail": "why", "now": START}
        await park(connection=connection, run=run, customer=customer, **why)
        await finish_run(connection=connection, run=run, tried=None, parked=[customer], now=START)


async def credit(world: World, seller: Seller) -> None:
    """An invoice by hand that is sent, and of which 1.00 is credited by hand."""
    key = seller.keys["admin"]
    made = (await world.send("POST", "/v1/invoices", key=key, json=BY_HAND)).json()
    seller.ids["credited"] = made["id"]
    seller.ids["credited_line"] = made["lines"][0]["id"]
    told = {"to": ["ap@acme.example"]}
    mail = await world.send("POST", f"/v1/invoices/{made['id']}/send", key=key, json=told)
    seller.ids["email"] = mail.json()["id"]
    lines = [{"line": made["lines"][0]["id"], "amount": "1.00"}]
    body = {"invoice": made["id"], "lines": lines, "reason": "goodwill"}
    answer = await world.send("POST", "/v1/credit_notes", key=key, json=body)
    assert answer.status_code == 201, answer.text
    seller.ids["note"] = answer.json()["id"]


@asynccontextmanager
async def open_world(database: Database) -> AsyncIterator[World]:
    """The application on an empty database, with both sellers filled."""
    clock = WallClock()
    app = create_app(database=database, clock=clock, commit_seconds=PATIENT_SECONDS)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)  # type: ignore[arg-type]
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://usance") as client,
    ):
        world = World(
            app=app,
            database=database,
            clock=clock,
            client=client,
            ours=await make_seller(database, name="Ours"),
            theirs=await make_seller(database, name="Theirs"),
        )
        await fill(world, world.ours)
        await fill(world, world.theirs)
        yield world
