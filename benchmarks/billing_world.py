"""A seller with many subscriptions and their usage, written in bulk as the store lays it out.

Batches and measured columns come out of the encoder that the intake uses. The raw events and their
keys are left out: a billing run reads neither.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.db import Database, open_database
from engine.ids import encode_body
from engine.period import IntervalUnit
from invoicing.run_billing import run_billing
from metering.columns import MeterColumns, measure_columns
from metering.store import at_micros
from plans.catalog import party_id
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Aggregation, Meter, MeterDraft, Mode, Party, PlanDraft
from plans.prices import FlatPrice, GraduatedPrice, Interval, Kind, PerUnitPrice, Tier
from plans.publish import publish_meter, publish_plan

OPENED = datetime(2026, 1, 1, tzinfo=UTC)
FIRST_RUN = datetime(2026, 1, 31, 12, tzinfo=UTC)  # bills the first base fees, no usage
SECOND_RUN = datetime(2026, 2, 28, 12, tzinfo=UTC)  # base fee and two usage lines each
PLANS, BATCH, BATCHES_A_COPY = 20, 5_000, 100
_DAY_MICROS = 86_400_000_000
_PARTY = Party(name="Kunde AG", country="DE")
_SUBSCRIPTION = (
    "seller id key customer plan currency timezone starts_at anchor_at alignment next_due_at"
    " created_at"
)
_CUSTOMER = "seller id number key name emails currency tax_ids party created_at"
_INTERVAL = "seller id subscription number price quantity start_at"
_BATCH = "seller batch received_at events first_at last_at meters payload ends"
_MEASURE = (
    "seller meter batch events first_at last_at digits wide customers times quantities unknown"
)


class World(msgspec.Struct, frozen=True, kw_only=True):
    """The seller and its meters; (plan id, price ids) of each plan."""

    seller: int
    meters: tuple[Meter, ...]
    plans: tuple[tuple[str, tuple[str, ...]], ...]


def plan_draft(number: int) -> PlanDraft:
    """A base fee in advance, calls at one price, tokens in five graduated tiers."""
    bounds = [1_000, 10_000, 100_000, 1_000_000, None]
    units = [0.02, 0.012, 0.008, 0.005, 0.003]
    return PlanDraft(
        key=f"plan{number}",
        currency="EUR",
        interval=Interval(unit=IntervalUnit.MONTH),
        prices=(
            FlatPrice(key="base", kind=Kind.RECURRING, flat_amount=f"{19 + number}.90"),
            PerUnitPrice(
                key="calls", kind=Kind.USAGE, meter="calls", unit_amount=f"0.{12 + number:04d}"
            ),
            GraduatedPrice(
                key="tokens",
                kind=Kind.USAGE,
                meter="tokens",
                tiers=tuple(
                    Tier(
                        up_to=None if bound is None else str(bound + 100 * number),
                        unit_amount=f"{unit:.5f}",
                    )
                    for bound, unit in zip(bounds, units, strict=True)
                ),
            ),
        ),
    )


METERS = (
    MeterDraft(key="calls", event_type="call", aggregation=Aggregation.COUNT),
    MeterDraft(key="tokens", event_type="chat", aggregation=Aggregation.SUM, value="tokens"),
)


async def publish_world(
    database: Database,
    *,
    drafts: Sequence[MeterDraft] = METERS,
    plan: Callable[[int], PlanDraft] = plan_draft,
) -> World:
    draft = SellerDraft(legal_name="Nordwind GmbH", mode=Mode.LIVE, country="DE", currency="EUR")
    made = await create_seller(database=database, draft=draft, now=OPENED)
    at = {"now": OPENED, "wall_now": OPENED}
    async with database.transaction(seller=made.seller) as connection:
        meters = [await publish_meter(connection=connection, draft=each, **at) for each in drafts]
        for number in range(PLANS):
            await publish_plan(connection=connection, draft=plan(number), **at)
    return World(seller=made.seller, meters=tuple(meters), plans=())


async def read_plans(raw: Any, world: World) -> World:
    rows = await raw.fetch(
        "SELECT plan, array_agg(id ORDER BY ordinal) AS prices FROM prices WHERE seller = $1"
        " GROUP BY plan ORDER BY plan",
        world.seller,
    )
    plans = tuple((row["plan"], tuple(row["prices"])) for row in rows)
    return msgspec.structs.replace(world, plans=plans)


def _id(prefix: str, number: int) -> str:
    return f"{prefix}_{encode_body((0x019B << 112) | number)}"


def start_of(number: int, anchors: int) -> datetime:
    """Subscriptions start at the midnights of the first `anchors` days of January."""
    return OPENED + timedelta(days=number % anchors)


async def copy(raw: Any, table: str, columns: str, records: Iterator[tuple[object, ...]]) -> None:
    await raw.copy_records_to_table(table, columns=columns.split(), records=records)


async def load_subscriptions(raw: Any, world: World, *, count: int, anchors: int) -> None:
    seller, party = world.seller, party_id(_PARTY)
    body = msgspec.json.encode(_PARTY).decode()
    await raw.execute("INSERT INTO parties VALUES ($1, $2, $3::jsonb)", seller, party, body)
    numbers = range(1, count + 1)
    customers = (
        (seller, _id("cus", n), n, f"c{n:07d}", f"Kunde {n}", "[]", "EUR", "[]", party, OPENED)
        for n in numbers
    )
    subscriptions = (
        (seller, _id("sub", n), f"s{n:07d}", _id("cus", n), world.plans[n % PLANS][0], "EUR", "UTC")
        + (start_of(n, anchors),) * 2
        + ("anniversary", start_of(n, anchors), OPENED)
        for n in numbers
    )
    intervals = (
        (seller, _id("pri", 8 * n + k), _id("sub", n), k, price, 1, start_of(n, anchors))
        for n in numbers
        for k, price in enumerate(world.plans[n % PLANS][1], start=1)
    )
    await copy(raw, "customers", _CUSTOMER, customers)
    await copy(raw, "subscriptions", _SUBSCRIPTION, subscriptions)
    await copy(raw, "price_intervals", _INTERVAL, intervals)


def event_columns(
    *, subscriptions: int, events: int, anchors: int, days: int = 31
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(customer numbers, times in microseconds) of events in each customer's first days."""
    random = np.random.default_rng(11)
    customers = random.integers(1, subscriptions + 1, events)
    starts = int(OPENED.timestamp()) * 1_000_000 + (customers % anchors) * _DAY_MICROS
    times = starts + random.integers(0, days * _DAY_MICROS, events)
    order = np.argsort(times)
    return customers[order], times[order]


