"""Events taken back and replaced: what is measured is what a loop over the last word gives."""

import asyncio
import random
from datetime import timedelta
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from engine.errors import BillingError
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.backfill_store import find_backfill
from metering.correct_event import amend_event, void_event
from metering.intake import micros_of
from metering.list_events import list_events
from metering.measure import measure, measure_events, measure_groups, sweep_inbox
from metering.model import BackfillDraft, EventAmendDraft, EventFilter, Windows
from tests.database.test_measure_groups import aggregate
from tests.metering_world import NOW, event, world

__all__ = ["world"]
AGGREGATIONS = ("count", "sum", "max", "min", "latest")


async def void(world, event_id, source="", now=NOW):
    async with world.database.transaction(seller=world.seller) as connection:
        return await void_event(connection=connection, event_id=event_id, source=source, now=now)


async def amend(world, event_id, source="", now=NOW, **fields):
    draft = msgspec.json.decode(msgspec.json.encode(fields), type=EventAmendDraft)
    async with world.database.transaction(seller=world.seller) as connection:
        return await amend_event(
            connection=connection, event_id=event_id, source=source, draft=draft, now=now
        )


async def refused(call):
    with pytest.raises(BillingError) as error:
        await call
    return error.value.code


async def listed(world, status=None):
    async with world.database.transaction(seller=world.seller) as connection:
        found = await list_events(
            connection=connection, wanted=EventFilter(status=status), limit=1000, cursor=None
        )
    return [(each.id, each.status, each.reason, bytes(each.data)) for each in found.data]


async def inbox(world):
    async with world.database.transaction(seller=world.seller) as connection:
        customers, times = await sweep_inbox(connection=connection)
    return dict(zip(customers.tolist(), times.tolist(), strict=True))


def a_window(meter, customer):
    return Windows(
        meter=np.array([meter.number], dtype=np.int32),
        customer=np.array([customer], dtype=np.int64),
        start_micros=np.array([micros_of(NOW - timedelta(days=30))], dtype=np.int64),
        end_micros=np.array([micros_of(NOW + timedelta(days=1))], dtype=np.int64),
    )


async def test_every_aggregation_reads_the_last_word_alone(world):
    chance = random.Random(20261122)
    kept = {"group_by": ("region",)}
    early = [await world.meter(f"early-{each}", each, **kept) for each in AGGREGATIONS]
    acme = await world.customer("acme")
    facts, name = {}, 0
    for _ in range(6):
        bodies = []
        for _ in range(12):
            name += 1
            at = NOW - timedelta(hours=chance.randrange(4))
            value = chance.choice([chance.randint(-9, 9), "0.25", "999999999999999999.5", "no"])
            region = chance.choice(["eu", "us"])
            bodies.append(event(f"e{name}", at=at, data={"tokens": value, "region": region}))
            facts[f"e{name}"] = (at, name, value, region)
        assert (await world.send(bodies)).accepted == 12
    for round_number in range(3):
        for picked in chance.sample(sorted(facts), 15):
            at, _, value, region = facts.pop(picked)
            name += 1
            if chance.random() < 0.4:
                await void(world, picked)
                continue
            value = chance.choice([chance.randint(-50, 50), "7.125"])
            at = chance.choice([at, NOW - timedelta(minutes=chance.randrange(300))])
            data = {"tokens": value, "region": chance.choice([region, "ap"])}
            await amend(world, picked, time=at.isoformat(), data=data)
            facts[picked] = (at, name, value, data["region"])
        later = [
            await world.meter(f"later-{round_number}-{each}", each, **kept) for each in AGGREGATIONS
        ]
        for meter in (*early, *later):
            await compare(world, meter, acme, list(facts.values()))


async def compare(world, meter, customer, facts):
    counting = meter.aggregation == "count"
    mine = [
        (at, place, Fraction(1) if counting else Fraction(value), region)
        for at, place, value, region in facts
        if counting or value != "no"
    ]
    meters, windows = {meter.number: meter}, a_window(meter, customer)
    async with world.database.transaction(seller=world.seller) as connection:
        asked = {"connection": connection, "meters": meters, "windows": windows}
        whole = await measure(**asked)
        groups = await measure_groups(**asked, dimensions=[("region",)])
        single = await measure_events(**asked, dimensions=[("region",)])
    scale = 10**whole.digits
    assert Fraction(int(whole.mantissa[0]), scale) == aggregate(
        meter.aggregation, [each[:3] for each in mine]
    )
    by_region = {}
    for each in sorted(mine):
        by_region.setdefault(each[3], []).append(each[:3])
    told = {
        groups.dimensions[kind][0]: Fraction(int(value), 10**groups.digits)
        for kind, value in zip(groups.dimension.tolist(), groups.mantissa.tolist(), strict=True)
    }
    assert told == {
        region: aggregate(meter.aggregation, values) for region, values in by_region.items()
    }
    offsets = single.offsets.tolist()
    values = [Fraction(int(each), 10**single.digits) for each in single.mantissa.tolist()]
    assert {
        single.dimensions[kind][0]: values[offsets[row] : offsets[row + 1]]
        for row, kind in enumerate(single.dimension.tolist())
    } == {region: [each[2] for each in found] for region, found in by_region.items()}


