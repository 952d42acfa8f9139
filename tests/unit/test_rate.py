"""What the property tests do not name: errors, lanes, shapes."""

from fractions import Fraction

import msgspec
import numpy as np
import pytest

from engine.errors import BillingError
from engine.money import Rounding
from plans.prices import Price
from rating.exact import ratio_text
from rating.explain import TierStep, tier_detail
from rating.rate import BLOCK, Quantities, rate
from rating.tables import compile_prices


def price(**fields) -> Price:
    return msgspec.convert({"key": "p", "kind": "usage", **fields}, Price)


def rated(prices, rows, mantissas, digits=0, dtype=np.int64):
    count = len(rows)
    return rate(
        tables=compile_prices(prices=prices, currencies=["USD"] * len(prices)),
        price=np.array(rows, dtype=np.int32),
        quantity=Quantities(mantissa=np.array(mantissas, dtype=dtype), digits=digits),
        fraction_numerator=np.ones(count, dtype=np.int64),
        fraction_denominator=np.ones(count, dtype=np.int64),
        rounding=Rounding.HALF_UP,
    ).tolist()


def test_no_lines_give_no_amounts():
    assert rated([price(model="flat", flat_amount="1.00")], [], []) == []


@pytest.mark.parametrize("dtype", [np.int64, object])
def test_an_amount_beyond_int64_names_its_line(dtype):
    dear = price(model="per_unit", unit_amount="100000000000000000")
    rows = [0] * (BLOCK + 3)
    mantissas = [0] * (BLOCK + 2) + [10]
    with pytest.raises(BillingError) as failure:
        rated([dear], rows, mantissas, dtype=dtype)
    assert failure.value.code == "amount_out_of_range"
    assert f"line {BLOCK + 2} " in failure.value.detail


def test_the_largest_amount_passes():
    unit = price(model="per_unit", unit_amount="0.01")
    assert rated([unit], [0], [2**63 - 1]) == [2**63 - 1]


def test_one_line_too_wide_for_a_lane_leaves_its_neighbours_right():
    cheap = price(model="per_unit", unit_amount="0.000000000001")
    dear = price(model="per_unit", unit_amount="123456789.123456789")
    mantissas = [5 * 10**17, 2 * 10**9, 7 * 10**18, 3]
    assert rated([cheap, dear], [0, 1, 0, 1], mantissas, digits=9) == [
        0,
        24691357825,
        1,
        37,
    ]


@pytest.mark.parametrize(
    "tiers",
    [
        [],
        [{"up_to": "5"}],
        [{"up_to": None}, {"up_to": None}],
        [{"up_to": "5"}, {"up_to": "5"}, {"up_to": None}],
    ],
)
def test_tiers_that_do_not_ascend_to_an_open_one_are_refused(tiers):
    broken = price(model="graduated", tiers=tiers)
    with pytest.raises(BillingError) as failure:
        compile_prices(prices=[broken], currencies=["USD"])
    assert failure.value.code == "invalid_price"


def test_a_trace_names_each_tier_reached():
    graduated = price(
        model="graduated",
        tiers=[
            {"up_to": "10", "unit_amount": "1.5", "flat_amount": "2.00"},
            {"up_to": None, "unit_amount": "0.1"},
        ],
    )
    assert tier_detail(price=graduated, quantity=Fraction(25, 2), fraction=Fraction(1)) == (
        TierStep(label="tier 1", units="10", unit_amount="1.5", flat_amount="2", amount="17"),
        TierStep(label="tier 2", units="2.5", unit_amount="0.1", flat_amount="0", amount="0.25"),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(0), "0"),
        (Fraction(1300), "1300"),
        (Fraction(-5, 4), "-1.25"),
        (Fraction(1, 3), "1/3"),
        (Fraction(7, 10**12), "0.000000000007"),
    ],
)
def test_a_ratio_is_written_as_a_decimal_where_one_is_exact(value, text):
    assert ratio_text(value) == text
