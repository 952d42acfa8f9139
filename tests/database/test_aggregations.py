"""Every aggregation out of the store: corrected, kept apart, late, window by window."""

import random
from datetime import timedelta
from fractions import Fraction

import numpy as np
import pytest

from metering.formula import value_of
from metering.intake import micros_of
from metering.measure import measure, measure_groups
from metering.model import UsageWindow, Windows
from metering.usage import read_usage
from plans.expression import parse_expression
from plans.model import MeterFilter
from plans.prices import QuantityRounding
from tests import metering_oracle
from tests.database.test_correct_event import amend, listed, void
from tests.metering_world import NOW, event, world

__all__ = ["world"]
EXPRESSION = "max(tokens / 3, cap) - 1"
ROUNDED = QuantityRounding(mode="up", digits=1)
KINDS = {
    "count": {},
    "sum": {"rounding": ROUNDED},
    "latest": {},
    "unique_count": {"value": None, "unique_by": "host"},
    "average": {},
    "percentile": {"percentile": "90"},
    "weighted_sum": {},
    "weighted_sum/carried": {"carry_over": True},
    "sum/expression": {"value": EXPRESSION},
    "weighted_sum/expression": {"value": EXPRESSION, "carry_over": True},
}
OK = MeterFilter(property="ok", one_of=("yes",))


async def meters(world, name):
    """One of each kind, all with a dimension and a filter."""
    kept = {"group_by": ("region",), "filters": (OK,)}
    return [
        await world.meter(f"{name}-{kind.replace('/', '-')}", kind.split("/")[0], **(kept | fields))
        for kind, fields in KINDS.items()
    ]


def reading(meter, data):
    """(value, text) that the meter reads, or None where it finds none."""
    if meter.aggregation == "unique_count":
        return (Fraction(1), str(data["host"])) if data.get("host") else None
    if meter.aggregation == "count":
        return Fraction(1), ""
    if meter.value == EXPRESSION:
        pair = value_of(expression=parse_expression(EXPRESSION), data=data)
        return None if pair is None else (Fraction(pair[0], 10 ** pair[1]), "")
    return None if data["tokens"] == "no" else (Fraction(data["tokens"]), "")


def expected(meter, facts, line):
    """Of facts (at, place, data): the whole, and each region's."""
    mine = [
        (micros_of(at), place, *read, data["region"])
        for at, place, data in facts
        if data["ok"] == "yes" and (read := reading(meter, data)) is not None
    ]
    start, end, since, whole = map(int, line)
    window = {"start": start, "end": end, "since": since, "whole": whole}

    def quantity(events):
        exact = metering_oracle.quantity(meter, [each[:4] for each in events], **window)
        nine = meter.value == EXPRESSION
        return metering_oracle.half_away(exact, digits=9) if nine else exact

    groups = {}
    for each in mine:
        groups.setdefault(each[4], []).append(each)
    return quantity(mine), {
        region: quantity(events)
        for region, events in groups.items()
        if has_usage(meter, events, start=start, end=end, since=since)
    }


def has_usage(meter, events, *, start, end, since):
    """Events in the window or, of a level, one that stands; an empty window has nothing."""
    if start == end:
        return False
    if any(start <= each[0] < end for each in events):
        return True
    first = start if meter.aggregation != "weighted_sum" else since
    first = -(2**62) if meter.carry_over else first
    return sum(each[2] for each in events if first <= each[0] < start) != 0


async def compare(world, meter, customer, facts, lines):
    columns = [np.array(each, dtype=np.int64) for each in zip(*lines, strict=True)]
    windows = Windows(
        meter=np.full(len(lines), meter.number, dtype=np.int32),
        customer=np.full(len(lines), customer, dtype=np.int64),
        start_micros=columns[0],
        end_micros=columns[1],
        since_micros=columns[2],
        whole_micros=columns[3],
    )
    async with world.database.transaction(seller=world.seller) as connection:
        asked = {"connection": connection, "meters": {meter.number: meter}, "windows": windows}
        whole = await measure(**asked)
        groups = await measure_groups(**asked, dimensions=[("region",)] * len(lines))
    found = [{} for _ in lines]
    for line, kind, value in zip(groups.line, groups.dimension, groups.mantissa, strict=True):
        found[line][groups.dimensions[kind][0]] = Fraction(int(value), 10**groups.digits)
    for index, line in enumerate(lines):
        total, apart = expected(meter, facts, line)
        assert Fraction(int(whole.mantissa[index]), 10**whole.digits) == total, meter.key
        assert found[index] == apart, meter.key


def some_lines(chance):
    """(start, end, since, whole): parts of billing periods, an empty one among them."""
    lines = [(micros_of(NOW), micros_of(NOW), micros_of(NOW) - 10, 10)]
    for _ in range(5):
        opens = micros_of(NOW) - chance.randrange(30 * 3600) * 10**6
        start = opens + chance.choice([0, chance.randrange(10**9)])
        end = start + chance.randrange(1, 20 * 3600) * 10**6
        lines.append((start, end, opens, end - opens + chance.choice([0, 7])))
    return lines


