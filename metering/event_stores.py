"""The interface of a store of events outside PostgreSQL, and which one a connection has.

PostgreSQL stays the judge of what happened: a commit is a row of `event_batches` there, with the
inbox, corrections and backfills beside it. Where such a row has no payload its events lie in the
store, and what the store holds of any other batch does not count.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind
from metering.model import EventIn, StoredEvent
from plans.model import MeterFilter

OPTION: Final = "event_store"
_Ints = NDArray[np.int64]


class NewEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The n events of a commit; the place of one is its ordinal.

    `words` are their keys, shape (n, 2); `customers` holds 0 where the subject is no customer;
    `times` are microseconds since 1970.
    """

    batch: int
    streams: NDArray[np.int32]
    words: NDArray[np.uint64]
    times: _Ints
    customers: _Ints
    events: Sequence[EventIn]
    datas: Sequence[Mapping[str, object]]


class KnownEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event in the store that has the key of the one at `place` of those asked for."""

    place: int
    batch: int
    ordinal: int
    event: StoredEvent


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are read, and what of each.

    Those of a type in [start, end) of the customers between two numbers, both included, and of
    all strangers; that pass the filters; where `value` is named, with a plain decimal in it;
    where `present` is, with a text in it. Of each come the texts of `properties`.
    """

    event_type: str
    start_micros: int
    end_micros: int
    customers: tuple[int, int]
    filters: Sequence[MeterFilter] = ()
    value: str | None = None
    present: str | None = None
    properties: Sequence[str] = ()


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """m events in no order; `strangers` has the subject of each that has no customer, or ''.

    A value is mantissa × 10^-digits; one that may need more than 64 bits is in `wide` as text.
    `texts` has a column for each property asked for.
    """

    customers: _Ints
    strangers: Sequence[str]
    times: _Ints
    batches: _Ints
    ordinals: _Ints
    mantissas: _Ints
    digits: _Ints
    wide: Sequence[str]
    texts: Sequence[Sequence[str]]


class EventStore(Protocol):
    """What a store of events must do; every call names the seller whose events alone it sees."""

    def server_version(self) -> str:
        """What answers."""
        ...

    async def append(self, *, seller: int, events: NewEvents) -> None:
        """Store a commit's events durably before returning; the same batch may come again."""
        ...

    async def find(
        self, *, seller: int, streams: NDArray[np.int32], words: NDArray[np.uint64]
    ) -> Sequence[KnownEvent]:
        """The events with one of n keys, of whatever batches."""
        ...

    async def load(self, *, seller: int, batches: Sequence[int]) -> dict[int, list[StoredEvent]]:
        """All events of the batches, by ordinal."""
        ...

    def read(self, *, seller: int, question: Question) -> AsyncGenerator[Page, None]:
        """The events asked for, each identity once: that of the highest batch."""
        ...

    async def count(self, *, seller: int) -> dict[int, int]:
        """How many events there are of each batch, each identity once."""
        ...


def event_store_of(connection: AsyncConnection) -> EventStore | None:
    """The store that the connection's pool was opened with; None where PostgreSQL holds all."""
    inner = connection.sync_connection
    return (
        None
        if inner is None
        else cast("EventStore | None", inner.get_execution_options().get(OPTION))
    )


def required(store: EventStore | None) -> EventStore:
    """The store, where events are known to lie in one. Errors: `event_store_missing`."""
    if store is None:
        detail = "events of this seller lie in ClickHouse: USANCE_CLICKHOUSE_URL must name it"
        raise BillingError("event_store_missing", detail, kind=ErrorKind.UNAVAILABLE)
    return store
