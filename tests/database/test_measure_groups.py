"""Usage kept apart by dimensions, and event by event, against loops over what was sent."""

import random
from collections import defaultdict
from datetime import timedelta
from fractions import Fraction
from itertools import permutations

import msgspec
import numpy as np
import pytest

from engine.errors import BillingError
from metering.intake import micros_of
from metering.measure import measure, measure_events, measure_groups
from metering.model import EventUsage, GroupedUsage, UsageWindow, Windows
from metering.usage import read_usage
from plans.model import MeterFilter
from tests.database.test_ingest_http import served
from tests.database.test_ingest_reads import listed
from tests.metering_world import NOW, World, event, world

__all__ = ["world"]
AGGREGATIONS = ("count", "sum", "max", "min", "latest")
NAMES = ("region", "tier", "cached")
# As sent, and as the text it is.
REGIONS = (("eu", "eu"), ("us", "us"), ("US", "US"), ("", ""), (None, ""), ("é\"'", "é\"'"))
TIERS = (
    (1, "1"),
    ("1", "1"),
    (msgspec.Raw(b"1.50"), "1.50"),
    (-7, "-7"),
    (10**20, str(10**20)),
    ([1], ""),
)
CACHED = ((True, "true"), (False, "false"), ("true", "true"))
Sent = dict[str, tuple]


def some_events(chance: random.Random, *, count: int, batch: int) -> tuple[list, list]:
    """(bodies, (subject, time, value, texts by name) of each)."""
    bodies, facts = [], []
    for number in range(count):
        data, texts = {}, dict.fromkeys(NAMES, "")
        for name, choices in zip(NAMES, (REGIONS, TIERS, CACHED), strict=True):
            if chance.random() < 0.85:
                data[name], texts[name] = chance.choice(choices)
        value = chance.choice([chance.randint(-9, 9), "0.25", "-1.125", "999999999999999999.5"])
        at = NOW - timedelta(hours=chance.randrange(48))
        who = chance.choice(["acme", "bert", "late"])
        bodies.append(event(f"{batch}-{number}", at=at, subject=who, data=data | {"tokens": value}))
        facts.append((who, at, Fraction(str(value)), texts))
    return bodies, facts


def aggregate(aggregation: str, mine: list[tuple]) -> Fraction:
    """Of (time, place, value), in the order in which they were sent."""
    values = [each[2] for each in mine]
    match aggregation:
        case "count":
            return Fraction(len(mine))
        case "sum":
            return sum(values, Fraction(0))
        case "max":
            return max(values)
        case "min":
            return min(values)
        case _:
            return max(mine)[2]


def kept_apart(facts, lines, names) -> dict[tuple[int, tuple[str, ...]], list[tuple]]:
    """The obvious way: the (time, place, value) of each (line, combination)."""
    found = defaultdict(list)
    for index, (_, customer, start, end) in enumerate(lines):
        for place, (who, at, value, texts) in enumerate(facts):
            if who == customer and start <= at < end:
                combination = tuple(texts[name] for name in names[index])
                found[index, combination].append((at, place, value))
    return dict(found)


def windows_of(lines, numbers) -> Windows:
    return Windows(
        meter=np.array([each[0].number for each in lines], dtype=np.int32),
        customer=np.array([numbers[each[1]] for each in lines], dtype=np.int64),
        start_micros=np.array([micros_of(each[2]) for each in lines], dtype=np.int64),
        end_micros=np.array([micros_of(each[3]) for each in lines], dtype=np.int64),
    )


def told(usage: GroupedUsage) -> dict[tuple[int, tuple[str, ...]], Fraction]:
    keys = list(zip(usage.line.tolist(), usage.dimension.tolist(), strict=True))
    assert keys == sorted(keys)
    assert list(usage.dimensions) == sorted(set(usage.dimensions))
    return {
        (line, usage.dimensions[dimension]): Fraction(int(value), 10**usage.digits)
        for (line, dimension), value in zip(keys, usage.mantissa, strict=True)
    }


def told_events(usage: EventUsage) -> dict[tuple[int, tuple[str, ...]], list[Fraction]]:
    bounds = usage.offsets.tolist()
    assert bounds[-1] == len(usage.mantissa)
    return {
        (line, usage.dimensions[dimension]): [
            Fraction(int(each), 10**usage.digits) for each in usage.mantissa[start:end]
        ]
        for line, dimension, start, end in zip(
            usage.line.tolist(), usage.dimension.tolist(), bounds[:-1], bounds[1:], strict=True
        )
    }


