"""Folding changes nothing that is read: before, while and after, whatever is corrected."""

import asyncio
import contextlib
import random
from datetime import timedelta

import numpy as np
import pytest

from engine.db import driver
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.fold_usage import FoldLimits, fold_usage
from metering.intake import micros_of
from metering.measure import measure, measure_events, measure_groups, sweep_inbox
from metering.model import BackfillDraft, Windows
from metering.verify_usage import verify_usage
from plans.model import LateUsage
from tests.database.test_aggregations import KINDS, OK
from tests.database.test_correct_event import amend, void
from tests.metering_world import NOW, event, world
from tests.processes import SECONDS

__all__ = ["world"]
pytestmark = pytest.mark.slow
SMALL = FoldLimits(
    least_batches=1,
    most_rows=40,
    most_events=60,
    most_payloads=2,
    most_depth=3,
    chunk_events=5,
)
CUSTOMERS = ("acme", "birch", "cedar", "later")


async def some_meters(world, name):
    """One of each kind, with a dimension and a filter, one of which ignores late usage."""
    kept = {"group_by": ("region", "ok"), "filters": (OK,)}
    made = [
        await world.meter(f"{name}-{kind.replace('/', '-')}", kind.split("/")[0], **(kept | fields))
        for kind, fields in KINDS.items()
    ]
    late = {"late_usage": LateUsage.IGNORE}
    return [*made, await world.meter(f"{name}-late", "sum", **(kept | late))]


def some_events(chance, prefix, *, days=30):
    return [
        event(
            f"{prefix}-{place}",
            at=NOW - timedelta(hours=chance.choice([0, 1, chance.randrange(24 * days)])),
            subject=chance.choice(CUSTOMERS),
            data={
                "tokens": chance.choice([chance.randint(-9, 9), "0.25", "9" * 18 + ".5", "no"]),
                "cap": chance.randint(0, 3),
                "host": chance.choice(["a", "b", "c", ""]),
                "ok": chance.choice(["yes", "yes", "no"]),
                "region": chance.choice(["eu", "us", None]),
            },
        )
        for place in range(chance.randint(1, 12))
    ]


def windows_of(meters, customers):
    """Months, days and instants of every customer and meter, each closed at its end."""
    spans = [(-40, 1), (-40, -10), (-10, 0), (-1, 1), (0, 0)]
    lines = [
        (meter.number, customer, *(micros_of(NOW + timedelta(days=each)) for each in span))
        for meter in meters
        for customer in customers
        for span in spans
    ]
    columns = list(zip(*lines, strict=True))
    return Windows(
        meter=np.array(columns[0], dtype=np.int32),
        customer=np.array(columns[1], dtype=np.int64),
        start_micros=np.array(columns[2], dtype=np.int64),
        end_micros=np.array(columns[3], dtype=np.int64),
        closes_micros=np.array(columns[3], dtype=np.int64),
    )


async def read_all(connection, meters, customers):
    """Everything that reading can tell, as plain values."""
    windows = windows_of(meters, customers)
    asked = {
        "connection": connection,
        "meters": {meter.number: meter for meter in meters},
        "windows": windows,
    }
    names = [("region",) if line % 2 else ("ok", "region") for line in range(len(windows.meter))]
    whole = await measure(**asked)
    found = [[(int(each), whole.digits) for each in whole.mantissa.tolist()]]
    groups = await measure_groups(**asked, dimensions=names)
    single = await measure_events(**asked, dimensions=names)
    found.extend(
        [
            kept.line.tolist(),
            [kept.dimensions[each] for each in kept.dimension.tolist()],
            [(each, kept.digits) for each in kept.mantissa.tolist()],
        ]
        for kept in (groups, single)
    )
    return found


async def seen(world, meters, customers):
    async with world.database.transaction(seller=world.seller) as connection:
        return await read_all(connection, meters, customers)


async def inbox(world, *, take=False):
    async with world.database.transaction(seller=world.seller) as connection:
        customers, times = await sweep_inbox(connection=connection, take=take)
    return dict(zip(customers.tolist(), times.tolist(), strict=True))


async def differing(world):
    """Where what is read is not what the raw events say."""
    async with world.database.transaction(seller=world.seller, snapshot=True) as connection:
        found = await verify_usage(connection=connection)
    assert found.events
    return found.differing


async def left(world, table):
    async with world.database.transaction(seller=world.seller) as connection:
        raw = await driver(connection)
        return await raw.fetchval(f"SELECT count(*) FROM {table} WHERE seller = current_seller()")


async def correct_some(world, chance, ids):
    for event_id in chance.sample(sorted(ids), min(3, len(ids))):
        ids.discard(event_id)
        if chance.random() < 0.5:
            await void(world, event_id)
        else:
            await amend(world, event_id, data={"tokens": 7, "ok": "yes", "region": "eu"})


async def settle_some(world, chance, name, body):
    """A backfill of old usage, closed, and perhaps taken back once it may have been folded."""
    async with world.database.transaction(seller=world.seller) as connection:
        draft = BackfillDraft(key=name)
        await open_backfill(connection=connection, draft=draft, now=NOW, wall_now=NOW)
    await world.send([each | {"backfill": name} for each in body])
    await fold_usage(database=world.database, seller=world.seller, limits=SMALL, steps=3)
    settle = chance.choice([(), (close_backfill,), (close_backfill, reverse_backfill)])
    for verb in settle:
        async with world.database.transaction(seller=world.seller) as connection:
            await verb(connection=connection, reference=name, now=NOW)
        if chance.random() < 0.5:
            await fold_usage(database=world.database, seller=world.seller, limits=SMALL)


