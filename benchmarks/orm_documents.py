"""What the run through ORM objects makes of what it read: charges, documents, progress."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

from orm_prices import PriceList, price_list
from orm_tables import (
    Base,
    Invoice,
    JournalEntry,
    LineItem,
    Outbox,
    Posting,
    PriceInterval,
    Subscription,
)
from orm_usage import SampleMeter

from engine.ids import DerivedIds, derived_body
from engine.journal import ACCOUNTS_RECEIVABLE, CONTRACT_BALANCE
from engine.period import Alignment, Calendar, IntervalUnit, Period, local_date, period_holding
from invoicing.assembly import document_parts
from invoicing.numbers import NUMBER
from plans.model import Seller


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
        number=NUMBER.format(series=office.seller.series, sequence=sequence),
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


def progress_of(one: Subscription) -> tuple[datetime, datetime]:
    """(derived through, next due) once it is billed: due is the end of the month that has begun."""
    assert one.next_due_at is not None
    _, begun = periods_at(one.anchor_at, one.next_due_at)
    return one.next_due_at, begun.end
