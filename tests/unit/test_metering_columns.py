"""What a meter reads from events, and how columns become quantities: fast lanes against loops."""

import random
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import numpy as np
import pytest

from engine.columns import encode_copy
from metering.aggregation import Block, Tally
from metering.columns import decode_quantities, measure_columns, parse_value
from metering.window_index import WindowIndex
from plans.model import Aggregation, Meter

AT = datetime(2026, 1, 1, tzinfo=UTC)
DAY = 86_400_000_000


def meter(aggregation: str = "sum", **fields) -> Meter:
    named = {"value": None if aggregation == "count" else "tokens"} | fields
    return Meter(
        id="mtr_1",
        key="tokens",
        name=None,
        event_type="call",
        aggregation=Aggregation(aggregation),
        created_at=AT,
        number=7,
        **named,
    )


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (5, (5, 0)),
        (-5, (-5, 0)),
        ("1.50", (15, 1)),
        ("-0.5", (-5, 1)),
        ("0.000000000001", (1, 12)),
        ("1.0", (1, 0)),
        ("999999999999999999", (10**18 - 1, 0)),
        (10**18, None),
        (-(10**18), None),
        ("1e3", None),
        ("1.0000000000000", None),
        (True, None),
        (None, None),
        ("", None),
        ("1 ", None),
        ("1\n", None),
        ("٣", None),
        ("１", None),
    ],
)
def test_a_plain_decimal_and_nothing_else(value, parsed):
    assert parse_value(value) == parsed


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        ["1.5", 2, "-0.25"],
        ["999999999999999999.999999999999", -1],
        ["-999999999999999999.999999999999"] * 2,
        [2**62, "0.1"],
    ],
)
def test_columns_keep_every_digit(values):
    count = len(values)
    columns = measure_columns(
        meter=meter(),
        types=["call"] * count,
        subjects=["acme"] * count,
        datas=[{"tokens": each} for each in values],
        customers=np.arange(1, count + 1),
        times=np.arange(count),
    )
    found = decode_quantities(quantities=columns.quantities, wide=columns.wide)
    wanted = [Fraction(str(each)) for each in values if parse_value(each)]
    assert [Fraction(int(each), 10**columns.digits) for each in found] == wanted


def test_other_types_and_bad_values_are_left_out_and_strangers_kept():
    columns = measure_columns(
        meter=meter(),
        types=["call", "other", "call", "call"],
        subjects=["a", "b", "c", "d"],
        datas=[{"tokens": 1}, {"tokens": 2}, {"tokens": "x"}, {"tokens": "2.5"}],
        customers=np.array([4, 5, 6, 0]),
        times=np.array([40, 50, 60, 70]),
    )
    assert (columns.events, columns.digits, columns.wide) == (2, 1, False)
    assert np.frombuffer(columns.customers, "<i8").tolist() == [4, 0]
    assert np.frombuffer(columns.times, "<i8").tolist() == [40, 70]
    assert columns.unknown == b'[[1,"d"]]'
    assert (columns.first_micros, columns.last_micros) == (40, 70)


