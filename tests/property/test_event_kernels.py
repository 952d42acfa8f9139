"""Events and matrix cells against the oracle, and explain against every kernel."""

import random
from collections import Counter
from fractions import Fraction
from functools import partial

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.money import Rounding
from plans.prices import Price
from rating.dimensions import Feed, feed_of, matrix_row
from rating.explain import explain
from rating.matrix import rate_cells
from rating.percentage import rate_events
from rating.rate import Quantities, rate
from rating.tables import compile_prices
from tests.property import oracle, price_lists

LINES = 100
DIGITS = [2, 0, 6, 9, 12]


class PriceList:
    """Twelve prices of one feed, and random lines over them."""

    def __init__(self, seed: int, feed: Feed, lines: int = LINES, *, usual: bool = False):
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.digits = DIGITS[seed % 5]
        self.rounding = [Rounding.HALF_UP, Rounding.HALF_EVEN][seed // 5 % 2]
        make = {
            Feed.EVENTS: price_lists.percentage,
            Feed.CELLS: partial(price_lists.matrix, usual=usual),
            Feed.QUANTITY: price_lists.price,
        }[feed]
        self.currencies = [chance.choice(price_lists.CURRENCIES) for _ in range(12)]
        fineness = min(self.digits, 9)
        self.bodies = [
            make(chance, f"p{index}", currency, fineness)
            for index, currency in enumerate(self.currencies)
        ]
        self.prices = [msgspec.convert(body, Price) for body in self.bodies]
        self.tables = compile_prices(prices=self.prices, currencies=self.currencies)
        self.rows = [chance.randrange(12) for _ in range(lines)]
        self.shares = [
            (1, 1) if chance.random() < 0.8 else (chance.randint(0, 31), 31) for _ in self.rows
        ]
        self.price = np.array(self.rows, dtype=np.int32)
        self.above = np.array([share[0] for share in self.shares], dtype=np.int64)
        self.below = np.array([share[1] for share in self.shares], dtype=np.int64)

    def ratio(self, value: int) -> Fraction:
        return Fraction(value, 10**self.digits)

    def quantities(self, mantissas: list[int]) -> Quantities:
        fits = all(abs(value) < 2**63 for value in mantissas)
        array = np.array(mantissas, dtype=np.int64 if fits else object)
        return Quantities(mantissa=array, digits=self.digits)

    def common(self) -> dict:
        return {
            "tables": self.tables,
            "price": self.price,
            "rounding": self.rounding,
            "fraction_numerator": self.above,
            "fraction_denominator": self.below,
        }

    def check(self, got: np.ndarray, wanted: list[int], used: list) -> None:
        wrong = [
            (self.bodies[row], self.currencies[row], self.digits, share, values, mine, theirs)
            for row, share, values, mine, theirs in zip(
                self.rows, self.shares, used, got.tolist(), wanted, strict=True
            )
            if mine != theirs
        ]
        assert not wrong, f"seed {self.seed}: {len(wrong)} of {len(wanted)} differ, {wrong[0]}"

    def rated(self, exact, used: list, nothing) -> list[int]:
        """The oracle's amounts; lines that no column could hold are emptied."""
        wanted = []
        for line, (row, share) in enumerate(zip(self.rows, self.shares, strict=True)):
            place = (Fraction(*share), self.currencies[row])
            amount = oracle.rounded(exact(self.bodies[row], used[line], *place), self.rounding)
            if amount >= 2**63:
                used[line] = nothing
                amount = exact(self.bodies[row], nothing, *place)
                amount = oracle.rounded(amount, self.rounding)
            wanted.append(amount)
        return wanted


def offsets(used: list) -> np.ndarray:
    return np.cumsum([0, *map(len, used)], dtype=np.int64)


def event_batch(seed: int) -> PriceList:
    listed = PriceList(seed, Feed.EVENTS)
    used = [
        price_lists.event_values(listed.chance, listed.bodies[row], listed.digits)
        for row in listed.rows
    ]

    def exact(body, values, share, currency):
        return oracle.events_minor(body, list(map(listed.ratio, values)), share, currency)

    wanted = listed.rated(exact, used, [])
    got = rate_events(
        **listed.common(),
        offsets=offsets(used),
        values=listed.quantities([value for values in used for value in values]),
    )
    listed.check(got, wanted, used)
    return listed


def cell_batch(seed: int, *, usual: bool = False) -> PriceList:
    listed = PriceList(seed, Feed.CELLS, usual=usual)
    chance, digits = listed.chance, listed.digits
    used = [
        price_lists.usual_cells(chance, digits)
        if usual
        else price_lists.cell_values(chance, listed.bodies[row], digits)
        for row in listed.rows
    ]

    def exact(body, cells, share, currency):
        pairs = [(dimensions, listed.ratio(value)) for dimensions, value in cells]
        return oracle.cells_minor(body, pairs, share, currency)

    wanted = listed.rated(exact, used, [])
    matched = [
        matrix_row(price=listed.prices[row], dimensions=dimensions)
        for row, cells in zip(listed.rows, used, strict=True)
        for dimensions, _ in cells
    ]
    got = rate_cells(
        **listed.common(),
        offsets=offsets(used),
        row=np.array(matched, dtype=np.int32),
        quantity=listed.quantities([value for cells in used for _, value in cells]),
    )
    listed.check(got, wanted, used)
    return listed


def test_twenty_five_thousand_lines_of_events_agree_with_the_oracle():
    for seed in range(250):
        event_batch(seed)


def test_twenty_five_thousand_lines_of_cells_agree_with_the_oracle_in_every_lane():
    lanes = Counter(name for seed in range(250) for name, _ in cell_batch(seed).tables.lanes)
    assert {"cells, plain", "cells, limbs", "cells, objects"} <= lanes.keys()


def test_five_thousand_lines_of_usual_cells_agree_with_the_oracle():
    for seed in range(50):
        cell_batch(seed, usual=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_half_a_million_lines_of_events_and_cells_agree_with_the_oracle():
    for seed in range(1000, 3500):
        event_batch(seed)
        cell_batch(seed)


@given(seed=st.integers(10**6, 10**12))
@settings(max_examples=40, deadline=None)
def test_any_list_of_percentages_and_matrices_agrees_with_the_oracle(seed):
    event_batch(seed)
    cell_batch(seed)


def test_models_that_need_no_single_event_are_rated_on_their_sum():
    for seed in range(20):
        listed = PriceList(seed, Feed.QUANTITY, lines=50)
        used = [
            price_lists.event_values(listed.chance, listed.bodies[row], listed.digits)
            for row in listed.rows
        ]

        def exact(body, values, share, currency, listed=listed):
            return oracle.events_minor(body, list(map(listed.ratio, values)), share, currency)

        wanted = listed.rated(exact, used, [])
        got = rate_events(
            **listed.common(),
            offsets=offsets(used),
            values=listed.quantities([value for values in used for value in values]),
        )
        listed.check(got, wanted, used)


def explained(seed: int, feed: Feed) -> int:
    """Lines of one list by their kernel and by explain, to the minor unit; gives their number."""
    listed = PriceList(seed, feed, lines=60)
    chance, cells, rows = listed.chance, [], []
    used: list[list[int]] = []
    for row in listed.rows:
        body = listed.bodies[row]
        if feed is Feed.CELLS:
            cells.append(price_lists.cell_values(chance, body, listed.digits))
            rows.append([matrix_row(price=listed.prices[row], dimensions=d) for d, _ in cells[-1]])
            used.append([value for _, value in cells[-1]])
        elif feed is Feed.EVENTS:
            used.append(price_lists.event_values(chance, body, listed.digits))
        else:
            used.append([price_lists.mantissa(chance, body, listed.digits)])
    traces = []
    for line, row in enumerate(listed.rows):
        share, values = Fraction(*listed.shares[line]), [listed.ratio(x) for x in used[line]]
        traces.append(
            explain(
                price=listed.prices[row],
                currency=listed.currencies[row],
                rounding=listed.rounding,
                fraction=share,
                quantity=values[0] if feed is Feed.QUANTITY else Fraction(0),
                events=values if feed is Feed.EVENTS else (),
                cells=list(zip(rows[line], values, strict=True)) if feed is Feed.CELLS else (),
            )
        )
    assert all(feed_of(price=price) is feed for price in listed.prices)
    kept = [line for line, trace in enumerate(traces) if trace.rounded_minor < 2**63]
    mantissas = listed.quantities([value for line in kept for value in used[line]])
    common = listed.common() | {
        "price": listed.price[kept],
        "fraction_numerator": listed.above[kept],
        "fraction_denominator": listed.below[kept],
    }
    ends = offsets([used[line] for line in kept])
    match feed:
        case Feed.QUANTITY:
            got = rate(**common, quantity=mantissas)
        case Feed.EVENTS:
            got = rate_events(**common, offsets=ends, values=mantissas)
        case Feed.CELLS:
            places = np.array([place for line in kept for place in rows[line]], dtype=np.int32)
            got = rate_cells(**common, offsets=ends, row=places, quantity=mantissas)
    assert got.tolist() == [traces[line].rounded_minor for line in kept], f"seed {seed}"
    for trace in traces:
        gross = sum((Fraction(step.amount) for step in trace.steps), Fraction(0))
        assert max(gross, Fraction(0)) == Fraction(trace.gross)
        if trace.limited_by is None:
            assert Fraction(trace.gross) * Fraction(trace.share) == Fraction(trace.exact)
        else:
            assert Fraction(trace.exact) == Fraction(getattr(trace, trace.limited_by))
    return len(kept)


def test_explain_agrees_with_the_kernels_on_twenty_thousand_lines():
    lines = sum(explained(seed, feed) for seed in range(115) for feed in Feed)
    assert lines > 20_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_explain_agrees_with_the_kernels_on_a_hundred_thousand_lines():
    lines = sum(explained(seed, feed) for seed in range(1000, 1575) for feed in Feed)
    assert lines > 100_000
