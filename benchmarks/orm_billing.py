"""The billing run through ORM objects, on a sample of what our own run is about to bill.

By the chunk of 500 subscriptions, one transaction each: load what is due with its customers, price
intervals and prices, load what those intervals were charged before, measure the usage of all that
is left in one statement, rate with `decimal`, take numbers under a lock, make invoices, lines,
entries, postings and outbox as mapped objects (`orm_documents`), move the subscriptions on, flush,
commit. It is written as the unit of work is meant to be used: no query within a loop.

It has two forms, the same but for what is read first and how it is written:

- *bare*, here: copies of the tables that hold the sample alone, without triggers, foreign keys and
  row-level security. Nothing keeps a list of what is due. All is left to the unit of work, whose
  inserts and updates go by `executemany`: no more than a round trip, but a statement a row.
- *guarded*, in `orm_guarded`: our own tables in a clone of the database, with every trigger. Those
  fire once a statement, so lines, postings and progress are one statement each there. That saves
  more than the guards cost, so it is the quicker of the two: what they differ by is not what
  guarding costs.

Whatever else could be thought unfair was decided for it. Usage lies before it an event a row,
loaded and indexed before the clock starts, and is measured as `orm_usage` says. Statements and
mappers are warm. Nothing makes sure that subscriptions stay as they were read. It has mapped only
the columns that it needs, and no relationship is kept up while it writes. It knows no more than the
billing world asks for: whole months, three price models, two ways to aggregate, no taxes,
discounts, credit or parked accounts. Ids are derived as cheaply as ours are one by one, and periods
and prices are worked out once.

Afterwards all that it wrote is compared with what our run posted of the same subscriptions, column
by column; only the numbers may differ, and those have to be without a gap.
"""

import functools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import asyncpg
from orm_documents import Due, Office, charges_of, document_of, due_of, progress_of
from orm_sample import check_columns, compare
from orm_tables import SCHEMA, Base, LineItem, NumberSeries, PriceInterval, Subscription
from orm_usage import Window, fill_events, measure, read_meters
from sqlalchemy import ARRAY, Select, Text, any_, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import configure_mappers, joinedload, selectinload

from engine.db import Database
from engine.money import Rounding
from plans.catalog import party_id, party_of_seller
from plans.seller_store import load_seller

CHUNK = 500
WARMING = 20  # billed before the clock starts
SETTINGS = {"timezone": "UTC", "jit": "off"}  # as our own connections have them


class Billed(NamedTuple):
    """How many documents there were, and how long they took; the rest are parts of that.

    Progress is None where it is written along with everything else.
    """

    documents: int
    seconds: float
    measuring_seconds: float
    progress_seconds: float | None


class Form(NamedTuple):
    """Where the run through objects writes, and what differs by that."""

    schemas: Mapping[str | None, str]
    """Where a schema of the mapped classes lies."""
    due: Callable[[int, datetime], Select[Subscription]]
    """(seller, as of): what is due, in order."""
    write: Callable[[AsyncSession, Sequence[Base], Sequence[Subscription]], Awaitable[float | None]]
    """(session, what was made, what was billed): seconds of noting progress, if that is told."""


def listed_bare(seller: int, as_of: datetime) -> Select[Subscription]:
    return (
        select(Subscription)
        .where(Subscription.seller == seller, Subscription.next_due_at <= as_of)
        .order_by(Subscription.next_due_at, Subscription.key)
    )


async def write_bare(
    session: AsyncSession, made: Sequence[Base], billed: Sequence[Subscription]
) -> None:
    """All of it by the unit of work, when the transaction commits."""
    session.add_all(made)
    for one in billed:
        one.derived_through_at, one.next_due_at = progress_of(one)
        one.next_change_at = one.dirty_from_at = one.interim_at = None


BARE = Form(schemas={}, due=listed_bare, write=write_bare)


async def bill_sample(
    *, raw: Any, database: Database, dsn: str, seller: int, run: str, as_of: datetime
) -> Billed:
    """The sample billed through objects and compared with what `run` posted.

    The few documents that warm it are not in the figures. Ends the program where anything differs.
    """
    numbers = [row["number"] for row in await raw.fetch(f"SELECT number FROM {SCHEMA}.customers")]
    await fill_events(raw, seller=seller, customers=numbers)
    await raw.execute("CHECKPOINT")
    office = await office_of(raw=raw, database=database, seller=seller, run=run, as_of=as_of)
    found = await bill_all(form=BARE, dsn=dsn, office=office, subscriptions=len(numbers))
    await compare(raw, schema=SCHEMA, run=run, documents=WARMING + found.documents)
    return found


