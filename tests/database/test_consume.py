"""Events through JetStream, one real node: every message is stored, shown or comes again."""

import asyncio
import gzip
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from nats.js import api
from nats.js.errors import APIError
from sqlalchemy import text

from api.jetstream import DURABLE, connected
from engine.db import PATIENT, open_database
from engine.errors import BillingError
from metering.intake_error_store import find_intake_error
from plans.model import Mode
from tests.metering_world import world
from tests.nats_line import NUMBERS, event, now, opened
from tests.nats_nodes import client, nodes, until
from tests.processes import SECONDS

__all__ = ["world"]


@pytest.fixture(scope="module")
def node():
    with nodes() as running:
        yield running


@pytest.fixture
async def line(node, world):
    async with opened(node, world) as found:
        yield found


async def test_every_shape_of_a_body_is_stored_once_and_settled(line):
    cloud = {"specversion": "1.0"}
    await line.publish(event("one"))
    await line.publish([event("two"), event("three")])
    await line.publish(b"\n".join(msgspec.json.encode(event(each)) for each in ("four", "five")),
                       Content_Type="application/x-ndjson")  # fmt: skip
    await line.publish(event("six") | cloud, Content_Type="application/cloudevents+json")
    await line.publish([event("seven") | cloud], content_type="application/cloudevents-batch+json")
    await line.publish(gzip.compress(msgspec.json.encode(event("eight"))), Content_Encoding="gzip")
    taker = await line.take_all()
    expected = ["eight", "five", "four", "one", "seven", "six", "three", "two"]
    assert await line.stored() == expected
    assert (taker.taken.messages, taker.taken.accepted) == (6, 8)
    assert await line.errors() == []


async def test_a_large_batch_is_stored(line):
    events = [event(f"{each}", data={"pad": "x" * 40}) for each in range(5_000)]
    await line.publish(msgspec.json.encode(events))
    await line.publish(gzip.compress(msgspec.json.encode(events)), Content_Encoding="gzip")
    taker = await line.take_all()
    assert (taker.taken.accepted, taker.taken.duplicates) == (5_000, 5_000)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"{", {}, "malformed_json"),
        (b"", {}, "malformed_json"),
        (b"\xff\x00", {}, "malformed_json"),
        (b"{}", {"Content_Type": "text/plain"}, "unsupported_media_type"),
        (b"{}", {"Content_Encoding": "br"}, "unsupported_media_type"),
        (b"no gzip", {"Content_Encoding": "gzip"}, "malformed_gzip"),
        (gzip.compress(b"0" * 11_000_000), {"Content_Encoding": "gzip"}, "body_too_large"),
        (b"[" + b",".join([b"{}"] * 10_001) + b"]", {}, "too_many_events"),
    ],
)
async def test_a_message_that_cannot_be_read_is_kept_and_shown(line, body, headers, code):
    await line.publish(event("before"))
    await line.publish(body, **headers)
    await line.publish(event("after"))
    await line.take_all()
    assert await line.stored() == ["after", "before"]
    [shown] = await line.errors(status="refused")
    assert (shown.code, shown.sequence, shown.rejected) == (code, 2, ())
    async with line.world.database.transaction(seller=line.world.seller) as connection:
        kept = (await connection.execute(text("SELECT body FROM intake_errors"))).scalar_one()
        full = await find_intake_error(connection=connection, intake_error=shown.id)
    assert kept == body
    assert full is not None
    assert full.body_form == ("base64" if b"\xff" in body or b"\x8b" in body else "text")


async def test_a_refused_event_is_shown_and_its_neighbours_are_stored(line):
    await line.publish(event("same"))
    await line.publish([event("good"), event("same", data={"tokens": 2}), {"id": "bare"}])
    taker = await line.take_all()
    assert await line.stored() == ["good", "same"]
    [shown] = await line.errors()
    codes = {each.index: (each.id, str(each.code)) for each in shown.rejected}
    assert shown.code == "items_refused"
    assert taker.taken.rejected == 2
    # The two messages were one group or two, so either of the two payloads may be the first.
    assert codes == {1: ("same", "conflict"), 2: ("bare", "required")}


async def test_a_message_that_is_sent_again_is_a_duplicate(line):
    body = [event("good"), {"id": "bare"}]
    await line.publish(body)
    await line.take_all()
    await line.publish(body)
    repeated = await line.take_all()
    assert (repeated.taken.accepted, repeated.taken.duplicates) == (0, 1)
    assert await line.stored() == ["good"]
    assert [each.sequence for each in await line.errors()] == [1, 2]


