"""SQL of the event store in ClickHouse: one table of events, each identity once.

The table replaces rows of one key by that of the highest batch, and every reading asks for FINAL,
so that an event counts once however often it was inserted. Which batches count at all is said by
PostgreSQL.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import clickhouse_connect
import msgspec
import numpy as np
from clickhouse_connect.driver.exceptions import Error
from numpy.typing import NDArray

from engine.db import quote_name
from engine.errors import BillingError, ErrorKind
from metering.dimensions import MISSING, text_of
from metering.event_stores import KnownEvent, NewEvents, Page, Question
from metering.intake import EPOCH
from metering.model import StoredEvent

THREADS: Final = 16
_Result = TypeVar("_Result")
_EXISTS: Final = "EXISTS TABLE {table}"
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS {table} (
  seller UInt32, stream Int32, high UInt64, low UInt64, batch Int64, ordinal Int32,
  time Int64 CODEC(Delta, ZSTD), customer Int64, type LowCardinality(String),
  subject String, source LowCardinality(String), id String CODEC(ZSTD), data String CODEC(ZSTD),
  properties Map(LowCardinality(String), String) CODEC(ZSTD),
  INDEX batches batch TYPE minmax GRANULARITY 1
) ENGINE = ReplacingMergeTree(batch) ORDER BY (seller, stream, high, low)
SETTINGS index_granularity = 2048, non_replicated_deduplication_window = 1000
"""
_COLUMNS: Final = {
    "seller": "UInt32",
    "stream": "Int32",
    "high": "UInt64",
    "low": "UInt64",
    "batch": "Int64",
    "ordinal": "Int32",
    "time": "Int64",
    "customer": "Int64",
    "type": "LowCardinality(String)",
    "subject": "String",
    "source": "LowCardinality(String)",
    "id": "String",
    "data": "String",
    "properties": "Map(LowCardinality(String), String)",
}
_FIND: Final = """
SELECT stream, high, low, batch, ordinal, time, type, subject, source, id, data FROM {table}
WHERE seller = {{seller:UInt32}} AND stream IN {{streams:Array(Int32)}}
  AND high IN {{highs:Array(UInt64)}}
"""
_LOAD: Final = """
SELECT batch, time, type, subject, source, id, data FROM {table} FINAL
WHERE seller = {{seller:UInt32}} AND batch IN {{batches:Array(Int64)}} ORDER BY batch, ordinal
"""
_COUNT: Final = """
SELECT batch, count() FROM {table} FINAL WHERE seller = {{seller:UInt32}} GROUP BY batch
"""
_READ: Final = """
SELECT customer, if(customer = 0, subject, '') AS stranger, time, batch, ordinal{selected}
FROM {table} FINAL
WHERE seller = {{seller:UInt32}} AND type = {{type:String}} AND time >= {{start:Int64}}
  AND time < {{end:Int64}} AND (customer = 0 OR customer BETWEEN {{first:Int64}} AND {{last:Int64}})
"""
# The grammar of a plain decimal. What has 18 digits at most fits 64 bits whatever its point.
_PLAIN: Final = "match({value}, '^-?[0-9]{{1,18}}(\\\\.[0-9]{{1,12}})?$')"
_VALUE: Final = """,
  if(position({value}, '.') = 0, {value}, replaceRegexpOne({value}, '\\\\.?0+$', '')) AS plain,
  replaceOne(plain, '.', '') AS bare, length(replaceOne(bare, '-', '')) <= 18 AS narrow,
  if(narrow, toInt64OrZero(bare), 0) AS mantissa,
  if(position(plain, '.') = 0, 0, length(plain) - position(plain, '.')) AS digits,
  if(narrow, '', plain) AS wide"""
_SHOWN: Final = ("mantissa", "digits", "wide")
# A majority of replicas holds the rows before an answer, and a reading sees what was answered.
_WRITE_SETTINGS: Final = {
    "async_insert": 0,
    "wait_end_of_query": 1,
    "insert_quorum": "auto",
    "insert_quorum_parallel": 0,
}
_READ_SETTINGS: Final = {"select_sequential_consistency": 1, "max_query_size": 10_000_000}


