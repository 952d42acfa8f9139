"""Verb: the main job from end to end, through the API, on a test seller of its own."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from api.app import create_app
from api.demo_seller import DemoSeller, demo_seller
from api.demo_usage import EVENT_TYPE, Usage
from api.importing import written
from api.in_process import Answer, Client, PatientClient, lifespan
from api.send_rows import BATCH, batched
from engine.db import Database
from engine.errors import BillingError, ErrorKind
from metering.ingest import PATIENT_SECONDS

PLAN: Final = "pay-as-you-go"
SENDERS: Final = 4
"""Batches on the way at once: while one is committed the next is read."""

_CITIES: Final = "Lisbon Oslo Nairobi Kyoto Quito Perth Austin Lyon Cork Graz Turin Ghent".split()
_KINDS: Final = "Labs Systems Foods Mills Studios Rail Optics Books".split()


class Counts(msgspec.Struct, kw_only=True):
    """How many events were answered so far."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


class Demo:
    """The steps of the demo, in the order in which they are called.

    Each makes what is not there yet, so that after a run that was killed, or that came to its end,
    all of them may be called again.
    """

    def __init__(self, *, client: Client, seller: DemoSeller, usage: Usage) -> None:
        """`client` acts for the seller."""
        self.client = client
        self.seller = seller
        self.usage = usage
        self.clock_at = seller.clock_at
        self.documents = 0
        """How many documents were posted on the way of the clock."""

    async def catalogue(self) -> None:
        """A meter for each value and one plan: a fee in advance, graduated usage after."""
        meters, plan = catalogue_of(self.usage.values)
        await self._make("meters", meters)
        await self._make("plans", [plan])

    async def customers(self, keys: Sequence[str]) -> None:
        """Customers with a subscription each, from the first event's month on."""
        start = written(self.usage.months()[0][0])
        bodies = [{"key": key, "name": customer_name(index)} for index, key in enumerate(keys)]
        await self._make("customers", bodies)
        agreed = {"plan": PLAN, "starts_at": start}
        bodies = [{"key": f"sub-{key}", "customer": key, **agreed} for key in keys]
        await self._make("subscriptions", bodies)

    async def _make(self, kind: str, bodies: Collection[Mapping[str, Any]]) -> None:
        """Post those of the bodies whose key is not there yet."""
        there = {entry["key"] for entry in await self.all(kind)} if self.seller.found else set()
        for body in bodies:
            if body["key"] not in there:
                path = f"/v1/{kind}"
                _expect_ok(await self.client.create(path, body), what=f"POST {path}")

    async def send(
        self,
        events: Iterable[Mapping[str, Any]],
        *,
        counts: Counts,
        report: Callable[[Counts], None],
    ) -> None:
        """Post the events in batches, several at once."""
        batches = batched(events, BATCH)

        async def sender() -> None:
            for batch in batches:
                body = (await self._post("/v1/events", batch)).json()
                counts.accepted += body["accepted"]
                counts.duplicates += body["duplicates"]
                counts.rejected += len(body["rejected"])
                report(counts)

        await asyncio.gather(*(sender() for _ in range(SENDERS)))

    async def advance(self, to: datetime) -> None:
        """Move the seller's clock there; all that falls due on the way is billed.

        A clock that an earlier run moved further stays, and what died there is finished.
        """
        to = max(to, self.clock_at)
        moved = (await self._post("/v1/test_clock/advance", {"to": written(to)})).json()
        self.clock_at = to
        self.documents += moved["documents"]

    async def open_month(self, start: datetime, end: datetime) -> None:
        """Move the clock to where all usage of the month can be taken in and none is late."""
        await self.advance(max(start, min(end - timedelta(seconds=1), self.usage.last_at)))

    async def run_again(self) -> int:
        """A billing run at the clock's instant; gives the number of documents it posted."""
        body = {"as_of": written(self.clock_at)}
        return int((await self._post("/v1/billing_runs", body)).json()["documents"])

    async def all(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        found, path = list[dict[str, Any]](), f"/v1/{kind}?limit=200"
        cursor: str | None = None
        while True:
            answer = await self._get(path if cursor is None else f"{path}&cursor={cursor}")
            page = answer.json()
            found += page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    async def accounts(self) -> list[dict[str, Any]]:
        """The seller's accounts with their balances."""
        found: list[dict[str, Any]] = (await self._get("/v1/accounts")).json()["data"]
        return found

    async def pdf(self, invoice: str) -> bytes:
        """The invoice as it is sent."""
        return (await self._get(f"/v1/invoices/{invoice}.pdf")).body

    async def _post(self, path: str, body: Any) -> Answer:
        return _expect_ok(await self.client.post(path, body), what=f"POST {path}")

    async def _get(self, path: str) -> Answer:
        return _expect_ok(await self.client.get(path), what=f"GET {path}")


def catalogue_of(values: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(the bodies of the meters, the body of the plan) for the values that are billed."""
    prices: list[dict[str, Any]] = [
        {"key": "base", "name": "Platform fee", "kind": "recurring", "model": "flat"}
        | {"flat_amount": "49.00", "bill": "in_advance"}
    ]
    # The flat amount gives even the smallest usage a line, so that lines show all of it.
    tiers = [
        {"up_to": "100000", "unit_amount": "0", "flat_amount": "1.00"},
        {"up_to": "1000000", "unit_amount": "0.000003"},
        {"up_to": None, "unit_amount": "0.0000024"},
    ]
    meters = list[dict[str, Any]]()
    for value in values:
        key = price_key(value)
        meter = {"key": key, "event_type": EVENT_TYPE, "aggregation": "sum", "value": value}
        meters.append(meter)
        name = key.replace("_", " ").capitalize()
        prices.append(
            {"key": key, "name": name, "kind": "usage", "meter": key}
            | {"model": "graduated", "tiers": tiers, "flat_at_zero": False}
        )
    plan = {"key": PLAN, "name": "Pay as you go", "currency": "USD", "prices": prices}
    interval = {"unit": "month", "count": 1}
    return meters, {**plan, "interval": interval, "alignment": "calendar"}


def price_key(value: str) -> str:
    """`ContextTokens` as `context_tokens`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", value)
    return re.sub(r"[^A-Za-z0-9]+", "_", spaced).strip("_").lower()


def customer_name(index: int) -> str:
    """A made-up name, another one for each index below 96."""
    kind = _KINDS[index // len(_CITIES) % len(_KINDS)]
    return f"{_CITIES[index % len(_CITIES)]} {kind}"


def billed_quantities(
    *, invoices: Sequence[Mapping[str, Any]], values: Sequence[str]
) -> dict[str, Decimal]:
    """The sum of the quantities on all lines of each value's price."""
    sums = {value: Decimal(0) for value in values}
    by_key = {price_key(value): value for value in values}
    for invoice in invoices:
        for line in cast("Sequence[Mapping[str, Any]]", invoice["lines"]):
            value = by_key.get(line["price"])
            if value is not None:
                sums[value] += Decimal(line["quantity"])
    return sums


@asynccontextmanager
async def staged(
    *, database: Database, usage: Usage, clock: Callable[[], datetime]
) -> AsyncIterator[Demo]:
    """The application in this process and a test seller whose clock stands at the start.

    The seller of the same usage, billed in the same way, is found again, its clock where it stood;
    made-up usage has a fresh one each time. Errors: `demo_busy`.
    """
    application = create_app(database=database, clock=clock, commit_seconds=PATIENT_SECONDS)
    async with (
        demo_seller(
            database=database,
            determined_by=_determined_by(usage),
            clock_at=usage.months()[0][0],
            now=clock(),
        ) as seller,
        lifespan(application=application),
    ):
        client = PatientClient(application=application, key=seller.secret)
        yield Demo(client=client, seller=seller, usage=usage)


def _determined_by(usage: Usage) -> bytes | None:
    """What the invoices follow from: the events and the catalogue."""
    if usage.determined_by is None:
        return None
    catalogue = msgspec.json.encode(catalogue_of(usage.values), order="deterministic")
    return usage.determined_by + catalogue


def _expect_ok(answer: Answer, *, what: str) -> Answer:
    if not answer.ok:
        told = answer.body.decode(errors="replace")[:500]
        raise BillingError(
            "demo_failed", f"{what} answered {answer.status}: {told}", kind=ErrorKind.UNAVAILABLE
        )
    return answer
