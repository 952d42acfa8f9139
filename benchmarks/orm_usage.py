"""Usage as the run through ORM objects finds it, an event a row, and how it measures that.

It lies there as somebody keeps it who sums in SQL: nothing but what is asked for, under an index
that holds the value as well and was vacuumed, so that no row of the table is read. Values are whole
numbers, which PostgreSQL sums quicker than decimals. None of it was corrected, taken back or sent
under a stranger's name, and nobody looks for whom new usage came in. Other customers than those of
the sample have none.

Of several forms of the statement the quickest was taken: each customer's period looks its events up
once (`LATERAL`) and aggregates them for all meters. A look for each charge takes about a seventh
longer, a join grouped by charge a quarter, an index that begins with customer and time as long.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from orm_tables import SCHEMA, Event
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Select,
    column,
    func,
    literal,
    select,
    true,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.schema import CreateIndex, CreateTable

from metering.columns import decode_quantities
from metering.store import at_micros

COPIED_AT_ONCE = 50_000


class SampleMeter(NamedTuple):
    """How a meter is named in events, and whether it counts them or sums their values."""

    number: int
    counts: bool


class Window(NamedTuple):
    """A customer's events in [start, end)."""

    customer: int
    start: datetime
    end: datetime


async def read_meters(raw: Any, seller: int) -> dict[str, SampleMeter]:
    """The meters by key."""
    rows = await raw.fetch("SELECT * FROM public.meters WHERE seller = $1", seller)
    assert {row["aggregation"] for row in rows} <= {"count", "sum"}
    return {row["key"]: SampleMeter(row["number"], row["aggregation"] == "count") for row in rows}


async def fill_events(raw: Any, *, seller: int) -> None:
    """Write the usage of the sample's customers, an event a row, in the order in which it came.

    It is picked from all that was measured, a few batches in memory at a time. Only whole values
    are known, and only batches that no fold has taken.
    """
    table, dialect = Event.__table__, postgresql.dialect()
    await raw.execute(str(CreateTable(table).compile(dialect=dialect)))
    numbers = await raw.fetch(f"SELECT number FROM {SCHEMA}.customers")
    known = np.array([row["number"] for row in numbers], dtype=np.int64)
    waiting: list[tuple[object, ...]] = []
    async with raw.transaction():
        async for row in raw.cursor(
            "SELECT meter, digits, wide, customers, times, quantities FROM public.event_measures"
            " WHERE seller = $1 ORDER BY batch, meter",
            seller,
        ):
            waiting += rows_of_events(row, seller=seller, known=known)
            if len(waiting) >= COPIED_AT_ONCE:
                await copy_events(raw, waiting)
                waiting = []
        await copy_events(raw, waiting)
    for index in table.indexes:
        await raw.execute(str(CreateIndex(index).compile(dialect=dialect)))
    await raw.execute(f"VACUUM ANALYZE {SCHEMA}.{table.name}")


def rows_of_events(
    row: Any, *, seller: int, known: NDArray[np.int64]
) -> Iterator[tuple[object, ...]]:
    """(seller, customer, meter, instant, value) of a batch's events that known customers sent."""
    assert not row["digits"], row
    assert not row["wide"], row
    customers = np.frombuffer(row["customers"], dtype="<i8")
    chosen = np.flatnonzero(np.isin(customers, known))
    times = np.frombuffer(row["times"], dtype="<i8")[chosen]
    values: list[int | None] = [None] * len(chosen)
    if row["quantities"]:
        quantities = decode_quantities(quantities=row["quantities"], wide=False)
        values = quantities[chosen].tolist()
    for customer, micros, value in zip(
        customers[chosen].tolist(), times.tolist(), values, strict=True
    ):
        yield seller, customer, row["meter"], at_micros(micros), value


async def copy_events(raw: Any, rows: list[tuple[object, ...]]) -> None:
    await raw.copy_records_to_table(
        Event.__tablename__,
        schema_name=SCHEMA,
        columns=["seller", "customer", "meter", "at", "value"],
        records=rows,
    )


async def measure(
    session: AsyncSession,
    *,
    seller: int,
    meters: Sequence[SampleMeter],
    windows: Sequence[Window],
) -> dict[tuple[Window, SampleMeter], Decimal]:
    """The quantity of each meter in each window, in one statement."""
    found = await session.execute(usage_of(seller, meters, windows))
    return {
        (windows[place - 1], meter): Decimal(quantity)
        for place, *quantities in found
        for meter, quantity in zip(meters, quantities, strict=True)
    }


def usage_of(
    seller: int, meters: Sequence[SampleMeter], windows: Sequence[Window]
) -> Select[tuple[Any, ...]]:
    """(place of a window from 1 on, a quantity for each meter)."""
    instant = DateTime(timezone=True)
    due = (
        func.unnest(
            literal([window.customer for window in windows], ARRAY(BigInteger)),
            literal([window.start for window in windows], ARRAY(instant)),
            literal([window.end for window in windows], ARRAY(instant)),
        )
        .table_valued(
            column("customer", BigInteger),
            column("start_at", instant),
            column("end_at", instant),
            with_ordinality="place",
        )
        .render_derived(name="due")
    )
    used = (
        select(*(aggregate_of(meter) for meter in meters))
        .where(
            Event.seller == seller,
            Event.customer == due.c.customer,
            Event.at >= due.c.start_at,
            Event.at < due.c.end_at,
        )
        .lateral("used")
    )
    return select(due.c.place, *used.c).join_from(due, used, true())


def aggregate_of(meter: SampleMeter) -> ColumnElement[Any]:
    its = Event.meter == meter.number
    if meter.counts:
        return func.count().filter(its).label(f"meter_{meter.number}")
    return func.coalesce(func.sum(Event.value).filter(its), 0).label(f"meter_{meter.number}")
