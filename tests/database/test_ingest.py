"""Usage in: each identity once for ever, bad items alone, quantities exact however they came."""

import asyncio
import random
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import text

from engine.db import driver
from engine.errors import BillingError
from metering.event_store import stream_events
from metering.measure import sweep_inbox
from tests.metering_world import NOW, World, event, running, world

__all__ = ["world"]


async def rows(world: World, statement: str) -> list[tuple]:
    async with world.database.transaction(seller=world.seller) as connection:
        return [tuple(each) for each in await connection.execute(text(statement))]


async def stored_ids(world: World) -> list[str]:
    async with world.database.transaction(seller=world.seller) as connection:
        stored = [each async for each in stream_events(connection=connection, first=0)]
    return [each.id for batch in stored for each in batch.events]


async def test_an_event_counts_once(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    answer = await world.send([event("a", value=2), event("b", value="3.5")])
    assert (answer.accepted, answer.duplicates, answer.rejected) == (2, 0, ())
    again = await world.send([event("a", value=2), event("c", value=1)])
    assert (again.accepted, again.duplicates) == (1, 1)
    assert await world.total(meter, customer) == "6.5"
    assert await stored_ids(world) == ["a", "b", "c"]


async def test_every_row_of_a_commit_agrees_with_its_payload(world):
    await world.meter("tokens")
    await world.send([event(str(uuid.uuid4())) for _ in range(20)] + [event("t1")])
    keys = await rows(
        world,
        "SELECT k.batch, k.ordinal, s.form, k.key FROM event_keys k JOIN event_streams s "
        "USING (seller, stream) ORDER BY k.ordinal",
    )
    ids = await stored_ids(world)
    assert [ordinal for _, ordinal, _, _ in keys] == list(range(21))
    assert [str(key) for _, _, form, key in keys if form == "uuid"] == ids[:20]
    assert [form for _, _, form, _ in keys][20] == "text"
    assert len(await rows(world, "SELECT batch FROM event_inbox")) == 1


async def test_a_repeat_inside_one_body_is_a_duplicate_and_the_first_wins(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    answer = await world.send([event("a", value=1), event("a", value=1), event("a", value=9)])
    assert (answer.accepted, answer.duplicates) == (1, 1)
    assert [(each.index, each.code) for each in answer.rejected] == [(2, "conflict")]
    assert await world.total(meter, customer) == "1"


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({"time": "2026-11-19T00:00:00Z"}, "duplicate"),
        ({"time": "2026-01-01T00:00:00Z"}, "duplicate"),
        ({"time": "2029-01-01T00:00:00Z"}, "duplicate"),
        ({"data": {"m": "x", "tokens": 1.0}}, "duplicate"),
        ({"data": {"tokens": "1", "m": "x"}}, "conflict"),
        ({"data": {"tokens": True, "m": "x"}}, "conflict"),
        ({"data": {"tokens": 2, "m": "x"}}, "conflict"),
        ({"data": {"tokens": 1}}, "conflict"),
        ({"subject": "other"}, "conflict"),
        ({"type": "other"}, "conflict"),
        ({"source": "other"}, "new"),
        ({"id": "A"}, "new"),
        ({"specversion": "1.0", "traceparent": "00-1"}, "duplicate"),
    ],
)
async def test_what_makes_an_event_the_same(world, changed, outcome):
    first = event("a", data={"tokens": 1, "m": "x"})
    assert (await world.send([first])).accepted == 1
    answer = await world.send([first | changed])
    codes = [each.code for each in answer.rejected]
    seen = ["new"] * answer.accepted + ["duplicate"] * answer.duplicates + codes
    assert seen == [outcome]


