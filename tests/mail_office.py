"""A seller with mails switched on, seen through its API, and a worker that sends them."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from api.app import create_app
from api.in_process import Client, lifespan
from api.worker import mail
from engine.db import Database
from metering.ingest import PATIENT_SECONDS
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Mode
from tests.mail_server import Served

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
EVERY = ["invoice", "credit_note", "receipt"]


class Office:
    """A live seller with mails switched on, seen through its API, and a clock of its own."""

    def __init__(self, database: Database) -> None:
        self.database, self.now = database, NOW
        self.seller = 0
        self.client: Client

    async def open(self, *, mode: Mode = Mode.LIVE, **emails: Any) -> "Office":
        clock_at = NOW if mode is Mode.TEST else None
        draft = SellerDraft(legal_name="Helios", mode=mode, clock_at=clock_at)
        made = await create_seller(database=self.database, draft=draft, now=NOW)
        application = create_app(
            database=self.database, clock=lambda: self.now, commit_seconds=PATIENT_SECONDS
        )
        async with lifespan(application=application):
            self.client = Client(application=application, key=made.secret)
        self.seller = made.seller
        await self.call("PATCH", "/v1/seller", {"emails": {"kinds": EVERY} | emails})
        await self.customer("acme", emails=["ap@acme.example", "cfo@acme.example"])
        return self

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        content = b"" if body is None else msgspec.json.encode(body)
        head = {"content-type": "application/json"} if content else {}
        answer = await self.client.send(method, path, content=content, headers=head)
        assert answer.ok, answer.body
        return answer.json()

    async def customer(self, key: str, **fields: Any) -> None:
        body = {"key": key, "name": "Acme"} | fields
        await self.call("POST", "/v1/customers", body)

    async def invoice(self, customer: str = "acme", amount: str = "10.00") -> dict[str, Any]:
        lines = [{"key": "fee", "amount": amount}]
        return await self.call("POST", "/v1/invoices", {"customer": customer, "lines": lines})

    async def emails(self) -> list[dict[str, Any]]:
        return (await self.call("GET", "/v1/emails"))["data"]

    async def work(self, served: Served | None) -> int:
        server = None if served is None else served.server
        return await mail(database=self.database, clock=lambda: self.now, server=server)
