"""A seller with a catalogue and customers of every kind, driven through its API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any, Final, cast

import msgspec
from sqlalchemy import text

from api.app import create_app
from api.in_process import Answer, Client, lifespan
from engine.db import Database
from engine.money import format_amount, parse_amount
from engine.period import local_date
from metering.ingest import PATIENT_SECONDS
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from tests.year_ledger import Item, Ledger, Note

ZONE: Final = "America/New_York"
OPENS: Final = datetime(2026, 1, 1, 5, tzinfo=UTC)
"""The seller's midnight."""
GRACE_HOURS: Final = 30
METERS: Final = (
    {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "tokens"},
    {"key": "peak", "event_type": "call", "aggregation": "max", "value": "tokens"},
)
TAX_RATES: Final = (
    {"key": "sales", "percentage": "8.875", "country": "US"},
    {"key": "city", "percentage": "1.5", "country": "US"},
    {"key": "vat", "percentage": "20", "country": "FR"},
    {"key": "inside", "percentage": "21", "inclusive": True, "country": "NL"},
    {"key": "consumption", "percentage": "10", "inclusive": True, "country": "JP"},
)
COUPONS: Final = (
    {"key": "always", "percent_off": "7.5", "duration": "forever"},
    {"key": "once", "amount_off": "5.00", "currency": "USD"},
    {"key": "half", "percent_off": "50", "duration": "periods", "periods": 2}
    | {"applies_to": {"prices": ["seats"]}},
)
CUSTOMERS: Final[dict[str, tuple[tuple[str, ...], dict[str, Any]]]] = {
    "plain": (("USD",), {}),
    "taxed": (("USD",), {"tax_rates": ["sales", "city"], "net_terms_days": 30}),
    "exempt": (("USD",), {"tax_rates": ["sales"], "tax_exempt": "exempt"}),
    "grouped": (("USD",), {"invoice_group": "north", "tax_rates": ["sales"]}),
    "paris": (("EUR",), {"tax_rates": ["vat"], "timezone": "Europe/Paris"}),
    "delft": (("EUR",), {"tax_rates": ["inside"], "net_terms_days": 0}),
    "lyon": (("EUR",), {"tax_rates": ["vat"], "tax_exempt": "reverse"}),
    "kyoto": (("JPY",), {"tax_rates": ["consumption"], "timezone": "Asia/Tokyo"}),
    "nara": (("JPY",), {}),
    "both": (("USD", "EUR"), {"tax_rates": ["sales"]}),
    "head": (("USD",), {"tax_rates": ["sales"], "net_terms_days": 45}),
    "branch": (("USD",), {"parent": "head"}),
    "outpost": (("USD",), {"parent": "branch", "invoice_group": "far"}),
}
"""By key the currencies in which each buys, and what else is said of it."""

_INVOICES: Final = text("""
SELECT i.id, c.key, i.currency, i.total_minor, i.prepaid_applied_minor, i.balance_applied_minor,
  i.due_at, i.issued_at, i.sequence
FROM invoices i JOIN customers c ON c.id = i.customer WHERE i.sequence > :after ORDER BY i.sequence
""")
_NOTES: Final = text("""
SELECT n.id, c.key, n.currency, n.credited_minor, n.invoice, n.sequence, ARRAY(
  SELECT s.invoice || ' ' || s.amount_minor FROM settlements s WHERE s.credit_note = n.id
) AS applied
FROM credit_notes n JOIN customers c ON c.id = n.customer
WHERE n.sequence > :after ORDER BY n.sequence
""")