def some_event(chance, name):
    at = NOW - timedelta(seconds=chance.randrange(24 * 3600))
    data = {
        "tokens": chance.choice([chance.randint(-9, 9), "0.25", "999999999999999999.5", "no"]),
        "region": chance.choice(["eu", "us"]),
        "host": chance.choice(["a", "b", 1, "1", "", None]),
        "ok": chance.choice(["yes", "yes", "no"]),
    }
    if chance.random() < 0.8:
        data["cap"] = chance.choice([1, "2.5"])
    return event(name, at=at, data=data), (at, data)


async def test_what_stands_is_measured_however_it_came(world):
    chance = random.Random(5)
    early = await meters(world, "early")
    acme = await world.customer("acme")
    facts, number = {}, 0
    for _ in range(4):
        bodies = []
        for _ in range(12):
            number += 1
            body, (at, data) = some_event(chance, f"e{number}")
            facts[f"e{number}"] = (at, number, data)
            bodies.append(body)
        assert (await world.send(bodies)).accepted == 12
    for picked in chance.sample(sorted(facts), 16):
        facts.pop(picked)
        if chance.random() < 0.4:
            await void(world, picked)
            continue
        number += 1
        body, (at, data) = some_event(chance, picked)
        await amend(world, picked, time=body["time"], data=data)
        facts[picked] = (at, number, data)
    later = await meters(world, "later")
    lines = some_lines(chance)
    for meter in (*early, *later):
        await compare(world, meter, acme, list(facts.values()), lines)


async def usage(world, meter, window, *, start, hours, group_by=()):
    async with world.database.transaction(seller=world.seller) as connection:
        answer = await read_usage(
            connection=connection,
            customer="acme",
            meter=meter.key,
            start=start,
            end=start + timedelta(hours=hours),
            window=UsageWindow(window),
            group_by=group_by,
        )
    return [each.quantity for each in answer.data]


@pytest.mark.parametrize(
    ("kind", "fields", "hours", "day"),
    [
        ("max", {}, ["3", "8", "0"], "8"),
        ("average", {}, ["2.5", "3.333333333", "0"], "3"),
        ("percentile", {"percentile": 50}, ["2", "1", "0"], "2"),
        ("unique_count", {"value": None, "unique_by": "host"}, ["1", "2", "0"], "2"),
        # 2 at 12:00, 3 more at 12:30; then 1, 8 and 1 in the last quarter of the second hour.
        ("weighted_sum", {}, ["3.5", "7.5", "15"], "8.666666667"),
        ("weighted_sum", {"rounding": ROUNDED}, ["3.5", "7.5", "15"], "8.7"),
        ("sum", {"value": "round(tokens * 1.5, 0)"}, ["8", "16", "0"], "24"),
    ],
)
async def test_a_window_is_a_quantity_of_its_own(world, kind, fields, hours, day):
    await world.customer("acme")
    meter = await world.meter("m", kind, **fields)
    noon = NOW.replace(hour=12)
    sent = [(0, 2, "a"), (30, 3, "a"), (105, 1, "a"), (105, 8, "b"), (105, 1, "b")]
    await world.send(
        [
            event(
                f"e{place}",
                at=noon - timedelta(hours=5) + timedelta(minutes=minutes),
                data={"tokens": value, "host": host},
            )
            for place, (minutes, value, host) in enumerate(sent)
        ]
    )
    start = noon - timedelta(hours=5)
    assert await usage(world, meter, "hour", start=start, hours=3) == hours
    assert await usage(world, meter, "day", start=start, hours=3) == [day]


async def test_a_level_is_carried_into_windows_it_did_not_change_in(world):
    await world.customer("acme")
    kept = {"group_by": ("region",), "value": "tokens"}
    carried = await world.meter("carried", "weighted_sum", carry_over=True, **kept)
    bare = await world.meter("bare", "weighted_sum", **kept)
    sent = [(50, 5, "eu"), (49, -5, "eu"), (48, 6, "us"), (2, -2, "us")]
    await world.send(
        [
            event(f"e{hours}", at=NOW - timedelta(hours=hours), data={"tokens": n, "region": at})
            for hours, n, at in sent
        ]
    )
    start = NOW - timedelta(hours=4)
    # What was in eu is gone before: no row of it, and 6 in us for two of four hours, then 4.
    asked = {"start": start, "hours": 4}
    assert await usage(world, carried, "day", **asked) == ["5"]
    assert await usage(world, carried, "day", **asked, group_by=("region",)) == ["5"]
    assert await usage(world, bare, "day", **asked) == ["-1"]
    assert await usage(world, bare, "hour", **asked) == ["0", "0", "-2", "-2"]


async def test_events_without_a_value_are_shown(world):
    await world.customer("acme")
    await world.meter("u", "unique_count", value=None, unique_by="host")
    await world.meter("x", "sum", value="tokens / n")
    data = {
        "both": {"tokens": 1, "n": 2, "host": "a"},
        "host": {"tokens": 1, "n": 0, "host": "a"},
        "value": {"tokens": 1, "n": 2, "host": None},
        "none": {"tokens": 1, "n": 0, "host": [1]},
    }
    await world.send([event(name, data=each) for name, each in data.items()])
    told = {name: reason for name, _, reason, _ in await listed(world)}
    assert told == dict.fromkeys(("both", "host", "value"), "no_subscription") | {
        "none": "bad_value"
    }