def open_clickhouse(*, url: str) -> "ClickHouseEvents":
    """The event store at http(s)://user:password@host:port/database.

    Connects at once. Errors: `event_store_unavailable`.
    """
    try:
        client = clickhouse_connect.get_client(
            dsn=url,
            interface=url.partition(":")[0],
            autogenerate_session_id=False,
            form_encode_query_params=True,
            settings=_READ_SETTINGS,
        )
    except Error as error:
        raise _unavailable(error) from None
    return ClickHouseEvents(client=client, database=client.database or "default")


def _unavailable(error: Exception) -> BillingError:
    detail = f"ClickHouse does not answer: {str(error).splitlines()[0][:200]}"
    return BillingError("event_store_unavailable", detail, kind=ErrorKind.UNAVAILABLE)


class ClickHouseEvents:
    """The store through one client, whose calls wait in threads of their own."""

    def __init__(self, *, client: Any, database: str) -> None:
        """`client` is one of clickhouse-connect; its sessions must not be bound to one id."""
        self._client = client
        self._database = quote_name(database)
        self._table = f"{self._database}.usage_events"
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="clickhouse")

    def prepare(self) -> None:
        """Make the table where it is missing: one that is replicated is made by hand before."""
        try:
            if not self._client.command(_EXISTS.format(table=self._table)):
                self._client.command(_TABLE.format(table=self._table))
        except Error as error:
            raise _unavailable(error) from None

    def server_version(self) -> str:
        """What answers."""
        return str(self._client.server_version)

    def close(self) -> None:
        """End the threads and the connections."""
        self._threads.shutdown(wait=True)
        self._client.close()

    async def _call(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except Error as error:
            raise _unavailable(error) from None

    async def _query(self, statement: str, **parameters: object) -> Sequence[Any]:
        """The rows of a statement."""
        sql = statement.format(table=self._table)
        result = await self._call(lambda: self._client.query(sql, parameters=parameters))
        return result.result_rows

    async def append(self, *, seller: int, events: NewEvents) -> None:
        """Insert a commit's events in one block; the same again changes nothing."""
        count = len(events.events)
        columns: list[Any] = [
            np.full(count, seller, dtype=np.uint32),
            events.streams,
            np.ascontiguousarray(events.words[:, 0]),
            np.ascontiguousarray(events.words[:, 1]),
            np.full(count, events.batch, dtype=np.int64),
            np.arange(count, dtype=np.int32),
            events.times,
            events.customers,
            [each.type for each in events.events],
            [each.subject for each in events.events],
            [each.source for each in events.events],
            [each.id for each in events.events],
            [bytes(each.data).decode() for each in events.events],
            [texts_of(data) for data in events.datas],
        ]
        token = {"insert_deduplication_token": f"{seller}-{events.batch}"}
        await self._call(
            lambda: self._client.insert(
                self._table,
                columns,
                column_names=list(_COLUMNS),
                column_type_names=list(_COLUMNS.values()),  # else it asks for them each time
                column_oriented=True,
                settings=_WRITE_SETTINGS | token,
            )
        )

    async def find(
        self, *, seller: int, streams: NDArray[np.int32], words: NDArray[np.uint64]
    ) -> Sequence[KnownEvent]:
        """Every row of the keys, of whatever batch: those that do not count are among them."""
        keys = (streams.tolist(), words[:, 0].tolist(), words[:, 1].tolist())
        places: dict[tuple[int, int, int], list[int]] = {}
        for place, key in enumerate(zip(*keys, strict=True)):
            places.setdefault(key, []).append(place)
        rows = await self._query(
            _FIND, seller=seller, streams=sorted(set(keys[0])), highs=sorted(set(keys[1]))
        )
        return [
            KnownEvent(place=place, batch=row[3], ordinal=row[4], event=_stored(row[5:]))
            for row in rows
            for place in places.get(tuple(row[:3]), ())
        ]

    async def load(self, *, seller: int, batches: Sequence[int]) -> dict[int, list[StoredEvent]]:
        """All events of the batches, by ordinal."""
        found: dict[int, list[StoredEvent]] = {}
        for batch, *told in await self._query(_LOAD, seller=seller, batches=sorted(batches)):
            found.setdefault(batch, []).append(_stored(told))
        return found

    async def count(self, *, seller: int) -> dict[int, int]:
        """How many events there are of each batch."""
        return dict(await self._query(_COUNT, seller=seller))

    async def read(self, *, seller: int, question: Question) -> AsyncGenerator[Page, None]:
        """The events asked for, a block of the answer at a time."""
        sql, parameters = _asked(question)
        sql = sql.replace("{table}", self._table)
        with ExitStack() as stack:
            stream = await self._call(
                lambda: stack.enter_context(
                    self._client.query_column_block_stream(
                        sql, parameters={"seller": seller, **parameters}
                    )
                )
            )
            while (columns := await self._call(lambda: next(stream, None))) is not None:
                yield _page(columns, question)


def texts_of(data: Mapping[str, object]) -> dict[str, str]:
    """All that metering reads of an event's data: its properties as texts, without empty ones."""
    return {name: text for name, value in data.items() if (text := text_of(value)) != MISSING}


def _stored(told: Sequence[Any]) -> StoredEvent:
    """The event of (time, type, subject, source, id, data)."""
    micros, kind, subject, source, event_id, data = told
    return StoredEvent(
        id=event_id,
        source=source,
        type=kind,
        subject=subject,
        time=_at(micros),
        data=msgspec.Raw(data.encode()),
    )


def _at(micros: int) -> datetime:
    return (EPOCH + timedelta(microseconds=micros)).astimezone(UTC)


def _asked(question: Question) -> tuple[str, dict[str, object]]:
    """The statement of a question, its table still to be named, and its parameters."""
    parameters: dict[str, object] = {
        "type": question.event_type,
        "start": question.start_micros,
        "end": question.end_micros,
        "first": question.customers[0],
        "last": question.customers[1],
    }
    wanted: list[str] = []
    where = ""
    for index, name in enumerate(question.properties):
        parameters[f"property_{index}"] = name
        wanted.append(f", properties[{{property_{index}:String}}]")
    for index, each in enumerate(question.filters):
        parameters[f"filter_{index}"] = each.property
        parameters[f"texts_{index}"] = list(each.one_of)
        where += f" AND properties[{{filter_{index}:String}}] IN {{texts_{index}:Array(String)}}"
    if question.present is not None:
        parameters["present"] = question.present
        where += " AND properties[{present:String}] != ''"
    statement = _READ.format(table="{table}", selected="{selected}") + where
    if question.value is None:
        return statement.replace("{selected}", "".join(wanted)), parameters
    parameters["value"] = question.value
    value = "properties[{value:String}]"
    inner = statement + " AND " + _PLAIN.format(value=value)
    selected = _VALUE.format(value=value)
    inner = inner.replace(
        "{selected}",
        selected + "".join(f"{each} AS text_{index}" for index, each in enumerate(wanted)),
    )
    shown = ["customer", "stranger", "time", "batch", "ordinal", *_SHOWN]
    shown += [f"text_{index}" for index in range(len(wanted))]
    return f"SELECT {', '.join(shown)} FROM ({inner})", parameters


def _page(columns: Sequence[Any], question: Question) -> Page:
    customers, strangers, times, batches, ordinals, *rest = columns
    mantissas: Any = ()
    digits: Any = ()
    wide: Sequence[str] = ()
    if question.value is not None:
        mantissas, digits, wide, *rest = rest
    return Page(
        customers=np.asarray(customers, dtype=np.int64),
        strangers=strangers,
        times=np.asarray(times, dtype=np.int64),
        batches=np.asarray(batches, dtype=np.int64),
        ordinals=np.asarray(ordinals, dtype=np.int64),
        mantissas=np.asarray(mantissas, dtype=np.int64),
        digits=np.asarray(digits, dtype=np.int64),
        wide=wide,
        texts=rest,
    )
