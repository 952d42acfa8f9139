"""A commit is what PostgreSQL says it is: what lies in ClickHouse beside it counts for nothing."""

import contextlib
import json
import random
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.db import PATIENT, Database, open_database
from engine.errors import BillingError
from metering import manifest_store
from metering.clickhouse_store import ClickHouseEvents
from metering.event_stores import NewEvents
from metering.identity import event_keys
from metering.intake import read_data, read_events, times_of
from metering.measure import sweep_inbox
from metering.verify_events import differing_commits
from plans.model import MeterFilter
from tests.clickhouse_engine import clickhouse, database, event_store
from tests.database.test_correct_event import amend, void
from tests.database.test_ingest import stored_ids
from tests.metering_world import NOW, World, event, running, world

__all__ = ["clickhouse", "database", "event_store", "world"]


@contextlib.asynccontextmanager
async def without_clickhouse(dsn: str, seller: int) -> AsyncIterator[World]:
    """The same seller, seen by a process that was not told of ClickHouse."""
    database = open_database(dsn=dsn, role="usance_app", waiting=PATIENT)
    try:
        async with running(database) as ingester:
            yield World(database=database, seller=seller, ingester=ingester)
    finally:
        await database.close()


async def leave_behind(
    world: World, store: ClickHouseEvents, bodies: list[dict[str, Any]], *, batch: int
) -> None:
    """Events of a commit that did not come to its end."""
    stream = await rows(world, "SELECT stream FROM event_streams WHERE form = 'text'")
    events = read_events(msgspec.json.encode(bodies)).events
    _, words = event_keys([each.id for each in events])
    rows_of = NewEvents(
        batch=batch,
        streams=np.full(len(events), stream[0][0], dtype=np.int32),
        words=words,
        times=times_of(events),
        customers=np.full(len(events), await customer_of(world), dtype=np.int64),
        events=events,
        datas=read_data(events),
    )
    await store.append(seller=world.seller, events=rows_of)


async def rows(world: World, statement: str) -> list[Any]:
    from sqlalchemy import text

    async with world.database.transaction(seller=world.seller) as connection:
        return list(await connection.execute(text(statement)))


async def customer_of(world: World) -> int:
    return (await rows(world, "SELECT number FROM customers WHERE key = 'acme'"))[0][0]


async def differing(world: World) -> list[tuple[int, int]]:
    async with world.database.transaction(seller=world.seller) as connection:
        return [
            (each.committed, each.found) for each in await differing_commits(connection=connection)
        ]


async def test_what_no_commit_names_does_not_count_and_takes_no_id(world, event_store):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    await world.send([event("a", value=1)])
    number = (await rows(world, "SELECT max(batch) FROM event_batches"))[0][0]
    lost = [event("b", value=100), event("c", value=1000)]
    # A number that this very seller may never commit: the sequence is past it.
    await rows(world, "SELECT nextval('event_batch_numbers')")
    await leave_behind(world, event_store, lost, batch=number + 1)
    assert await world.total(meter, customer) == "1"
    assert await stored_ids(world) == ["a"]
    with pytest.raises(BillingError) as caught:
        await void(world, "b")
    assert caught.value.code == "not_found"
    answer = await world.send([event("b", value=2), event("a", value=1)])
    assert (answer.accepted, answer.duplicates) == (1, 1)
    assert await world.total(meter, customer) == "3"
    # It lands late, after another commit has taken the id.
    await leave_behind(world, event_store, lost[:1], batch=number + 1)
    assert await world.total(meter, customer) == "3"
    assert await differing(world) == []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_link_cut_at_the_commit(world, monkeypatch, when):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    whole, cut = manifest_store.write_commit, []

    async def write_and_lose(raw, **arguments):
        await whole(raw, **arguments)
        if not cut:
            cut.append(True)
            if when == "after":
                await raw.execute("COMMIT")
            raw.terminate()
            raise ConnectionResetError("cut at the commit")

    monkeypatch.setattr(manifest_store, "write_commit", write_and_lose)
    answer = await world.send([event("a"), event("b"), event("a"), event("a", value=3)])
    assert cut
    assert (answer.accepted, answer.duplicates) == (2, 1)
    assert [each.code for each in answer.rejected] == ["conflict"]
    assert await world.total(meter, customer) == "2"
    assert await stored_ids(world) == ["a", "b"]
    assert len(await rows(world, "SELECT batch FROM event_inbox")) == 1
    assert await differing(world) == []


async def test_a_store_that_does_not_answer_stores_nothing(world, event_store, monkeypatch):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    name = event_store._table
    monkeypatch.setattr(event_store, "_table", "nowhere.usage_events")
    for _ in range(3):  # as many as there are committers, and one more
        with pytest.raises(BillingError) as caught:
            await world.send([event("a")])
        assert caught.value.code == "event_store_unavailable"
    monkeypatch.setattr(event_store, "_table", name)
    assert (await world.send([event("a")])).accepted == 1
    assert await world.total(meter, customer) == "1"


async def test_what_lies_in_postgresql_stays_there_and_is_one_with_the_rest(
    world, database_url, superuser
):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    async with without_clickhouse(database_url, world.seller) as before:
        await before.send([event("a", value=1), event("b", value=2), event("c", value=4)])
    again = await world.send([event("a", value=1), event("b", value=3), event("d", value=8)])
    assert (again.accepted, again.duplicates) == (1, 1)
    assert [each.code for each in again.rejected] == ["conflict"]
    assert await world.total(meter, customer) == "15"
    assert await stored_ids(world) == ["a", "b", "c", "d"]
    await void(world, "a")
    await amend(world, "b", data={"tokens": 32})
    await amend(world, "d", data={"tokens": 64})
    assert await world.total(meter, customer) == "100"
    kept = await superuser.fetchval("SELECT count(*) FROM event_keys")
    assert kept == 3