async def test_what_was_committed_but_not_settled_is_delivered_again_and_changes_nothing(line):
    await line.context.add_consumer(
        line.jetstream.stream,
        durable_name=DURABLE,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=3600,  # nothing comes again but what is asked for
        max_ack_pending=10_000,
    )
    await line.publish([event("good"), {"id": "bare"}])
    [first] = await line.jetstream.pull(most=10)
    first.accept = unheard  # as if the process had died here
    async with line.taking() as taker:
        await taker.take(first)
        assert (taker.taken.accepted, taker.taken.rejected) == (1, 1)
    await first.put_back(seconds=0)  # it counts as not settled any more
    again = await line.take_all()
    assert (again.taken.accepted, again.taken.duplicates, again.taken.rejected) == (0, 1, 1)
    assert await line.stored() == ["good"]
    assert len(await line.errors()) == 1


async def unheard() -> None:
    pass


@pytest.mark.parametrize("seller", ["sel_nobody", "SEL_A", "sel_", "%27"])
async def test_a_message_of_no_seller_goes_to_the_strays(line, seller):
    await line.publish(event("lost"), seller=seller, Content_Type="application/json")
    await line.publish(event("found"))
    taker = await line.take_all()
    assert await line.stored() == ["found"]
    assert taker.taken.strays == 1
    assert (await line.jetstream.look()).strays == 1
    stray = await line.context.get_msg(f"{line.jetstream.stream}_STRAYS", seq=1)
    assert msgspec.json.decode(stray.data)["id"] == "lost"
    assert stray.headers["Usance-Subject"] == f"{line.jetstream.prefix}.{seller}.events"
    assert stray.headers["content-type"] == "application/json"


async def test_a_database_that_is_away_is_waited_for(line):
    await line.publish(event("one"))
    away = open_database(dsn="postgresql://nobody@127.0.0.1:1/nothing", role="usance_app")
    async with line.taking(database=away) as taker:

        async def put_back() -> bool:
            return taker.taken.put_back > 0

        await until(put_back)
    await away.close()
    assert (taker.taken.accepted, await line.waiting()) == (0, 1)
    await line.take_all()
    assert await line.stored() == ["one"]
    assert await line.errors() == []


async def test_hundreds_of_messages_at_once_do_with_five_connections(line, database_url):
    for each in range(300):
        await line.publish([event(f"{each:03}")] if each % 3 else b"{")
    small = open_database(dsn=database_url, role="usance_app", pool_size=5, waiting=PATIENT)
    taker = await line.take_all(database=small)
    await small.close()
    assert (taker.taken.accepted, taker.taken.refused_messages) == (200, 100)
    assert taker.taken.put_back == 0


async def test_what_fails_on_our_side_harms_no_neighbour_and_becomes_visible(line, raw):
    await raw.execute("""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
          IF position('cursed' IN convert_from(NEW.payload, 'UTF8')) > 0 THEN
            RAISE EXCEPTION 'cursed';
          END IF;
          RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON event_batches FOR EACH ROW EXECUTE FUNCTION fail();
    """)
    for each in range(20):
        await line.publish(event(f"{each:02}"))
    await line.publish(event("cursed"))

    async def shown() -> bool:
        return bool(await line.errors(status="waiting"))

    async def alone() -> bool:
        return await line.waiting() == 1

    async with line.taking(failures=2):
        await until(alone)
        await until(shown)
        assert await line.stored() == [f"{each:02}" for each in range(20)]
        waiting = {each.sequence for each in await line.errors(status="waiting")}
        await raw.execute("DROP TRIGGER fail ON event_batches")
        # Neighbours that were shown while they waited are told as stored too.
        assert 21 in waiting
    await line.take_all(failures=2)
    assert len(await line.stored()) == 21
    assert await line.errors(status="waiting") == []
    assert {each.status for each in await line.errors()} == {"stored"}