async def ask(world: World, verb, lines, numbers, names):
    async with world.database.transaction(seller=world.seller) as connection:
        return await verb(
            connection=connection,
            meters={each[0].number: each[0] for each in lines},
            windows=windows_of(lines, numbers),
            dimensions=names,
        )


@pytest.mark.parametrize("seed", range(2))
async def test_every_combination_is_its_own_events(world, seed):
    chance = random.Random(seed)
    numbers = {who: await world.customer(who) for who in ("acme", "bert")}
    made = [await world.meter(f"{each}-early", each, group_by=NAMES) for each in AGGREGATIONS[:3]]
    facts = []
    for batch in range(4):
        bodies, more = some_events(chance, count=chance.choice([1, 30]), batch=batch)
        facts += more
        await world.send(bodies)
    # These are measured from what came, and the last customer was a stranger then.
    made += [
        await world.meter(f"{each}-later", each, group_by=NAMES[::-1]) for each in AGGREGATIONS
    ]
    numbers["late"] = await world.customer("late")
    lines, names = [], []
    for meter in made:
        for who in ("acme", "bert", "late"):
            for wanted in [(), ("tier",), *permutations(NAMES, 2), NAMES]:
                start = NOW - timedelta(hours=chance.randrange(48))
                lines.append(
                    (meter, who, start, start + timedelta(hours=chance.choice([0, 9, 50])))
                )
                names.append(wanted)
    expected = kept_apart(facts, lines, names)
    found = told(await ask(world, measure_groups, lines, numbers, names))
    assert found == {
        key: aggregate(lines[key[0]][0].aggregation.value, mine) for key, mine in expected.items()
    }
    events = told_events(await ask(world, measure_events, lines, numbers, names))
    assert events == {
        key: [
            Fraction(1) if lines[key[0]][0].aggregation.value == "count" else value
            for _, _, value in sorted(mine)
        ]
        for key, mine in expected.items()
    }


async def test_without_dimensions_a_group_is_the_whole(world):
    numbers = {"acme": await world.customer("acme")}
    meter = await world.meter("tokens")
    await world.send([event("a", value="1.5"), event("b", value=2)])
    lines = [(meter, "acme", NOW - timedelta(days=days), NOW + timedelta(1)) for days in (1, 0)]
    lines.append((meter, "acme", NOW + timedelta(1), NOW + timedelta(2)))
    grouped = await ask(world, measure_groups, lines, numbers, [()] * 3)
    assert told(grouped) == {(0, ()): Fraction(7, 2), (1, ()): Fraction(7, 2)}
    async with world.database.transaction(seller=world.seller) as connection:
        whole = await measure(
            connection=connection,
            meters={meter.number: meter},
            windows=windows_of(lines, numbers),
        )
    assert (whole.mantissa.tolist(), whole.digits) == ([35, 35, 0], 1)


async def test_nothing_measured_is_no_row(world):
    numbers = {"acme": await world.customer("acme")}
    meter = await world.meter("tokens", group_by=("region",))
    line = (meter, "acme", NOW, NOW)
    grouped = await ask(world, measure_groups, [line], numbers, [("region",)])
    assert (len(grouped.line), grouped.dimensions, grouped.digits) == (0, (), 0)
    events = await ask(world, measure_events, [line], numbers, [("region",)])
    assert (len(events.line), events.offsets.tolist(), len(events.mantissa)) == (0, [0], 0)
    assert (await ask(world, measure_groups, [], numbers, [])).mantissa.tolist() == []


async def test_events_of_an_instant_stay_in_the_order_they_were_stored(world):
    numbers = {"acme": await world.customer("acme")}
    meter = await world.meter("tokens")
    for batch in range(3):
        await world.send([event(f"{batch}-{each}", value=10 * batch + each) for each in range(4)])
    await world.send([event("before", value=-1, at=NOW - timedelta(seconds=1))])
    line = (meter, "acme", NOW - timedelta(days=1), NOW + timedelta(days=1))
    usage = await ask(world, measure_events, [line], numbers, [()])
    assert usage.mantissa.tolist() == [-1, 0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]