async def test_reads_are_the_same_before_and_after_folding(world):
    chance = random.Random(20261122)
    early = await some_meters(world, "early")
    customers = [await world.customer(each) for each in CUSTOMERS[:3]]
    meters, ids = list(early), set()
    for turn in range(10):
        body = some_events(chance, f"t{turn}")
        await world.send(body)
        ids |= {each["id"] for each in body}
        if turn == 4:
            meters += await some_meters(world, "later")
        if turn == 6:
            customers.append(await world.customer("later"))
        await correct_some(world, chance, ids)
        if turn % 3 == 0:
            old = some_events(chance, f"b{turn}", days=40)
            await settle_some(world, chance, f"old-{turn}", old)
        before, waiting = await seen(world, meters, customers), await inbox(world)
        await fold_usage(
            database=world.database, seller=world.seller, limits=SMALL, steps=chance.randint(1, 40)
        )
        assert await seen(world, meters, customers) == before
        assert await differing(world) == ()
        assert await inbox(world) == waiting
        if turn == 5:
            assert await inbox(world, take=True) == waiting
            assert await inbox(world) == {}
    await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
    assert await left(world, "event_chunks") > 20


async def test_reads_while_folding_are_the_same(world):
    chance = random.Random(7)
    meters = await some_meters(world, "early")
    customers = [await world.customer(each) for each in CUSTOMERS]
    for turn in range(30):
        await world.send(some_events(chance, f"t{turn}"))
    before = await seen(world, meters, customers)
    folding = asyncio.gather(
        *(fold_usage(database=world.database, seller=world.seller, limits=SMALL) for _ in range(3))
    )
    looks = 0
    while not folding.done() or looks < 3:
        assert await seen(world, meters, customers) == before
        looks += 1
    await folding
    assert await left(world, "event_measures") == 0
    assert await seen(world, meters, customers) == before


async def test_a_sweep_beside_folding_finds_everything(world):
    meter = await world.meter("calls")
    numbers = {await world.customer(f"c{each}") for each in range(40)}
    found = set()

    async def send():
        for each in range(40):
            await world.send([event(f"e{each}", subject=f"c{each}")])

    async def sweep():
        while len(found) < len(numbers):
            found.update(await inbox(world, take=True))
            await asyncio.sleep(0)

    async def fold():
        while len(found) < len(numbers):
            await fold_usage(database=world.database, seller=world.seller, limits=SMALL)

    async with asyncio.timeout(SECONDS):
        await asyncio.gather(send(), sweep(), fold())
    assert found == numbers
    assert await world.total(meter, min(numbers)) == "1"


async def test_a_late_commit_of_an_older_batch_is_folded_as_well(world):
    meter = await world.meter("calls")
    acme = await world.customer("acme")
    await world.send([event("first", value=1)])
    # A batch of a lower number and an older time, as of a transaction that took long.
    async with world.database.transaction(seller=world.seller) as slow:
        raw = await driver(slow)
        await raw.execute(
            "INSERT INTO event_batches (batch, received_at, events, first_at, last_at, meters,"
            " payload, ends) SELECT -1, received_at, events, first_at - interval '9 days',"
            " last_at - interval '9 days', meters, payload, ends FROM event_batches LIMIT 1"
        )
        await raw.execute(
            "INSERT INTO event_measures SELECT seller, meter, -1, events, first_at - interval"
            " '9 days', last_at - interval '9 days', digits, wide, customers, times, quantities,"
            " unknown, groups, codes FROM event_measures LIMIT 1"
        )
        done = await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
        assert done.batches == 1
    done = await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
    assert done.batches == 1
    assert await world.total(meter, acme) == "2"


async def test_what_ends_in_the_middle_loses_and_doubles_nothing(world):
    chance = random.Random(11)
    meters = await some_meters(world, "early")
    customers = [await world.customer(each) for each in CUSTOMERS]
    for turn in range(30):
        await world.send(some_events(chance, f"t{turn}"))
    before, waiting = await seen(world, meters, customers), await inbox(world)
    for _ in range(12):
        folding = asyncio.create_task(
            fold_usage(database=world.database, seller=world.seller, limits=SMALL)
        )
        await asyncio.sleep(chance.random() / 20)
        folding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await folding
        assert await seen(world, meters, customers) == before
        assert await differing(world) == ()
        assert await inbox(world) == waiting


async def test_payloads_are_not_read_again_for_a_meter_made_later(world):
    acme = await world.customer("acme")
    await world.send([event("a", value=2), event("b", value=3), event("c", value="x")])
    await void(world, "a")
    meter = await world.meter("late")
    assert await world.total(meter, acme) == "3"
    done = await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
    assert done.measured == 1
    assert await world.total(meter, acme) == "3"
    await void(world, "b")
    assert await world.total(meter, acme) == "0"
    async with world.database.transaction(seller=world.seller) as connection:
        raw = await driver(connection)
        kinds = await raw.fetch("SELECT DISTINCT meters FROM event_batches")
    assert [row["meters"] for row in kinds] == [[meter.number]]
