"""Mapped classes of what a billing run reads and writes, over copies of the tables.

Usage alone has another form than ours: an event is a row there, and no column of a batch. Only the
columns that a run needs are mapped: of what it writes those that our run writes too, which
`bill_sample` makes sure of. What refers to what is told to the mapper alone.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import BigInteger, DateTime, ForeignKeyConstraint, Index, MetaData, Numeric, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA = "sample"
Owner = Annotated[int, mapped_column(primary_key=True)]
Id = Annotated[str, mapped_column(primary_key=True)]
Minor = Annotated[int, mapped_column(BigInteger)]


class Base(DeclarativeBase):
    """What all mapped classes have in common."""

    metadata = MetaData(schema=SCHEMA)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way to say it
        str: Text(),
        datetime: DateTime(timezone=True),
        Decimal: Numeric(24, 9),
        dict[str, Any]: JSONB(),
    }


def refers(column: str, table: str) -> tuple[ForeignKeyConstraint]:
    target = [f"{SCHEMA}.{table}.seller", f"{SCHEMA}.{table}.id"]
    return (ForeignKeyConstraint(["seller", column], target),)


class Customer(Base):
    """Whom a subscription bills."""

    __tablename__ = "customers"
    seller: Mapped[Owner]
    id: Mapped[Id]
    number: Mapped[int] = mapped_column(BigInteger)
    party: Mapped[str]
    net_terms_days: Mapped[int | None]
    po_number: Mapped[str | None]


class Event(Base):
    """What was used, an event a row; what is measured of it is read from the index alone."""

    __tablename__ = "events"
    __table_args__ = (
        Index("events_at", "seller", "customer", "meter", "at", postgresql_include=["value"]),
    )
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    seller: Mapped[int]
    customer: Mapped[int] = mapped_column(BigInteger)
    meter: Mapped[int]
    at: Mapped[datetime]
    value: Mapped[int | None] = mapped_column(BigInteger)


class Price(Base):
    """What a price says, as JSON."""

    __tablename__ = "prices"
    seller: Mapped[Owner]
    id: Mapped[Id]
    key: Mapped[str]
    body: Mapped[dict[str, Any]]


class PriceInterval(Base):
    """A price of a subscription, and from when on."""

    __tablename__ = "price_intervals"
    __table_args__ = (*refers("price", "prices"), *refers("subscription", "subscriptions"))
    seller: Mapped[Owner]
    id: Mapped[Id]
    subscription: Mapped[str]
    number: Mapped[int]
    price_id: Mapped[str] = mapped_column("price")
    quantity: Mapped[Decimal]
    start_at: Mapped[datetime]
    price: Mapped[Price] = relationship(viewonly=True)


class Subscription(Base):
    """What is billed, with how far it was."""

    __tablename__ = "subscriptions"
    __table_args__ = refers("customer", "customers")
    seller: Mapped[Owner]
    id: Mapped[Id]
    key: Mapped[str]
    customer_id: Mapped[str] = mapped_column("customer")
    currency: Mapped[str]
    timezone: Mapped[str]
    anchor_at: Mapped[datetime]
    net_terms_days: Mapped[int | None]
    next_due_at: Mapped[datetime | None]
    derived_through_at: Mapped[datetime | None]
    next_change_at: Mapped[datetime | None]
    dirty_from_at: Mapped[datetime | None]
    interim_at: Mapped[datetime | None]
    customer: Mapped[Customer] = relationship(viewonly=True)
    intervals: Mapped[list[PriceInterval]] = relationship(
        viewonly=True, order_by=PriceInterval.number
    )


class NumberSeries(Base):
    """What numbers documents."""

    __tablename__ = "number_series"
    seller: Mapped[Owner]
    series: Mapped[Id]
    next_sequence: Mapped[int]
    last_issued_at: Mapped[datetime | None]


class Invoice(Base):
    """A document."""

    __tablename__ = "invoices"
    seller: Mapped[Owner]
    id: Mapped[Id]
    series: Mapped[str]
    sequence: Mapped[int]
    number: Mapped[str]
    customer: Mapped[str]
    currency: Mapped[str]
    status: Mapped[str]
    billed_at: Mapped[datetime]
    issued_at: Mapped[datetime]
    due_at: Mapped[datetime]
    subtotal_minor: Mapped[Minor]
    total_minor: Mapped[Minor]
    balance_applied_minor: Mapped[Minor]
    amount_due_minor: Mapped[Minor]
    billed_from: Mapped[str]
    billed_to: Mapped[str]
    po_number: Mapped[str | None]
    run: Mapped[str]
    paid_at: Mapped[datetime | None]
    version: Mapped[int]


class LineItem(Base):
    """A charge on a document."""

    __tablename__ = "line_items"
    seller: Mapped[Owner]
    id: Mapped[Id]
    document: Mapped[str]
    ordinal: Mapped[int]
    subscription: Mapped[str | None]
    price_interval: Mapped[str | None]
    price_key: Mapped[str]
    charge_start_at: Mapped[datetime | None]
    charge_group: Mapped[str]
    sequence: Mapped[int]
    period_start_at: Mapped[datetime | None]
    period_end_at: Mapped[datetime | None]
    quantity: Mapped[Decimal | None]
    amount_minor: Mapped[Minor]
    reason: Mapped[str]
    adjusts: Mapped[str | None]


class JournalEntry(Base):
    """What a document enters."""

    __tablename__ = "journal_entries"
    seller: Mapped[Owner]
    id: Mapped[Id]
    kind: Mapped[str]
    source: Mapped[str]
    entry_on: Mapped[date]
    accounting_month: Mapped[date]
    posted_at: Mapped[datetime]


class Posting(Base):
    """One side of an entry."""

    __tablename__ = "postings"
    seller: Mapped[Owner]
    entry: Mapped[Id]
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[str]
    customer: Mapped[str]
    contract: Mapped[str]
    document: Mapped[str]
    line: Mapped[str]
    currency: Mapped[str]
    amount_minor: Mapped[Minor]


class Outbox(Base):
    """What the outside world hears."""

    __tablename__ = "outbox"
    seller: Mapped[Owner]
    id: Mapped[Id]
    type: Mapped[str]
    object: Mapped[str]
    version: Mapped[int]
    occurred_at: Mapped[datetime]
