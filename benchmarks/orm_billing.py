"""The billing run through ORM objects, on a sample of what our own run is about to bill.

By the chunk of 500 subscriptions, one transaction each: load what is due with its customers, price
intervals and prices, load what those intervals were charged before, measure the usage of all that
is left in one statement, rate with `decimal`, take numbers under a lock, make invoices, lines,
entries, postings and outbox as mapped objects, move the subscriptions on, flush, commit. It is
written as the unit of work is meant to be used: no query within a loop, inserts and updates by
`executemany`.

Whatever could be thought unfair was decided for it. Usage lies before it an event a row, loaded and
indexed before the clock starts, and is measured as `orm_usage` says. Statements and mappers are
warm. Its tables are copies that hold the sample alone, without triggers, foreign keys and row-level
security. Nothing makes sure that subscriptions stay as they were read, nor keeps a list of what is
due. It has mapped only the columns that it needs, and no relationship is kept up while it writes.
It knows no more than the billing world asks for: whole months, three price models, two ways to
aggregate, no taxes, discounts, credit or parked accounts. Ids are derived as cheaply as ours are
one by one, and periods and prices are worked out once.

Afterwards all that it wrote is compared with what our run posted of the same subscriptions, column
by column; only the numbers may differ, and those have to be without a gap.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import asyncpg
from orm_prices import PriceList, price_list
from orm_sample import check_columns, compare
from orm_tables import (
    Base,
    Invoice,
    JournalEntry,
    LineItem,
    NumberSeries,
    Outbox,
    Posting,
    PriceInterval,
    Subscription,
)
from orm_usage import SampleMeter, Window, fill_events, measure, read_meters
from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import configure_mappers, joinedload, selectinload

from engine.db import Database
from engine.ids import DerivedIds, derived_body
from engine.journal import ACCOUNTS_RECEIVABLE, CONTRACT_BALANCE
from engine.money import Rounding
from engine.period import Alignment, Calendar, IntervalUnit, Period, local_date, period_holding
from invoicing.assembly import document_parts
from invoicing.numbers import number_of
from plans.catalog import party_id, party_of_seller
from plans.model import Seller
from plans.seller_store import load_seller

CHUNK = 500
WARMING = 20  # billed before the clock starts


class Due(NamedTuple):
    """What is to be charged, not rated yet."""

    interval: PriceInterval
    price: PriceList
    period: Period


class Charge(NamedTuple):
    """What a line will say."""

    interval: str
    price_key: str
    period: Period
    quantity: Decimal
    amount_minor: int


class Office(NamedTuple):
    """What all documents have in common, and what was made ready; gathered before the clock."""

    seller: Seller
    number: int
    party: str
    run: str
    as_of: datetime
    meters: Mapping[str, SampleMeter]
    prices: dict[str, PriceList]


class Billed(NamedTuple):
    """How many documents there were, and how long they took; measuring is a part of that."""

    documents: int
    seconds: float
    measuring_seconds: float


async def bill_sample(
    *, raw: Any, database: Database, dsn: str, seller: int, run: str, as_of: datetime
) -> Billed:
    """The sample billed through objects and compared with what `run` posted.

    The few documents that warm it are not in the figures. Ends the program where anything differs.
    """
    check_columns()
    await fill_events(raw, seller=seller)
    await raw.execute("CHECKPOINT")
    async with database.transaction(seller=seller) as connection:
        ours = await load_seller(connection=connection)
    assert ours.rounding is Rounding.HALF_UP
    office = Office(
        seller=ours,
        number=seller,
        party=party_id(party_of_seller(ours)),
        run=run,
        as_of=as_of,
        meters=await read_meters(raw, seller),
        prices={},
    )
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=functools.partial(asyncpg.connect, dsn)
    )
    sessions = async_sessionmaker(engine, expire_on_commit=False, autoflush=False)
    configure_mappers()
    try:
        warmed, _ = await bill_chunk(sessions, office, WARMING)
        documents, measuring, more, begin = 0, 0.0, True, time.perf_counter()
        while more:
            billed, spent = await bill_chunk(sessions, office, CHUNK)
            documents, measuring, more = documents + billed, measuring + spent, billed > 0
        taken = time.perf_counter() - begin
    finally:
        await engine.dispose()
    await compare(raw, run=run, documents=warmed + documents)
    if not documents:
        raise SystemExit("the sample is too small to be timed")
    return Billed(documents, taken, measuring)


async def bill_chunk(
    sessions: async_sessionmaker[AsyncSession], office: Office, limit: int
) -> tuple[int, float]:
    """Bill what is due next, at most so many; (documents, seconds of measuring)."""
    async with sessions() as session, session.begin():
        found = await session.scalars(
            select(Subscription)
            .where(Subscription.seller == office.number, Subscription.next_due_at <= office.as_of)
            .order_by(Subscription.next_due_at, Subscription.key)
            .limit(limit)
            .options(
                joinedload(Subscription.customer, innerjoin=True),
                selectinload(Subscription.intervals).selectinload(PriceInterval.price),
            )
        )
        due = found.all()
        if not due:
            return 0, 0.0
        posted = await charged_before(session, office, due)
        uncharged = [(one, list(due_of(one, office, posted))) for one in due]
        begin = time.perf_counter()
        quantities = await measured(session, office, uncharged)
        measuring = time.perf_counter() - begin
        rated = [(one, list(charges_of(parts, quantities))) for one, parts in uncharged]
        owed = [(one, charges) for one, charges in rated if charges]
        series = await session.get_one(
            NumberSeries, (office.number, office.seller.series), with_for_update=True
        )
        issued_at = max(office.as_of, series.last_issued_at or office.as_of)
        for sequence, (one, charges) in enumerate(owed, start=series.next_sequence):
            session.add_all(document_of(one, charges, office, sequence, issued_at))
        series.next_sequence += len(owed)
        series.last_issued_at = issued_at
        for one in due:
            advance(one)
        return len(owed), measuring


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


@functools.lru_cache(maxsize=1024)
def periods_at(anchor_at: datetime, due_at: datetime) -> tuple[Period, Period]:
    """The month that ends at an instant, and the one that begins."""
    calendar = Calendar(
        unit=IntervalUnit.MONTH,
        count=1,
        alignment=Alignment.ANNIVERSARY,
        anchor_at=anchor_at,
        anchor_day=None,
        timezone="UTC",
    )
    begun = period_holding(calendar=calendar, at=due_at)
    ended = period_holding(calendar=calendar, at=due_at - timedelta(microseconds=1))
    return Period(ended.start, ended.end), Period(begun.start, begun.end)


def due_of(
    one: Subscription, office: Office, posted: set[tuple[str | None, datetime | None]]
) -> Iterator[Due]:
    """What a subscription is to be charged at its due instant and was not charged yet."""
    assert one.next_due_at is not None
    ended, begun = periods_at(one.anchor_at, one.next_due_at)
    for interval in one.intervals:
        price = office.prices.get(interval.price_id)
        if price is None:
            price = office.prices[interval.price_id] = price_list(interval.price, office.meters)
        period = begun if price.meter is None else ended
        if period.start >= interval.start_at and (interval.id, period.start) not in posted:
            yield Due(interval, price, period)


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


def charges_of(parts: Sequence[Due], quantities: Mapping[str, Decimal]) -> Iterator[Charge]:
    """Each charge rated; those that come to nothing are left out."""
    for interval, price, period in parts:
        quantity = interval.quantity if price.meter is None else quantities[interval.id]
        exact = price.amount(quantity) * 100  # the cents of a euro
        amount = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
        if amount:
            yield Charge(interval.id, price.key, period, quantity, amount)


def document_of(
    one: Subscription, charges: Sequence[Charge], office: Office, sequence: int, issued_at: datetime
) -> Iterator[Base]:
    """A subscription's invoice with all that belongs to it."""
    at, customer, seller = one.next_due_at, one.customer, office.number
    assert at is not None
    parts = document_parts(
        seller_id=office.seller.id,
        customer=customer.id,
        billed_at=at.isoformat(),
        currency=one.currency,
    )
    ids = DerivedIds(body=derived_body(at=at, parts=parts))
    document = ids.find("inv")
    total = sum(charge.amount_minor for charge in charges)
    yield Invoice(
        seller=seller,
        id=document,
        series=office.seller.series,
        sequence=sequence,
        number=number_of(series=office.seller.series, sequence=sequence),
        customer=customer.id,
        currency=one.currency,
        status="open",
        billed_at=at,
        issued_at=issued_at,
        due_at=issued_at + timedelta(days=terms_days(one, office)),
        subtotal_minor=total,
        total_minor=total,
        balance_applied_minor=0,
        amount_due_minor=total,
        billed_from=office.party,
        billed_to=customer.party,
        po_number=customer.po_number,
        run=office.run,
        paid_at=None,
        version=1,
    )
    yield from entered(one, charges, office, ids, issued_at)
    for ordinal, charge in enumerate(charges, start=1):
        line = ids.find("li", ordinal)
        yield line_of(one, charge, seller=seller, id=line, document=document, ordinal=ordinal)
    yield Outbox(
        seller=seller,
        id=ids.find("evt"),
        type="invoice.issued",
        object=document,
        version=1,
        occurred_at=issued_at,
    )