def plans_of(currency: str) -> list[dict[str, Any]]:
    """A plan of seats in advance, one of a fee in arrears with a minimum, one by the year."""

    def amount(minor: int) -> str:
        return format_amount(minor, currency=currency)

    tiers = [{"up_to": "500", "unit_amount": "0.1"}, {"up_to": None, "unit_amount": "0.03"}]
    seats = {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": amount(1999)}
    calls = {"key": "calls", "kind": "usage", "meter": "tokens", "model": "graduated"}
    peak = {"key": "peak", "kind": "usage", "meter": "peak", "model": "per_unit"}
    fee = {"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": amount(4950)}
    setup = {"key": "setup", "kind": "one_time", "model": "flat", "flat_amount": amount(2500)}
    month, year = {"unit": "month", "count": 1}, {"unit": "year", "count": 1}
    head = {"currency": currency, "interval": month}
    return [
        {"key": f"team-{currency}", **head}
        | {"prices": [seats | {"bill": "in_advance"}, calls | {"tiers": tiers}]},
        {"key": f"flow-{currency}", **head, "minimum_commitment": amount(9000)}
        | {"prices": [fee | {"bill": "in_arrears"}, peak | {"unit_amount": "0.5"}, setup]},
        {"key": f"year-{currency}", **head, "interval": year}
        | {
            "prices": [
                seats | {"unit_amount": amount(20011), "bill": "in_advance"},
                calls | {"tiers": tiers, "interval": month},
            ]
        },
    ]


class RefusedError(Exception):
    """The seller was told no; `codes` are the problem's own and those of its fields."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem))
        self.codes = {problem["code"], *(each["code"] for each in problem.get("errors") or ())}


class Seller:
    """The client of a seller, its clock, and the ledger that hears of everything."""

    def __init__(self, *, client: Client, database: Database, number: int, seed: int) -> None:
        self.client, self.database, self.number = client, database, number
        self.random = Random(seed)
        self.now = OPENS
        self.ledger = Ledger()
        self.subscriptions: dict[str, str] = {}
        """By the key of each that is running, its customer."""
        self._seen = {"invoices": 0, "notes": 0}
        self._count = 0

    def fresh(self, prefix: str) -> str:
        """A key that was not used."""
        self._count += 1
        return f"{prefix}{self._count}"

    async def set_up(self) -> None:
        """The catalogue and the customers."""
        patch = {"timezone": ZONE, "grace_hours": GRACE_HOURS, "net_terms_days": 14}
        told(await self.client.patch("/v1/seller", patch))
        for kind, bodies in (
            ("meters", METERS),
            ("tax_rates", TAX_RATES),
            ("coupons", COUPONS),
            ("plans", [plan for currency in ("USD", "EUR", "JPY") for plan in plans_of(currency)]),
            (
                "customers",
                [
                    {"key": key, "name": key.title(), "currency": currencies[0], **more}
                    for key, (currencies, more) in CUSTOMERS.items()
                ],
            ),
        ):
            for body in bodies:
                await self.post(f"/v1/{kind}", **body)

    async def post(self, path: str, **body: Any) -> dict[str, Any]:
        """POST; RefusedError where it is refused."""
        return told(await self.client.post(path, body))

    async def get(self, path: str) -> dict[str, Any]:
        """GET what is there."""
        return told(await self.client.get(path))

    async def advance(self, to: datetime) -> None:
        """Move the clock; the ledger hears of what was issued on the way."""
        answer = await self.post("/v1/test_clock/advance", to=to.isoformat())
        assert answer["parked"] == 0, answer
        self.now = to
        self.ledger.enter_due(to)
        await self.listen()

    async def listen(self) -> None:
        """Tell the ledger of documents that it has not heard of."""
        invoices = await self.rows(_INVOICES, after=self._seen["invoices"])
        for row in invoices:
            self.ledger.issue(
                Item(
                    id=row.id,
                    owner=(row.key, row.currency),
                    total=row.total_minor,
                    prepaid=row.prepaid_applied_minor,
                    balance_used=row.balance_applied_minor,
                    due=0,
                    due_at=row.due_at,
                    due_on=local_date(at=row.due_at, timezone=ZONE),
                    place=(row.issued_at, row.sequence),
                )
            )
            self._seen["invoices"] = row.sequence
        for row in await self.rows(_NOTES, after=self._seen["notes"]):
            applied = [part.split(" ") for part in row.applied]
            self.ledger.credit(
                Note(
                    id=row.id,
                    owner=(row.key, row.currency),
                    applied={invoice: int(amount) for invoice, amount in applied},
                    credited=row.credited_minor,
                    invoice=row.invoice,
                )
            )
            self._seen["notes"] = row.sequence

    async def rows(self, statement: Any, **values: Any) -> list[Any]:
        """What the seller's own rows answer."""
        async with self.database.transaction(seller=self.number) as connection:
            return list(await connection.execute(statement, values))


def told(answer: Answer) -> dict[str, Any]:
    """The body of what went well."""
    body = cast("dict[str, Any]", answer.json())
    if answer.ok:
        return body
    assert answer.status < 500, body
    raise RefusedError(body)


def minor(amount: str, owner: tuple[str, str]) -> int:
    """An amount of the API in minor units."""
    return parse_amount(amount, currency=owner[1])


@asynccontextmanager
async def open_seller(*, database: Database, seed: int) -> AsyncIterator[Seller]:
    """A test seller on an application of its own, in an empty database."""
    made = await create_seller(
        database=database,
        draft=msgspec.convert(
            {"legal_name": "A Year Inc.", "mode": "test", "currency": "USD", "clock_at": OPENS},
            SellerDraft,
        ),
        now=OPENS,
        key_name="year",
    )
    application = create_app(
        database=database, clock=lambda: datetime.now(UTC), commit_seconds=PATIENT_SECONDS
    )
    async with lifespan(application=application):
        client = Client(application=application, key=made.secret)
        seller = Seller(client=client, database=database, number=made.seller, seed=seed)
        await seller.set_up()
        yield seller