def brute(aggregation: str, events: list[tuple], lines: list[tuple]) -> list[Fraction]:
    """The obvious way: for each line, look at every event."""
    answer = []
    for customer, start, end in lines:
        mine = [each for each in events if each[0] == customer and start <= each[1] < end]
        values = [each[3] for each in mine]
        match aggregation:
            case "count":
                found = Fraction(len(mine))
            case "sum":
                found = sum(values, Fraction(0))
            case "max":
                found = max(values, default=Fraction(0))
            case "min":
                found = min(values, default=Fraction(0))
            case _:
                found = max(mine, key=lambda each: (each[1], each[2]))[3] if mine else Fraction(0)
        answer.append(Fraction(found))
    return answer


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("aggregation", ["count", "sum", "max", "min", "latest"])
def test_aggregates_equal_the_obvious_loop(aggregation, seed):
    chance = random.Random(f"{aggregation}{seed}")
    people = [chance.choice([3, 4, 10**12 + seed]) for _ in range(4)]
    events, blocks = [], []
    for batch in range(6):
        digits = chance.choice([0, 2, 9])
        top = chance.choice([100, 10**17, 2**62, 10**30])
        rows = [
            (chance.choice([*people, 99]), chance.randrange(0, 10 * DAY), chance.randint(-top, top))
            for _ in range(chance.choice([1, 40]))
        ]
        events += [(who, at, batch, Fraction(each, 10**digits)) for who, at, each in rows]
        kind = object if top > 2**62 else np.int64
        blocks.append(
            Block(
                customer=np.array([each[0] for each in rows], dtype=np.int64),
                time_micros=np.array([each[1] for each in rows], dtype=np.int64),
                batch=np.full(len(rows), batch, dtype=np.int64),
                quantity=np.array([each[2] for each in rows], dtype=kind),
                digits=digits,
            )
        )
    lines = []
    for _ in range(30):
        start = chance.randrange(0, 9 * DAY)
        lines.append((chance.choice(people), start, start + chance.choice([0, DAY, 5 * DAY])))
    index = WindowIndex(
        customer=np.array([each[0] for each in lines], dtype=np.int64),
        start_micros=np.array([each[1] for each in lines], dtype=np.int64),
        end_micros=np.array([each[2] for each in lines], dtype=np.int64),
    )
    chance.shuffle(blocks)
    tally = Tally(aggregation=Aggregation(aggregation), lines=len(lines))
    for block in blocks:
        for line, position in index.find(customer=block.customer, time_micros=block.time_micros):
            tally.add(line=line, position=position, block=block)
    found = [Fraction(int(each), 10**tally.digits) for each in tally.mantissa]
    assert found == brute(aggregation, events, lines)


def test_a_window_holds_its_start_and_not_its_end():
    index = WindowIndex(
        customer=np.array([1, 1]),
        start_micros=np.array([0, 10]),
        end_micros=np.array([10, 20]),
    )
    found = [
        (int(line), int(position))
        for lines, positions in index.find(
            customer=np.array([1, 1, 1, 1]), time_micros=np.array([0, 9, 10, 20])
        )
        for line, position in zip(lines, positions, strict=True)
    ]
    assert found == [(0, 0), (0, 1), (1, 2)]


def test_sums_that_leave_64_bits_do_not_wrap():
    tally = Tally(aggregation=Aggregation.SUM, lines=1)
    block = Block(
        customer=np.zeros(4, dtype=np.int64),
        time_micros=np.zeros(4, dtype=np.int64),
        batch=np.zeros(4, dtype=np.int64),
        quantity=np.full(4, 2**62, dtype=np.int64),
        digits=0,
    )
    for _ in range(3):
        tally.add(line=np.zeros(4, dtype=np.int64), position=np.arange(4), block=block)
    assert int(tally.mantissa[0]) == 12 * 2**62


def test_copy_format_is_what_postgresql_reads():
    raw = encode_copy([np.array([1], dtype=np.int32), np.array([[2, 3]], dtype=np.uint64)])
    assert raw == (
        b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\0\2" + b"\0\0\0\4" + b"\0\0\0\1"
        b"\0\0\0\x10" + b"\0" * 7 + b"\2" + b"\0" * 7 + b"\3" + b"\xff\xff"
    )


def test_days_of_a_window_are_counted_from_the_customers_midnight():
    from metering.model import UsageWindow
    from metering.windows import cut

    start = datetime(2026, 3, 28, 12, tzinfo=UTC)
    periods = cut(
        start=start,
        end=start + timedelta(days=2),
        window=UsageWindow.DAY,
        timezone="Europe/Berlin",
    )
    assert [each.end - each.start for each in periods] == [
        timedelta(hours=11),
        timedelta(hours=23),
        timedelta(hours=14),
    ]
