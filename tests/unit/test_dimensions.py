from fractions import Fraction

import msgspec
import numpy as np
import pytest

from engine.errors import BillingError
from engine.money import Rounding
from plans.prices import Price
from rating.dimensions import (
    OWN_UNIT_AMOUNT,
    Feed,
    dimensions_of,
    feed_of,
    group_limit_adjustment,
    group_of,
    matrix_row,
)
from rating.matrix import rate_cells
from rating.percentage import rate_events
from rating.rate import AmountOutOfRangeError, Quantities, rate
from rating.tables import compile_prices


def price(**fields) -> Price:
    return msgspec.convert({"key": "p", "kind": "usage", **fields}, Price)


def matrix(**fields) -> Price:
    rows = [
        {"match": {"region": "eu", "size": "large"}, "unit_amount": "3"},
        {"match": {"size": "large"}, "unit_amount": "2"},
    ]
    return price(model="matrix", matrix=rows, unit_amount="1", **fields)


@pytest.mark.parametrize(
    ("some", "feed", "names"),
    [
        (price(model="dynamic"), Feed.QUANTITY, ()),
        (price(model="percentage", rate="1"), Feed.EVENTS, ()),
        (price(model="percentage", rate="1", group_by=["shop"]), Feed.EVENTS, ("shop",)),
        (matrix(), Feed.CELLS, ("region", "size")),
        (matrix(group_by=["size", "shop"]), Feed.CELLS, ("size", "shop", "region")),
    ],
)
def test_a_price_says_what_it_is_rated_from(some, feed, names):
    assert (feed_of(price=some), dimensions_of(price=some)) == (feed, names)


@pytest.mark.parametrize(
    ("dimensions", "row"),
    [
        ({"region": "eu", "size": "large"}, 0),
        ({"region": "us", "size": "large"}, 1),
        ({"size": "large"}, 1),
        ({"region": "eu", "size": "Large"}, OWN_UNIT_AMOUNT),
        ({}, OWN_UNIT_AMOUNT),
    ],
)
def test_the_first_row_that_matches_is_taken(dimensions, row):
    assert matrix_row(price=matrix(), dimensions=dimensions) == row


def test_a_group_without_the_property_is_the_empty_one():
    some = price(model="dynamic", group_by=["shop", "till"])
    assert group_of(price=some, dimensions={"till": "3", "more": "x"}) == ("", "3")


@pytest.mark.parametrize(
    ("limits", "lines", "difference"),
    [
        ({}, [5, 6], 0),
        ({"minimum_amount": "0.12"}, [5, 6], 1),
        ({"minimum_amount": "0.12"}, [], 12),
        ({"maximum_amount": "0.10"}, [5, 6], -1),
        ({"minimum_amount": "0.05", "maximum_amount": "0.20"}, [5, 6], 0),
        ({"minimum_amount": "0.30", "prorate_tiers": True}, [5, 6], 4),
        ({"minimum_amount": "0.30"}, [5, 6], 19),
    ],
)
def test_limits_over_groups_are_a_line_of_their_own(limits, lines, difference):
    assert (
        group_limit_adjustment(
            price=price(model="dynamic", group_by=["shop"], **limits),
            currency="USD",
            lines_minor=lines,
            rounding=Rounding.HALF_UP,
            fraction=Fraction(1, 2),
        )
        == difference
    )


def test_without_groups_the_line_has_its_limits_in_it():
    some = price(model="dynamic", minimum_amount="5.00")
    adjustment = group_limit_adjustment(
        price=some, currency="USD", lines_minor=[500], rounding=Rounding.HALF_UP
    )
    assert adjustment == 0


NOTHING = np.zeros(1, dtype=np.int64)


def test_no_lines_and_no_events_give_no_amounts():
    tables = compile_prices(prices=[price(model="percentage", rate="1")], currencies=["USD"])
    amounts = rate_events(
        tables=tables,
        price=np.zeros(0, dtype=np.int32),
        offsets=NOTHING,
        values=Quantities(mantissa=np.zeros(0, dtype=np.int64), digits=0),
        rounding=Rounding.HALF_UP,
    )
    assert amounts.tolist() == []