async def test_a_process_that_was_not_told_of_clickhouse_refuses(world, database_url):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    await world.send([event("a")])

    async def list_all(other: World) -> None:
        await stored_ids(other)

    async def sweep(other: World) -> None:
        async with other.database.transaction(seller=other.seller) as connection:
            await connection.exec_driver_sql("UPDATE event_inbox SET again = true")
            await sweep_inbox(connection=connection)

    async with without_clickhouse(database_url, world.seller) as other:
        for act in (
            other.total(meter, customer),
            other.send([event("b")]),
            void(other, "a"),
            list_all(other),
            sweep(other),
        ):
            with pytest.raises(BillingError) as caught:
                await act
            assert caught.value.code in {"event_store_missing", "not_found"}
    assert (await world.send([event("b")])).accepted == 1


async def test_the_inbox_names_whom_a_commit_touches(world, superuser):
    await world.meter("tokens")
    acme = await world.customer("acme")
    early = NOW - timedelta(days=2)
    await world.send([event("a"), event("b", at=early)])
    await world.send([event("c", subject="bert", at=early)])
    bert = await world.customer("bert")
    async with world.database.transaction(seller=world.seller) as connection:
        customers, micros = await sweep_inbox(connection=connection)
    assert customers.tolist() == [acme, bert]
    assert len(set(micros.tolist())) == 1
    assert await superuser.fetchval("SELECT count(*) FROM event_inbox") == 0


async def test_an_event_that_vanished_is_found_missing(world, event_store, clickhouse):
    await world.meter("tokens")
    await world.customer("acme")
    await world.send([event("a"), event("b")])
    assert await differing(world) == []
    clickhouse.command(f"DELETE FROM {event_store._table} WHERE id = 'b'")
    assert await differing(world) == [(2, 1)]


NAMES = ("tokens", "extra", "a.b", "_x")
UNMETERED = ("it's", 'a"b\\c', "tab\tline\nend", "é", "")
VALUES = (
    b"0",
    b"-0",
    b"-0.0",
    b"12",
    b"1.50",
    b"100.000",
    b"999999999999999999",
    b"-999999999999999999.999999999999",
    b"1234567890123456789",
    b"0.000000000001",
    b"0.0000000000001",
    b"1e3",
    b"true",
    b"null",
    b"[1]",
    b'{"tokens":5}',
    b'"7.25"',
    b'"007"',
    b'" 7"',
    b'"7\\n"',
    b'"\\u0037"',
    b'"7."',
    b'".7"',
    b'"+7"',
    b'"\xd9\xa3"',
    b'"a\\tb\\\\c\\u0027"',
)


def odd_body(chance: random.Random) -> bytes:
    """An event with properties of many kinds, now and then the same twice."""
    fields = [
        json.dumps(name).encode() + b": " + chance.choice(VALUES)
        for name in (*NAMES, *UNMETERED, *NAMES)
        if chance.random() < 0.6
    ]
    at = NOW - timedelta(seconds=chance.randrange(100_000))
    head = {
        "id": str(uuid.UUID(int=chance.getrandbits(128))),
        "type": "call",
        "subject": chance.choice(["acme", "b'er\\t", "nobody"]),
        "time": at.isoformat(),
    }
    return json.dumps(head).encode()[:-1] + b', "data": {' + b", ".join(fields) + b"}}"


async def answers(world: World, body: bytes) -> list[object]:
    """What every meter says, of every kind, before and after an event is taken back."""
    kinds = ["sum", "max", "min", "latest", "average", "weighted_sum"]
    said: list[object] = []
    meters = [
        await world.meter(f"m{number}-{kind}", kind, value)
        for number, value in enumerate(
            ["tokens", "tokens * 2 - extra", "if(tokens < extra, 1, tokens)"]
        )
        for kind in kinds
    ]
    for number, name in enumerate(NAMES):
        wanted = (MeterFilter(property=name, one_of=("7.25", "a\tb\\c'", "-0.0", "true")),)
        meters.append(await world.meter(f"f{number}", "count", filters=wanted))
        meters.append(await world.meter(f"u{number}", "unique_count", None, unique_by=name))
    meters.append(await world.meter("p", "percentile", "tokens", percentile="90"))
    people = [await world.customer("acme"), await world.customer("b'er\\t")]
    answer = await world.send(body)
    said.append((answer.accepted, answer.rejected))
    lines = [
        (meter, who, NOW - timedelta(days=2), NOW + timedelta(days=1))
        for meter in meters
        for who in people
    ]
    said.append(await world.measured(lines))
    first = msgspec.json.decode(body)[0]["id"]
    said.append((await void(world, first)).status)
    said.append(await world.measured(lines))
    said.append(await stored_ids(world))
    return said


async def test_whatever_is_sent_is_measured_as_in_postgresql(world, database_url, make_seller):
    chance = random.Random(20)
    body = b"[" + b",".join(odd_body(chance) for _ in range(400)) + b"]"
    there = await answers(world, body)
    plain: Database = open_database(dsn=database_url, role="usance_app", waiting=PATIENT)
    try:
        async with running(plain) as ingester:
            other = World(database=plain, seller=await make_seller(), ingester=ingester)
            here = await answers(other, body)
    finally:
        await plain.close()
    assert there == here
    assert any(each not in {"0", "400"} for each in here[1])