async def test_identity_outlives_the_time_window(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    await world.send([event("a")])
    later = NOW + timedelta(days=40)
    answer = await world.send([event("a"), event("b"), event("c", at=later)], now=later)
    assert (answer.accepted, answer.duplicates) == (1, 1)
    assert [(each.id, each.code) for each in answer.rejected] == [("b", "too_old")]
    restamped = await world.send([event("a", at=later), event("a", at=later, value=2)], now=later)
    assert (restamped.accepted, restamped.duplicates) == (0, 1)
    assert [each.code for each in restamped.rejected] == ["conflict"]
    assert await world.total(meter, customer) == "2"


async def test_the_edges_of_the_time_window(world):
    ahead, old = timedelta(seconds=300), timedelta(days=35)
    tick = timedelta(microseconds=1)
    answer = await world.send(
        [
            event("a", at=NOW + ahead),
            event("b", at=NOW + ahead + tick),
            event("c", at=NOW - old),
            event("d", at=NOW - old - tick),
        ]
    )
    assert answer.accepted == 2
    assert [(each.index, each.code) for each in answer.rejected] == [
        (1, "too_far_ahead"),
        (3, "too_old"),
    ]


async def test_an_event_outside_the_window_does_not_take_its_id(world):
    answer = await world.send([event("a", at=NOW - timedelta(days=60)), event("a")])
    assert answer.accepted == 1
    assert [(each.index, each.code) for each in answer.rejected] == [(0, "too_old")]


async def test_a_uuid_and_a_text_of_the_same_bits_are_two_ids(world):
    own = str(uuid.uuid4())
    spelled = [own, own.upper(), own.replace("-", ""), f"{{{own}}}", own + " "]
    answer = await world.send([event(each) for each in spelled])
    assert answer.accepted == len(set(spelled))
    forms = await rows(world, "SELECT form FROM event_streams ORDER BY form")
    assert forms == [("text",), ("uuid",)]


@pytest.mark.parametrize(
    "value", [None, "abc", "1e3", 1e30, True, "１", "+1", ".5", "NaN", [1], "1_0", 10**18, " 1"]
)
async def test_a_value_that_is_no_plain_decimal_is_stored_and_not_measured(world, value):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    answer = await world.send([event("a", value=value), event("b", value=1)])
    assert answer.accepted == 2
    assert await world.total(meter, customer) == "1"


@pytest.mark.parametrize(
    ("values", "total"),
    [
        (["0.1"] * 10, "1"),
        ([0.1, 0.2], "0.3"),
        (["999999999999999999.999999999999", "0.000000000001"], "1000000000000000000"),
        (["999999999999999999"] * 30, "29999999999999999970"),
        ([-5, "2.5"], "-2.5"),
        (["-999999999999999999.999999999999"] * 3, "-2999999999999999999.999999999997"),
        ([2**53 + 1, 1], str(2**53 + 2)),
        (["-0", "-0.5", "0.25"], "-0.25"),
    ],
)
async def test_sums_are_exact(world, values, total):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    for number, value in enumerate(values[:3]):
        await world.send([event(f"single-{number}", value=value)])
    await world.send([event(f"many-{n}", value=each) for n, each in enumerate(values[3:])])
    assert await world.total(meter, customer) == total


async def test_a_meter_made_later_measures_what_was_there(world):
    customer = await world.customer("acme")
    await world.send([event("a", value="2.5"), event("b", value=3)])
    meter = await world.meter("tokens")
    assert await world.total(meter, customer) == "5.5"
    await world.send([event("c", value=1)])
    assert await world.total(meter, customer) == "6.5"


async def test_a_customer_made_later_gets_what_was_there(world):
    meter = await world.meter("tokens")
    await world.send([event("a", value=2), event("b", subject="globex", value=5)])
    acme = await world.customer("acme")
    globex = await world.customer("globex")
    await world.send([event("c", value=1)])
    assert await world.total(meter, acme) == "3"
    assert await world.total(meter, globex) == "5"


async def test_a_subject_is_a_key_or_an_id(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    (found,) = await rows(world, "SELECT id FROM customers")
    await world.send([event("a", subject=found[0], value=2), event("b", value=3)])
    assert await world.total(meter, customer) == "5"


async def test_any_order_of_arrival_gives_the_same_quantities(world, make_seller):
    meters = [await world.meter(each, each) for each in ("count", "sum", "max", "min", "latest")]
    people = [await world.customer(each) for each in ("acme", "globex")]
    events = [
        event(
            f"{number}",
            value=random.Random(number).choice(["-3", 7, "0.25", "123456789012345678.5", 2]),
            at=NOW - timedelta(hours=number % 50, microseconds=number),
            subject=("acme", "globex")[number % 2],
        )
        for number in range(120)
    ]
    lines = [
        (meter, person, NOW - timedelta(hours=hours), NOW + timedelta(hours=1))
        for meter in meters
        for person in people
        for hours in (3, 10, 60)
    ]
    seen = set()
    for turn in range(3):
        random.Random(turn).shuffle(events)
        other = await fresh_seller(world, await make_seller(), events)
        seen.add(tuple(await other.measured(await same_lines(other, lines, meters, people))))
    assert len(seen) == 1


async def fresh_seller(world: World, seller: int, events: list[dict]) -> World:
    other = World(database=world.database, seller=seller, ingester=world.ingester)
    for each in ("count", "sum", "max", "min", "latest"):
        await other.meter(each, each)
    parts = [events[start : start + 7] for start in range(0, len(events), 7)]
    await asyncio.gather(*(other.send(part) for part in parts))
    return other


async def same_lines(other: World, lines, meters, people):
    theirs = {each.key: each for each in await other.meters()}
    numbers = [await other.customer(each) for each in ("acme", "globex")]
    return [
        (theirs[meter.key], numbers[people.index(person)], start, end)
        for meter, person, start, end in lines
    ]


async def test_concurrent_repeats_are_counted_once(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    bodies = [
        [event(f"{(number * 37 + each) % 400}") for each in range(60)] for number in range(40)
    ]
    answers = await asyncio.gather(*(world.send(body) for body in bodies))
    ids = await stored_ids(world)
    assert len(ids) == len(set(ids)) == sum(each.accepted for each in answers) == 400
    assert sum(each.duplicates for each in answers) == 40 * 60 - 400
    assert await world.total(meter, customer) == "400"


async def test_sellers_do_not_meet(world, make_seller):
    other = await fresh_seller(world, await make_seller(), [])
    assert (await world.send([event("a")])).accepted == 1
    assert (await other.send([event("a", value=5)])).accepted == 1
    assert await stored_ids(other) == ["a"]


async def test_the_sweep_gives_each_customer_the_earliest_event_once(world):
    await world.meter("tokens")
    acme, globex = await world.customer("acme"), await world.customer("globex")
    early = NOW - timedelta(days=3)
    await world.send([event("a"), event("b", at=early), event("c", subject="globex")])
    await world.send([event("d", at=NOW - timedelta(days=1)), event("e", subject="nobody")])
    await world.meter("later")

    async def sweep() -> dict[int, int]:
        async with world.database.transaction(seller=world.seller) as connection:
            customers, times = await sweep_inbox(connection=connection)
            return dict(zip(customers.tolist(), times.tolist(), strict=True))

    assert await sweep() == {
        acme: int(early.timestamp()) * 1_000_000,
        globex: int(NOW.timestamp()) * 1_000_000,
    }
    assert await sweep() == {}


async def test_a_full_queue_refuses_and_stores_nothing(world):
    async with running(world.database, queued_events=50, committers=1) as ingester:
        small = World(database=world.database, seller=world.seller, ingester=ingester)
        outcomes = await asyncio.gather(
            *(small.send([event(f"{n}-{m}") for m in range(20)]) for n in range(30)),
            return_exceptions=True,
        )
    refused = [each for each in outcomes if isinstance(each, BillingError)]
    assert {each.code for each in refused} == {"overloaded"}
    taken = sum(each.accepted for each in outcomes if not isinstance(each, BaseException))
    assert taken == len(await stored_ids(world)) == 20 * (30 - len(refused))


async def test_an_answer_lost_after_the_commit_is_found_again(world, superuser, monkeypatch):
    """The link is cut when COMMIT has been done and nobody has heard of it."""
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    from metering import batch_store

    whole, cut = batch_store.write_batch, []

    async def write_and_lose(raw, **arguments):
        await whole(raw, **arguments)
        if not cut:
            cut.append(True)
            raw.terminate()
            raise ConnectionResetError("cut after the commit")

    monkeypatch.setattr(batch_store, "write_batch", write_and_lose)
    answer = await world.send([event("a"), event("b"), event("a"), event("a", value=3)])
    assert cut
    assert (answer.accepted, answer.duplicates) == (2, 1)
    assert [each.code for each in answer.rejected] == ["conflict"]
    assert await world.total(meter, customer) == "2"
    assert await stored_ids(world) == ["a", "b"]


async def test_a_killed_backend_is_survived(world, superuser):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    await world.send([event("a")])
    await superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert (await world.send([event("a"), event("b")])).accepted == 1
    await world.database.engine.dispose()
    assert await world.total(meter, customer) == "2"


async def test_the_loader_cannot_read_and_the_seller_is_not_its_choice(world):
    await world.send([event("a")])
    async with world.database.transaction(seller=world.seller) as connection:
        raw = await driver(connection)
        await raw.execute("SET LOCAL ROLE usance_loader")
        with pytest.raises(Exception, match="permission denied"):
            await raw.fetch("SELECT * FROM event_keys")