def test_a_kernel_is_never_fed_the_wrong_thing():
    tables = compile_prices(prices=[matrix()], currencies=["USD"])
    one = np.ones(1, dtype=np.int64)
    with pytest.raises(AssertionError):
        rate(
            tables=tables,
            price=np.zeros(1, dtype=np.int32),
            quantity=Quantities(mantissa=one, digits=0),
            fraction_numerator=one,
            fraction_denominator=one,
            rounding=Rounding.HALF_UP,
        )


@pytest.mark.parametrize("dtype", [np.int64, object])
def test_an_amount_beyond_int64_names_its_line(dtype):
    huge = 9 * 10**18
    both = [
        price(model="percentage", rate="100", fixed_amount="1"),
        price(model="matrix", matrix=[], unit_amount="1"),
    ]
    tables = compile_prices(prices=both, currencies=["USD", "USD"])
    values = Quantities(mantissa=np.array([1, huge], dtype=dtype), digits=0)
    offsets = np.array([0, 1, 2], dtype=np.int64)
    with pytest.raises(BillingError) as of_events:
        rate_events(
            tables=tables,
            price=np.array([0, 0], dtype=np.int32),
            offsets=offsets,
            values=values,
            rounding=Rounding.HALF_UP,
        )
    with pytest.raises(BillingError) as of_cells:
        rate_cells(
            tables=tables,
            price=np.array([1, 1], dtype=np.int32),
            offsets=offsets,
            row=np.array([-1, -1], dtype=np.int32),
            quantity=values,
            rounding=Rounding.HALF_UP,
        )
    for failure in (of_events, of_cells):
        assert failure.value.code == "amount_out_of_range"
        assert "line 1 " in failure.value.detail


def test_among_prices_of_several_kinds_the_line_is_that_of_the_call():
    both = [price(model="percentage", rate="100"), price(model="per_unit", unit_amount="1")]
    tables = compile_prices(prices=both, currencies=["USD", "USD"])
    for dear in range(4):
        mantissa = np.array([1] * dear + [9 * 10**18] + [1] * (3 - dear), dtype=np.int64)
        with pytest.raises(AmountOutOfRangeError) as failure:
            rate_events(
                tables=tables,
                price=np.array([0, 1, 0, 1], dtype=np.int32),
                offsets=np.arange(5, dtype=np.int64),
                values=Quantities(mantissa=mantissa, digits=0),
                rounding=Rounding.HALF_UP,
            )
        assert failure.value.line == dear


def test_a_line_of_very_many_events_is_summed_exactly():
    tables = compile_prices(
        prices=[
            price(model="percentage", rate="0.000000000001", event_minimum="0.000000000001"),
            price(model="matrix", matrix=[], unit_amount="0.000000000001"),
        ],
        currencies=["JPY", "JPY"],
    )
    count = 40_000
    values = Quantities(mantissa=np.full(count, 10**12, dtype=np.int64), digits=0)
    offsets = np.array([0, 0, count, count], dtype=np.int64)
    amounts = rate_events(
        tables=tables,
        price=np.zeros(3, dtype=np.int32),
        offsets=offsets,
        values=values,
        rounding=Rounding.HALF_UP,
    )
    assert amounts.tolist() == [0, count // 100, 0]
    amounts = rate_cells(
        tables=tables,
        price=np.ones(3, dtype=np.int32),
        offsets=offsets,
        row=np.full(count, -1, dtype=np.int32),
        quantity=values,
        rounding=Rounding.HALF_UP,
    )
    assert amounts.tolist() == [0, count, 0]


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "percentage", "rate": "1", "included_quantity": "5"},
        {"model": "percentage", "rate": "1", "quantity_rounding": {"mode": "up"}},
        {"model": "matrix", "matrix": [], "unit_amount": "1", "included_quantity": "5"},
    ],
)
def test_options_without_a_meaning_are_refused(fields):
    with pytest.raises(BillingError) as failure:
        compile_prices(prices=[price(**fields)], currencies=["USD"])
    assert failure.value.code == "invalid_price"