async def office_of(
    *, raw: Any, database: Database, seller: int, run: str, as_of: datetime
) -> Office:
    """What all documents have in common; they name `run`, so that they can be compared with its."""
    check_columns()
    async with database.transaction(seller=seller) as connection:
        ours = await load_seller(connection=connection)
    assert ours.rounding is Rounding.HALF_UP
    return Office(
        seller=ours,
        number=seller,
        party=party_id(party_of_seller(ours)),
        run=run,
        as_of=as_of,
        meters=await read_meters(raw, seller),
        prices={},
    )


async def bill_all(*, form: Form, dsn: str, office: Office, subscriptions: int) -> Billed:
    """Bill so many of what is due by the chunk, the first few before the clock starts."""
    if subscriptions <= WARMING:
        raise SystemExit("the sample is too small to be timed")
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=functools.partial(asyncpg.connect, dsn, server_settings=SETTINGS),
        execution_options={"schema_translate_map": form.schemas} if form.schemas else {},
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)
    configure_mappers()
    total = Billed(0, 0.0, 0.0, None)
    try:
        await bill_chunk(form, sessions, office, WARMING)
        begin = time.perf_counter()
        for done in range(WARMING, subscriptions, CHUNK):
            limit = min(CHUNK, subscriptions - done)
            billed = await bill_chunk(form, sessions, office, limit)
            progress = billed.progress_seconds
            total = Billed(
                total.documents + billed.documents,
                time.perf_counter() - begin,
                total.measuring_seconds + billed.measuring_seconds,
                None if progress is None else (total.progress_seconds or 0.0) + progress,
            )
    finally:
        await engine.dispose()
    return total


async def bill_chunk(
    form: Form, sessions: async_sessionmaker[AsyncSession], office: Office, limit: int
) -> Billed:
    """Bill what is due next, at most so many."""
    begin = time.perf_counter()
    async with sessions() as session, session.begin():
        await session.execute(select(func.set_config("app.seller", str(office.number), True)))
        found = await session.scalars(
            form.due(office.number, office.as_of)
            .limit(limit)
            .options(
                joinedload(Subscription.customer, innerjoin=True),
                selectinload(Subscription.intervals).selectinload(PriceInterval.price),
            )
        )
        due = found.all()
        posted = await charged_before(session, office, due)
        uncharged = [(one, list(due_of(one, office, posted))) for one in due]
        asked = time.perf_counter()
        quantities = await measured(session, office, uncharged)
        measuring = time.perf_counter() - asked
        rated = [(one, list(charges_of(parts, quantities))) for one, parts in uncharged]
        owed = [(one, charges) for one, charges in rated if charges]
        series = await session.get_one(
            NumberSeries, (office.number, office.seller.series), with_for_update=True
        )
        issued_at = max(office.as_of, series.last_issued_at or office.as_of)
        made = [
            each
            for sequence, (one, charges) in enumerate(owed, start=series.next_sequence)
            for each in document_of(one, charges, office, sequence, issued_at)
        ]
        series.next_sequence += len(owed)
        series.last_issued_at = issued_at
        progress = await form.write(session, made, due)
    return Billed(len(owed), time.perf_counter() - begin, measuring, progress)


async def charged_before(
    session: AsyncSession, office: Office, due: Sequence[Subscription]
) -> set[tuple[str | None, datetime | None]]:
    """The charges (price interval, start) of which there are lines: what is due is what is not."""
    intervals = [interval.id for one in due for interval in one.intervals]
    found = await session.execute(
        select(LineItem.price_interval, LineItem.charge_start_at).where(
            LineItem.seller == office.number,
            LineItem.price_interval == any_(literal(intervals, ARRAY(Text))),
        )
    )
    return {(interval, start) for interval, start in found}


async def measured(
    session: AsyncSession, office: Office, due: Sequence[tuple[Subscription, Sequence[Due]]]
) -> dict[str, Decimal]:
    """The quantity of each price interval whose usage is due."""
    asked = [
        (part.interval.id, Window(one.customer.number, part.period.start, part.period.end), meter)
        for one, parts in due
        for part in parts
        if (meter := part.price.meter) is not None
    ]
    found = await measure(
        session,
        seller=office.number,
        meters=tuple(office.meters.values()),
        windows=list(dict.fromkeys(window for _, window, _ in asked)),
    )
    return {interval: found[window, meter] for interval, window, meter in asked}