def entered(
    one: Subscription,
    charges: Sequence[Charge],
    office: Office,
    ids: DerivedIds,
    issued_at: datetime,
) -> Iterator[Base]:
    """The journal entry of an invoice: the receivable, then each line on its contract."""
    entry_on = local_date(at=issued_at, timezone=office.seller.timezone)
    entry = ids.find("je")
    yield JournalEntry(
        seller=office.number,
        id=entry,
        kind="issued",
        source=ids.find("inv"),
        entry_on=entry_on,
        accounting_month=entry_on.replace(day=1),
        posted_at=issued_at,
    )
    total = sum(charge.amount_minor for charge in charges)
    sides = [(ACCOUNTS_RECEIVABLE, "", "", total)]
    sides += [
        (CONTRACT_BALANCE, one.key, ids.find("li", ordinal), -charge.amount_minor)
        for ordinal, charge in enumerate(charges, start=1)
    ]
    for ordinal, (account, contract, line, amount_minor) in enumerate(sides, start=1):
        yield Posting(
            seller=office.number,
            entry=entry,
            ordinal=ordinal,
            account=account,
            customer=one.customer.id,
            contract=contract,
            document=ids.find("inv"),
            line=line,
            currency=one.currency,
            amount_minor=amount_minor,
        )


def line_of(one: Subscription, charge: Charge, **named: Any) -> LineItem:
    return LineItem(
        subscription=one.id,
        price_interval=charge.interval,
        price_key=charge.price_key,
        charge_start_at=charge.period.start,
        charge_group="",
        sequence=1,
        period_start_at=charge.period.start,
        period_end_at=charge.period.end,
        quantity=charge.quantity,
        amount_minor=charge.amount_minor,
        reason="initial",
        adjusts=None,
        **named,
    )


def terms_days(one: Subscription, office: Office) -> int:
    agreed = (one.net_terms_days, one.customer.net_terms_days, office.seller.net_terms_days)
    return next(days for days in agreed if days is not None)


def advance(one: Subscription) -> None:
    """It was billed: what falls due next is the end of the month that has begun."""
    assert one.next_due_at is not None
    _, begun = periods_at(one.anchor_at, one.next_due_at)
    one.derived_through_at = one.next_due_at
    one.next_due_at = begun.end
    one.next_change_at = one.dirty_from_at = one.interim_at = None
