"""Every aggregation over random blocks and windows against loops over single events."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.aggregation import Block, round_quantities
from metering.tallies import Spans, _Percentile, _Unique, finished, running_aggregate
from metering.window_index import WindowIndex
from plans.model import Aggregation
from plans.prices import QuantityRounding
from tests import metering_oracle
from tests.unit.test_metering_columns import meter

TIMES = st.integers(0, 1_000)
VALUES = st.one_of(
    st.integers(-9, 9),
    st.integers(-(2**62), 2**62),
    st.integers(-(10**30), 10**30),
)
BLOCKS = st.lists(
    st.tuples(
        st.sampled_from([0, 2, 9, 12]),
        st.lists(st.tuples(TIMES, VALUES, st.integers(0, 4)), min_size=1, max_size=12),
    ),
    max_size=5,
)
WINDOWS = st.lists(
    st.tuples(TIMES, st.integers(0, 600), st.integers(0, 300), st.integers(0, 500)),
    min_size=1,
    max_size=5,
)
ROUNDINGS = st.one_of(
    st.none(),
    st.builds(
        QuantityRounding, mode=st.sampled_from(["up", "down", "half_up"]), digits=st.integers(-3, 9)
    ),
)
OPTIONS = {
    "unique_count": {"value": None, "unique_by": "host"},
    "percentile": {"percentile": "95"},
    "count": {"value": None},
}


def one(aggregation: str, **fields):
    named = {"value": "tokens"} | OPTIONS.get(aggregation, {}) | fields
    return meter(aggregation, **named)


def told(each, blocks, windows):
    """(quantities by the code, quantities by the oracle) of windows (start, length, before, more).

    A window is [start, start + length) of a billing period that begins `before` and ends `more`.
    """
    start = np.array([each[0] for each in windows], dtype=np.int64)
    end = start + np.array([each[1] for each in windows], dtype=np.int64)
    since = start - np.array([each[2] for each in windows], dtype=np.int64)
    whole = np.maximum(end - since + np.array([each[3] for each in windows]), 1)
    level = each.aggregation is Aggregation.WEIGHTED_SUM
    opens = since if level else start
    opens = np.full(len(start), -1) if level and each.carry_over else opens
    index = WindowIndex(
        customer=np.ones(len(start), dtype=np.int64),
        start_micros=np.where(start < end, opens, end),
        end_micros=end,
    )
    aggregate = running_aggregate(meter=each, spans=Spans(start=start, end=end, whole=whole))
    aggregate.grow(lines=len(windows))
    facts, place = [], 0
    for batch, (digits, rows) in enumerate(blocks):
        kind = object if max(abs(value) for _, value, _ in rows) > 2**63 - 1 else np.int64
        counts = each.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}
        block = Block(
            customer=np.ones(len(rows), dtype=np.int64),
            time_micros=np.array([at for at, _, _ in rows], dtype=np.int64),
            batch=np.full(len(rows), batch, dtype=np.int64),
            quantity=None if counts else np.array([value for _, value, _ in rows], dtype=kind),
            digits=digits,
            member=np.array([text for _, _, text in rows], dtype=np.int64),
        )
        for at, value, text in rows:
            facts.append((at, place, Fraction(value, 10**digits), str(text)))
            place += 1
        for line, position in index.find(customer=block.customer, time_micros=block.time_micros):
            aggregate.add(line=line, span=line, position=position, block=block)
    values, digits = finished(meter=each, aggregate=aggregate)
    found = [Fraction(int(value), 10**digits) for value in values]
    wanted = [
        metering_oracle.quantity(
            each, facts, start=int(opens), end=int(closes), since=int(first), whole=int(length)
        )
        for opens, closes, first, length in zip(start, end, since, whole, strict=True)
    ]
    return found, wanted


@pytest.mark.parametrize("aggregation", list(Aggregation))
@settings(max_examples=25, deadline=None)
@given(blocks=BLOCKS, windows=WINDOWS, rounding=ROUNDINGS, carry_over=st.booleans())
def test_aggregates_equal_the_loop(aggregation, blocks, windows, rounding, carry_over):
    carried = carry_over and aggregation is Aggregation.WEIGHTED_SUM
    each = one(aggregation, rounding=rounding, carry_over=carried)
    found, wanted = told(each, blocks, windows)
    assert found == wanted


@settings(max_examples=25, deadline=None)
@given(
    blocks=BLOCKS,
    windows=WINDOWS,
    percentile=st.sampled_from(["0.000000000001", "1", "50", "66.6", "99.999999999999", "100"]),
)
def test_percentiles_are_by_nearest_rank(blocks, windows, percentile):
    found, wanted = told(one("percentile", percentile=percentile), blocks, windows)
    assert found == wanted


@settings(max_examples=25, deadline=None)
@given(blocks=BLOCKS, windows=WINDOWS, aggregation=st.sampled_from(["percentile", "unique_count"]))
def test_compacting_on_the_way_changes_nothing(blocks, windows, aggregation):
    """However early what is held gets merged."""

    class Hasty(_Percentile if aggregation == "percentile" else _Unique):
        def add(self, **fields):
            super().add(**fields)
            self._compact()

    each = one(aggregation)
    arguments = (Fraction(95),) if aggregation == "percentile" else ()
    hasty, patient = Hasty(*arguments), running_aggregate(meter=each, spans=_no_spans())
    for number, (digits, rows) in enumerate(blocks):
        kind = object if max(abs(value) for _, value, _ in rows) > 2**63 - 1 else np.int64
        block = Block(
            customer=np.ones(len(rows), dtype=np.int64),
            time_micros=np.array([at for at, _, _ in rows], dtype=np.int64),
            batch=np.full(len(rows), number, dtype=np.int64),
            quantity=np.array([value for _, value, _ in rows], dtype=kind),
            digits=digits,
            member=np.array([text for _, _, text in rows], dtype=np.int64),
        )
        line = np.array([at % len(windows) for at, _, _ in rows], dtype=np.int64)
        for aggregate in (hasty, patient):
            aggregate.grow(lines=len(windows))
            aggregate.add(line=line, span=line, position=np.arange(len(rows)), block=block)
    ours, digits = hasty.quantities()
    others, also = patient.quantities()
    assert (ours.tolist(), digits) == (others.tolist(), also)


def _no_spans() -> Spans:
    empty = np.empty(0, dtype=np.int64)
    return Spans(start=empty, end=empty, whole=empty)


def test_a_level_that_leaves_64_bits_does_not_wrap():
    month = 31 * 86_400_000_000
    spans = Spans(start=np.array([0]), end=np.array([month]), whole=np.array([month]))
    aggregate = running_aggregate(meter=one("weighted_sum"), spans=spans)
    aggregate.grow(lines=1)
    block = Block(
        customer=np.ones(3, dtype=np.int64),
        time_micros=np.array([0, month // 3, month // 2]),
        batch=np.zeros(3, dtype=np.int64),
        quantity=np.array([10**17, -(10**17), 1], dtype=np.int64),
        digits=0,
    )
    zeros = np.zeros(3, dtype=np.int64)
    aggregate.add(line=zeros, span=zeros, position=np.arange(3), block=block)
    found, digits = aggregate.quantities()
    expected = Fraction(10**17, 3) + Fraction(1, 2)
    assert Fraction(int(found[0]), 10**digits) == metering_oracle.half_away(expected, digits=9)


def test_what_is_over_is_no_usage():
    """A level that was, and is nothing before the window begins; one that stands; one in it."""
    spans = Spans(start=np.array([100] * 3), end=np.array([200] * 3), whole=np.array([100] * 3))
    aggregate = running_aggregate(meter=one("weighted_sum", carry_over=True), spans=spans)
    aggregate.grow(lines=3)
    block = Block(
        customer=np.ones(5, dtype=np.int64),
        time_micros=np.array([10, 20, 30, 110, 120]),
        batch=np.zeros(5, dtype=np.int64),
        quantity=np.array([5, -5, 4, 1, -1], dtype=np.int64),
        digits=0,
    )
    line = np.array([0, 0, 1, 2, 2])
    aggregate.add(line=line, span=line, position=np.arange(5), block=block)
    assert aggregate.has_usage().tolist() == [False, True, True]
    assert aggregate.quantities()[0].tolist() == [0, 4 * 10**9, 10**8]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-(10**22), 10**22), min_size=1, max_size=6),
    digits=st.integers(0, 12),
    rounding=ROUNDINGS.filter(lambda each: each is not None),
)
def test_quantities_are_rounded_by_their_distance_from_zero(values, digits, rounding):
    wide = max(map(abs, values)) > 2**63 - 1
    column = np.array(values, dtype=object if wide else np.int64)
    found, after = round_quantities(values=column, digits=digits, rounding=rounding)
    assert [Fraction(int(each), 10**after) for each in found] == [
        metering_oracle.rounded(
            Fraction(each, 10**digits), mode=rounding.mode, digits=rounding.digits
        )
        for each in values
    ]