def measured_batch(
    meters: tuple[Meter, ...], customers: NDArray[np.int64], times: NDArray[np.int64], seed: int
) -> list[MeterColumns]:
    random = np.random.default_rng(seed)
    count = len(customers)
    types = [("call", "chat")[kind] for kind in random.integers(0, 2, count).tolist()]
    datas = [{"tokens": tokens} for tokens in random.integers(1, 5_000, count).tolist()]
    subjects = [f"c{number:07d}" for number in customers.tolist()]
    columns = [
        measure_columns(
            meter=meter,
            types=types,
            subjects=subjects,
            datas=datas,
            customers=customers,
            times=times,
        )
        for meter in meters
    ]
    return [each for each in columns if each is not None]


async def load_events(
    raw: Any,
    world: World,
    *,
    subscriptions: int,
    events: int,
    anchors: int,
    batch_events: int = BATCH,
    days: int = 31,
) -> None:
    customers, times = event_columns(
        subscriptions=subscriptions, events=events, anchors=anchors, days=days
    )
    numbers = [meter.number for meter in world.meters]
    batches: list[tuple[object, ...]] = []
    measures: list[tuple[object, ...]] = []
    for batch, begin in enumerate(range(0, events, batch_events), start=1):
        part = slice(begin, min(begin + batch_events, events))
        first, last = at_micros(int(times[part.start])), at_micros(int(times[part.stop - 1]))
        size = part.stop - part.start
        batches.append((world.seller, batch, last, size, first, last, numbers, b"[]", b""))
        measures.extend(
            measure_row(world.seller, batch, each)
            for each in measured_batch(world.meters, customers[part], times[part], batch)
        )
        if len(batches) == BATCHES_A_COPY or part.stop == events:
            await copy(raw, "event_batches", _BATCH, iter(batches))
            await copy(raw, "event_measures", _MEASURE, iter(measures))
            await copy(raw, "event_inbox", "seller batch", (row[:2] for row in batches))
            batches, measures = [], []


def measure_row(seller: int, batch: int, columns: MeterColumns) -> tuple[object, ...]:
    """A row of `event_measures`."""
    return (
        seller,
        columns.meter,
        batch,
        columns.events,
        at_micros(columns.first_micros),
        at_micros(columns.last_micros),
        columns.digits,
        columns.wide,
        columns.customers,
        columns.times,
        columns.quantities,
        columns.unknown,
    )


async def build_world(*, dsn: str, subscriptions: int, events: int, anchors: int) -> int:
    """Load it all, bill the first base fees, then let the usage in; gives the seller's number."""
    database = open_database(dsn=dsn, role="usance_app", statement_timeout_seconds=600)
    raw = await asyncpg.connect(dsn)
    try:
        world = await read_plans(raw, await publish_world(database))
        await load_subscriptions(raw, world, count=subscriptions, anchors=anchors)
        await raw.execute("ANALYZE")
        await run_billing(
            database=database, seller=world.seller, as_of=FIRST_RUN, now=FIRST_RUN, pending=False
        )
        await load_events(raw, world, subscriptions=subscriptions, events=events, anchors=anchors)
        await raw.execute("VACUUM ANALYZE")
    finally:
        await raw.close()
        await database.close()
    return world.seller