async def test_an_id_stays_taken_and_its_events_are_shown(world):
    meter = await world.meter("calls")
    acme = await world.customer("acme")
    await world.send([event("a", value=5), event("b", value=7)])
    await void(world, "a")
    answer = await amend(world, "b", data={"tokens": 3})
    assert (answer.id, answer.status, answer.reason) == ("b", "unmatched", "no_subscription")
    again = await world.send([event("a", value=5), event("b", value=7), event("b", value=3)])
    assert (again.accepted, again.duplicates, len(again.rejected)) == (0, 2, 1)
    assert await world.total(meter, acme) == "3"
    assert await listed(world, "voided") == [
        ("a", "voided", None, b'{"tokens":5}'),
        ("b", "voided", "amended", b'{"tokens":7}'),
    ]
    assert [each[0] for each in await listed(world, "unmatched")] == ["b"]
    assert await refused(void(world, "a")) == "already_void"
    assert await refused(amend(world, "a", data={})) == "already_void"
    await void(world, "b")
    assert await refused(amend(world, "b", data={})) == "already_void"
    assert await world.total(meter, acme) == "0"


async def test_source_and_seller_tell_events_apart(world, make_seller):
    meter = await world.meter("calls")
    acme = await world.customer("acme")
    uuid = "0198f3a0-0000-7000-8000-000000000001"
    await world.send([event("a"), event("a", source="x", value=10), event(uuid, value=100)])
    assert await refused(void(world, "a", source="y")) == "not_found"
    assert await refused(void(world, "nobody")) == "not_found"
    await void(world, "a", source="x")
    assert await world.total(meter, acme) == "101"
    await amend(world, uuid, data={"tokens": 200})
    await amend(world, uuid, data={"tokens": 300})
    assert await world.total(meter, acme) == "301"
    world.seller = await make_seller()
    assert await refused(void(world, "a")) == "not_found"


async def test_an_event_moves_to_another_customer_and_both_are_looked_at(world):
    meter = await world.meter("calls")
    acme, bert = await world.customer("acme"), await world.customer("bert")
    await world.send([event("a", value=5)])
    assert set(await inbox(world)) == {acme}
    assert await inbox(world) == {}
    moved = NOW - timedelta(days=2)
    await amend(world, "a", subject="bert", time=moved.isoformat())
    assert await inbox(world) == {acme: micros_of(NOW), bert: micros_of(moved)}
    assert (await world.total(meter, acme), await world.total(meter, bert)) == ("0", "5")
    await void(world, "a")
    assert set(await inbox(world)) == {bert}


@pytest.mark.parametrize(
    "fields",
    [
        {"time": (NOW - timedelta(days=36)).isoformat()},
        {"time": (NOW + timedelta(minutes=6)).isoformat()},
        {"data": [1]},
        {"data": {"tokens": "\0"}},
    ],
)
async def test_what_could_not_be_sent_cannot_be_amended_either(world, fields):
    meter = await world.meter("calls")
    acme = await world.customer("acme")
    await world.send([event("a", value=5)])
    assert await refused(amend(world, "a", **fields)) == "invalid_body"
    assert await world.total(meter, acme) == "5"


async def test_corrections_at_once_leave_one_truth(world):
    meter = await world.meter("calls")
    acme = await world.customer("acme")
    await world.send([event("a", value=5)])
    outcomes = await asyncio.gather(
        *(amend(world, "a", data={"tokens": n}) for n in range(1, 5)),
        void(world, "a"),
        return_exceptions=True,
    )
    done = [each for each in outcomes if not isinstance(each, BaseException)]
    codes = {each.code for each in outcomes if isinstance(each, BillingError)}
    assert len(done) + sum(isinstance(each, BillingError) for each in outcomes) == 5
    assert done
    assert codes <= {"already_void"}
    standing = await listed(world, "unmatched")
    assert len(standing) <= 1
    total = msgspec.json.decode(standing[0][3])["tokens"] if standing else 0
    assert await world.total(meter, acme) == str(total)


async def test_an_amendment_in_a_backfill_is_answered_as_it_is_listed(world):
    await world.meter("tokens")
    await world.customer("acme")
    draft = BackfillDraft(key="old")
    async with world.database.transaction(seller=world.seller) as connection:
        await open_backfill(connection=connection, draft=draft, now=NOW, wall_now=NOW)
    await world.send(event("a", value=1, backfill="old"))
    told: list[tuple[str, str | None]] = []
    for number, settle in enumerate((None, close_backfill, reverse_backfill), start=2):
        if settle is not None:
            async with world.database.transaction(seller=world.seller) as connection:
                await settle(connection=connection, reference="old", now=NOW)
        answer = await amend(world, "a", data={"tokens": number})
        assert (answer.id, answer.status, answer.reason) == (await listed(world))[-1][:3]
        told.append((answer.status, answer.reason))
    assert told == [
        ("unmatched", "backfill_open"),
        ("unmatched", "no_subscription"),
        ("voided", "backfill_reversed"),
    ]
    async with world.database.transaction(seller=world.seller) as connection:
        found = await find_backfill(connection=connection, reference="old")
    assert found is not None
    assert found.events == 1
