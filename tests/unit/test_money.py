import pytest

from engine.errors import BillingError
from engine.money import (
    Rounding,
    format_amount,
    format_plain,
    parse_amount,
    parse_scaled,
    round_ratio,
    split_largest_remainder,
)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [("49.00", "USD", 4900), ("-0.05", "USD", -5), ("5000", "JPY", 5000), ("1.234", "KWD", 1234)],
)
def test_amounts_read_and_write(text, currency, minor):
    assert parse_amount(text, currency=currency) == minor
    assert format_amount(minor, currency=currency) == text


@pytest.mark.parametrize(
    "text", ["", "1e3", "NaN", "+1", ".5", "1.", "1,000", " 1", "1\n", "١", "1" * 19]
)
def test_other_ways_to_write_a_number_are_refused(text):
    with pytest.raises(BillingError) as failure:
        parse_scaled(text, digits=12)
    assert failure.value.code == "invalid_decimal"


def test_an_amount_finer_than_its_currency_is_refused_but_zeros_are_not():
    assert parse_amount("1.500", currency="USD") == 150
    with pytest.raises(BillingError):
        parse_amount("1.501", currency="USD")


def test_plain_text_drops_zeros_after_the_point_only():
    assert format_plain(1500, digits=2) == "15"
    assert format_plain(1500, digits=0) == "1500"
    assert format_plain(-1, digits=3) == "-0.001"


@pytest.mark.parametrize(
    ("numerator", "half_up", "half_even"), [(5, 3, 2), (7, 4, 4), (-5, -3, -2), (1, 1, 0)]
)
def test_ties_go_away_from_zero_or_to_even(numerator, half_up, half_even):
    assert round_ratio(numerator, 2, rounding=Rounding.HALF_UP) == half_up
    assert round_ratio(numerator, 2, rounding=Rounding.HALF_EVEN) == half_even


def test_what_a_split_leaves_goes_to_the_largest_remainder_and_then_to_the_earlier():
    assert split_largest_remainder(100, [1, 1, 1]) == [34, 33, 33]
    assert split_largest_remainder(-100, [1, 1, 1]) == [-34, -33, -33]
    assert split_largest_remainder(5, [0, 3, 7]) == [0, 2, 3]


@pytest.mark.parametrize("weights", [[0, 0], [2, -1]])
def test_a_split_needs_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        split_largest_remainder(1, weights)
