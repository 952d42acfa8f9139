"""A seller with meters, customers and an ingester: what the tests of metering stand on."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from engine.db import Database
from engine.money import format_plain
from metering.ingest import Ingester
from metering.intake import micros_of, read_events
from metering.measure import measure
from metering.model import EventAnswer, Windows
from metering.store import load_meters
from plans.model import Aggregation, CustomerDraft, Meter, MeterDraft
from plans.publish import publish_meter
from plans.register_customer import register_customer

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)


def event(id: str, *, value: object = 1, at: datetime = NOW, **fields: object) -> dict[str, Any]:
    """One usage event of `acme` as a caller would send it."""
    body = {"id": id, "type": "call", "subject": "acme", "data": {"tokens": value}}
    return body | {"time": at.isoformat()} | fields


class World:
    """One seller, seen through the verbs of metering."""

    def __init__(self, *, database: Database, seller: int, ingester: Ingester) -> None:
        self.database, self.seller, self.ingester = database, seller, ingester

    async def send(self, body: object, *, now: datetime = NOW, lines: bool = False) -> EventAnswer:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        intake = read_events(raw, lines=lines)
        return await self.ingester.submit(seller=self.seller, intake=intake, now=now)

    async def meter(
        self, key: str, aggregation: str = "sum", value: str | None = "tokens", **fields: Any
    ) -> Meter:
        draft = MeterDraft(
            key=key,
            event_type="call",
            aggregation=Aggregation(aggregation),
            value=None if aggregation == "count" else value,
            **fields,
        )
        async with self.database.transaction(seller=self.seller) as connection:
            return await publish_meter(connection=connection, draft=draft, now=NOW, wall_now=NOW)

    async def customer(self, key: str) -> int:
        draft = CustomerDraft(key=key, name=key)
        async with self.database.transaction(seller=self.seller) as connection:
            made = await register_customer(
                connection=connection, draft=draft, now=NOW, wall_now=NOW
            )
            return made.number

    async def measured(self, lines: Sequence[tuple[Meter, int, datetime, datetime]]) -> list[str]:
        windows = Windows(
            meter=np.array([each[0].number for each in lines], dtype=np.int32),
            customer=np.array([each[1] for each in lines], dtype=np.int64),
            start_micros=np.array([micros_of(each[2]) for each in lines], dtype=np.int64),
            end_micros=np.array([micros_of(each[3]) for each in lines], dtype=np.int64),
        )
        meters = {each[0].number: each[0] for each in lines}
        async with self.database.transaction(seller=self.seller) as connection:
            result = await measure(connection=connection, meters=meters, windows=windows)
        return [format_plain(int(each), digits=result.digits) for each in result.mantissa]

    async def total(self, meter: Meter, customer: int, *, days: int = 90) -> str:
        span = timedelta(days=days)
        return (await self.measured([(meter, customer, NOW - span, NOW + span)]))[0]

    async def meters(self) -> tuple[Meter, ...]:
        from engine.db import driver

        async with self.database.transaction(seller=self.seller) as connection:
            return await load_meters(await driver(connection))


@contextlib.asynccontextmanager
async def running(database: Database, **options: Any) -> AsyncIterator[Ingester]:
    """An ingester that is started, and stopped at the end."""
    patience = {"commit_seconds": 60.0, **options}  # a slow disk is not what is tested
    ingester = Ingester(database=database, **patience)
    await ingester.start()
    try:
        yield ingester
    finally:
        await ingester.stop()


@pytest.fixture
async def world(database, make_seller) -> AsyncIterator[World]:
    seller = await make_seller()
    async with running(database) as ingester:
        yield World(database=database, seller=seller, ingester=ingester)
