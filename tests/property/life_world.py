"""The application that random lives are played on, and what is sold there."""

from contextlib import AsyncExitStack
from datetime import UTC, datetime

from api.app import create_app
from api.in_process import Client, lifespan
from engine.db import PATIENT, open_database
from metering.ingest import PATIENT_SECONDS
from plans.api_keys import ApiKeyDraft, Scope
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.issue_key import issue_key
from plans.model import Mode

OPENED = datetime(2026, 1, 1, tzinfo=UTC)
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe")
SEATS = {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "31.00"}
TOKENS = {
    "key": "tokens",
    "kind": "usage",
    "meter": "tokens",
    "model": "graduated",
    "tiers": [{"up_to": "100", "unit_amount": "0.10"}, {"up_to": None, "unit_amount": "0.0137"}],
}
CALLS = {
    "key": "calls",
    "kind": "usage",
    "meter": "calls",
    "model": "package",
    "package_size": "2",
    "unit_amount": "0.37",
    "minimum_amount": "1.00",
}
FEE = {"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": "9.99"}
MONTH, WEEK = {"unit": "month"}, {"unit": "week"}
PLANS = {
    "team": {"interval": MONTH, "prices": [SEATS, TOKENS, FEE | {"bill": "in_arrears"}]},
    "solo": {
        "interval": MONTH,
        "prices": [SEATS | {"unit_amount": "17.77"}, CALLS, FEE | {"bill": "in_arrears"}],
    },
    "weekly": {
        "interval": WEEK,
        "prices": [SEATS | {"unit_amount": "3.33"}, TOKENS | {"interval": MONTH}, CALLS],
    },
    "yearly": {
        "interval": {"unit": "year"},
        "prices": [SEATS | {"unit_amount": "777.77"}, TOKENS | {"interval": MONTH}],
    },
    "grouped": {
        "interval": MONTH,
        "prices": [
            {"key": "setup", "kind": "one_time", "model": "flat", "flat_amount": "25.00"},
            SEATS | {"bill": "in_arrears", "unit_amount": "19.99"},
            TOKENS | {"group_by": ["project"], "tiers": TOKENS["tiers"][1:], "model": "volume"},
        ],
    },
}
METERS = (
    {"key": "tokens", "event_type": "tokens", "aggregation": "sum", "value": "n"}
    | {"group_by": ["project"]},
    {"key": "calls", "event_type": "calls", "aggregation": "count", "late_usage": "ignore"},
)


def told(at):
    return at.isoformat()


class World:
    """The application on one database; each life plays with a seller of its own."""

    def __init__(self, dsn):
        self.database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
        self.app = create_app(
            database=self.database, clock=lambda: OPENED, commit_seconds=PATIENT_SECONDS
        )
        self.stack = AsyncExitStack()

    async def open(self):
        await self.stack.enter_async_context(lifespan(application=self.app))

    async def close(self):
        await self.stack.aclose()
        await self.database.close()

    async def seller(self, terms):
        draft = SellerDraft(legal_name="Lives", mode=Mode.TEST, currency="EUR", clock_at=OPENED)
        made = await create_seller(database=self.database, draft=draft, now=OPENED)
        async with self.database.transaction(seller=made.seller) as connection:
            wanted = ApiKeyDraft(name="lives", scopes=(Scope.ADMIN,))
            key = await issue_key(connection=connection, mode=Mode.TEST, draft=wanted, now=OPENED)
        client = Client(application=self.app, key=key.secret)
        await sent(client.patch("/v1/seller", terms))
        for meter in METERS:
            await sent(client.post("/v1/meters", meter))
        for name, plan in PLANS.items():
            await sent(client.post("/v1/plans", {"key": name, "currency": "EUR"} | plan))
        return made.seller, client


async def sent(answer, *allowed):
    """The body of a successful answer, or the code of one of the allowed problems."""
    answer = await answer
    body = answer.json()
    if answer.ok:
        return body
    assert body["code"] in allowed, body
    return body["code"]