@pytest.fixture
async def raw(database_url):
    import asyncpg

    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_an_event_without_a_time_happened_when_the_stream_took_it(line):
    before = now()
    bare = {"type": "call", "subject": "acme"}
    await line.publish({"id": "early"} | bare)
    await asyncio.sleep(1.2)  # events of one second are one commit, received at the same time
    await line.publish({"id": "late"} | bare)
    after = now()
    # However long it waits there: these are taken forty days later.
    await line.take_all(clock=lambda: now() + timedelta(days=40))
    times = await line.times()
    assert before <= times["early"] < times["late"] <= after
    async with line.world.database.transaction(seller=line.world.seller) as connection:
        rows = await connection.execute(text("SELECT received_at FROM event_batches ORDER BY 1"))
        received = [row[0] for row in rows]
    assert received == [times["early"], times["late"]]


async def test_a_clock_of_nats_that_is_ahead_is_not_believed(line):
    ahead = now() - timedelta(hours=2)
    await line.publish(event("soon", time=(ahead + timedelta(hours=1)).isoformat()))
    await line.publish({"id": "untimed", "type": "call", "subject": "acme"})
    await line.take_all(clock=lambda: ahead)
    assert await line.times() == {"untimed": ahead}
    [shown] = await line.errors()
    assert [str(each.code) for each in shown.rejected] == ["too_far_ahead"]


async def test_a_test_seller_has_its_own_clock(node, world, make_seller):
    stands = datetime(2026, 1, 10, tzinfo=UTC)
    world.seller = await make_seller(mode=Mode.TEST, clock_at=stands)
    async with opened(node, world) as line:
        await line.publish(event("now"))
        await line.publish({"id": "untimed", "type": "call", "subject": "acme"})
        await line.take_all()
        assert await line.times() == {"untimed": stands}
        [shown] = await line.errors()
        assert [str(each.code) for each in shown.rejected] == ["too_far_ahead"]


async def test_a_stop_settles_what_is_under_way_and_leaves_the_rest(line):
    for each in range(400):
        await line.publish(event(f"{each:03}"))
    async with line.taking() as taker:

        async def begun() -> bool:
            return taker.taken.messages > 0

        await until(begun)

    async def settled() -> bool:
        return await line.waiting() == 400 - taker.taken.messages

    await until(settled)
    assert len(await line.stored()) == taker.taken.accepted == taker.taken.messages
    await line.take_all()
    assert await line.stored() == [f"{each:03}" for each in range(400)]


async def test_making_streams_again_changes_nothing_and_another_form_is_told(line):
    await line.publish(event("kept"))
    await line.jetstream.create(replicas=1, max_bytes=50_000_000)
    state = await line.jetstream.look()
    assert (state.messages, state.replicas, state.faults) == (1, 1, ())
    with pytest.raises(BillingError) as caught:
        await line.jetstream.create(replicas=1, max_bytes=60_000_000)
    assert caught.value.code == "invalid_stream"


async def test_a_full_stream_refuses_and_forgets_nothing(node, world):
    number = next(NUMBERS)
    async with (
        client(node.urls) as sender,
        connected(
            urls=node.urls, credentials=None, stream=f"LINE_{number}", prefix=f"line{number}"
        ) as jetstream,
    ):
        with pytest.raises(BillingError) as caught:
            await jetstream.look()
        assert caught.value.code == "no_stream"
        await jetstream.create(replicas=1, max_bytes=1_000_000)
        context = sender.jetstream(timeout=SECONDS)
        taken = 0
        refusals = []
        while not refusals:
            try:
                await context.publish(f"line{number}.sel_a.events", b"x" * 100_000)
                taken += 1
            except APIError as error:
                refusals.append(error.description)
        assert refusals == ["maximum bytes exceeded"]
        assert 0 < taken == (await jetstream.look()).messages


async def test_a_stream_that_would_lose_events_is_told(node, world):
    number = next(NUMBERS)
    async with (
        client(node.urls) as sender,
        connected(
            urls=node.urls, credentials=None, stream=f"LINE_{number}", prefix=f"line{number}"
        ) as jetstream,
    ):
        context = sender.jetstream(timeout=SECONDS)
        await context.add_stream(
            name=f"LINE_{number}",
            subjects=[f"line{number}.*.events"],
            storage=api.StorageType.MEMORY,
            max_age=3600,
            max_msgs_per_subject=10,
            allow_rollup_hdrs=True,
        )
        await context.add_stream(name=f"LINE_{number}_STRAYS", subjects=[f"line{number}.strays"])
        await context.add_consumer(f"LINE_{number}", durable_name=DURABLE, max_deliver=3)
        faults = " ".join((await jetstream.look()).faults)
    for word in ("discard", "max_age", "storage", "rollup", "max_msgs_per", "duplicate", "given"):
        assert word in faults