async def test_filters_refuse_alike_at_once_and_later(world):
    number = await world.customer("acme")
    gold = MeterFilter(property="tier", one_of=("gold", "1", "1.0", "true", ""))
    eu = MeterFilter(property="region", one_of=("eu",))
    meters = [await world.meter("early", filters=(gold, eu))]
    sent = [("gold", "eu"), (1, "eu"), (msgspec.Raw(b"1.0"), "eu"), (True, "eu"), (None, "eu")]
    refused = [("Gold", "eu"), (msgspec.Raw(b"1.00"), "eu"), (False, "eu"), ("gold", "EU")]
    await world.send(
        [
            event(f"{place}", value=2**place, data={"tokens": 2**place, "tier": tier, "region": at})
            for place, (tier, at) in enumerate(sent + refused)
        ]
    )
    await world.send([event("bare", data={"tokens": 4096, "region": "eu"})])
    await world.send([event("gone", data={"tokens": 8192, "tier": "gold"})])
    meters.append(await world.meter("later", filters=(gold, eu)))
    assert [await world.total(each, number) for each in meters] == [str(31 + 4096)] * 2
    reasons = {event_id: reason for event_id, _, reason in await listed(world)}
    taken = {*(str(place) for place in range(5)), "bare"}
    assert reasons == {each: "no_subscription" if each in taken else "no_meter" for each in reasons}
    assert len(reasons) == 11


async def usage(world: World, *names: str, window: str = "day") -> list[tuple]:
    async with world.database.transaction(seller=world.seller) as connection:
        answer = await read_usage(
            connection=connection,
            customer="acme",
            meter="tokens",
            start=NOW - timedelta(days=1),
            end=NOW + timedelta(days=1),
            window=UsageWindow(window),
            group_by=names,
        )
    return [(each.start_at.day, each.group, each.quantity) for each in answer.data]


async def test_usage_by_group(world):
    await world.customer("acme")
    await world.meter("tokens", group_by=("region", "tier"))
    await world.send(
        [
            event("a", data={"tokens": 1, "region": "us", "tier": 1}),
            event("b", data={"tokens": "0.5", "region": "us", "tier": 2}),
            event("c", data={"tokens": 7, "region": "eu"}, at=NOW - timedelta(days=1)),
        ]
    )
    assert await usage(world, "region") == [
        (19, {"region": "eu"}, "7"),
        (20, {"region": "us"}, "1.5"),
    ]
    assert await usage(world, "tier", "region") == [
        (19, {"tier": "", "region": "eu"}, "7"),
        (20, {"tier": "1", "region": "us"}, "1"),
        (20, {"tier": "2", "region": "us"}, "0.5"),
    ]
    with pytest.raises(BillingError) as caught:
        await usage(world, "region", "colour")
    assert [each.code for each in caught.value.errors] == ["unknown_dimension"]


async def test_groups_are_served(database):
    async with served(database) as client:
        meter = {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "tokens"}
        meter |= {"group_by": ["region"], "filters": [{"property": "ok", "in": ["true"]}]}
        made = await client.post("/v1/meters", meter)
        assert made.ok
        assert made.json().items() >= meter.items()
        (row,) = (await client.get("/v1/meters")).json()["data"]
        assert row == made.json()
        twice = await client.post("/v1/meters", meter | {"key": "b", "group_by": ["a", "a"]})
        assert [each["pointer"] for each in twice.json()["errors"]] == ["/group_by/1"]
        assert (await client.post("/v1/customers", {"key": "acme", "name": "Acme"})).ok
        sent = [
            event("a", data={"tokens": 3, "region": "eu", "ok": True}),
            event("b", data={"tokens": 4, "region": "eu", "ok": False}),
        ]
        assert (await client.post("/v1/events", sent)).ok
        span = "from=2026-11-20T00:00:00Z&to=2026-11-21T00:00:00Z"
        asked = f"/v1/usage?customer=acme&meter=tokens&{span}&group_by="
        answer = await client.get(asked + "region")
        assert answer.json()["data"] == [
            {
                "from": "2026-11-20T00:00:00Z",
                "to": "2026-11-21T00:00:00Z",
                "group": {"region": "eu"},
                "quantity": "3",
            }
        ]
        refused = await client.get(asked + "region,colour")
        assert (refused.status, refused.json()["errors"][0]["code"]) == (422, "unknown_dimension")
        price = {"key": "p", "kind": "usage", "meter": "tokens", "model": "per_unit"}
        price |= {"unit_amount": "1", "group_by": ["colour"]}
        plan = {"key": "p", "currency": "EUR", "interval": {"unit": "month"}, "prices": [price]}
        unkept = await client.post("/v1/plans", plan)
        assert ("/prices/0/group_by", "unknown_dimension") in [
            (each["pointer"], each["code"]) for each in unkept.json()["errors"]
        ]
