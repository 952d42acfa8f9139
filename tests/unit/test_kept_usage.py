"""Sums that are kept are found by customer, start and end together, and in no other case."""

import numpy as np
import pytest

from metering import kept_usage
from metering.kept_usage import KeptUsage, may_keep, shortened
from metering.model import Windows
from plans.model import Aggregation, LateUsage
from tests.unit.test_metering_columns import meter

EXPECTED = [(9, 0, 10), (3, 5, 20), (7, 4, 4), (3, 0, 5), (5, 1, 2)]
"""Of 3 the first counts; that of 7 is empty."""


def column(values, kind=np.int64):
    return np.array(values, dtype=kind)


def kept(windows=EXPECTED):
    one = KeptUsage()
    customer, start, end = (column(each) for each in zip(*windows, strict=True))
    one.expect(customer=customer, start_micros=start, end_micros=end)
    return one


def places(one, *asked):
    customer, start, end = (column(each) for each in zip(*asked, strict=True))
    windows = Windows(
        meter=np.zeros(len(asked), dtype=np.int32),
        customer=customer,
        start_micros=start,
        end_micros=end,
    )
    return one.places(windows=windows, lines=np.arange(len(asked))).tolist()


def test_a_window_is_found_where_all_of_it_was_expected():
    one = kept()
    assert one.customer.tolist() == [3, 5, 9]
    asked = [(9, 0, 10), (3, 5, 20), (3, 0, 5), (3, 5, 19), (3, 4, 20), (7, 4, 4), (1, 0, 1)]
    assert places(one, *asked, (99, 0, 1), (5, 1, 2)) == [2, 0, -1, -1, -1, -1, -1, -1, 1]
    foreseen = one.foresaw(customer=column([3, 3, 9, 8]), end_micros=column([20, 5, 10, 10]))
    assert foreseen.tolist() == [True, False, True, False]


def test_nothing_is_found_where_nothing_is_expected():
    one = KeptUsage()
    assert places(one, (3, 0, 5)) == [-1]
    assert one.foresaw(customer=column([3]), end_micros=column([5])).tolist() == [False]
    one.expect(customer=column([3]), start_micros=column([5]), end_micros=column([5]))
    assert places(one, (3, 5, 5)) == [-1]


def test_sums_are_told_again_as_long_as_they_are_kept():
    one = kept()
    assert not one.is_known(7)
    one.keep(meter=7, mantissa=column([1500, -20, 30]), digits=2)
    known, values, digits = one.find(meter=7, places=column([2, -1, 0]))
    assert (known.tolist(), values.tolist(), digits) == ([True, False, True], [3, 150], 1)
    assert one.is_known(7)
    assert not one.is_known(8)
    one.forget()
    assert not one.is_known(7)
    assert places(one, (9, 0, 10)) == [-1]


def test_what_is_expected_next_forgets_what_was_known():
    one = kept()
    one.keep(meter=7, mantissa=column([1, 2, 3]), digits=0)
    one.expect(customer=column([3]), start_micros=column([0]), end_micros=column([5]))
    assert not one.is_known(7)


def test_what_is_beyond_64_bits_is_measured_anew():
    one = kept()
    one.keep(meter=7, mantissa=column([2**63, -5, 2**63 - 1], object), digits=0)
    known, values, digits = one.find(meter=7, places=column([0, 1, 2]))
    assert (known.tolist(), values.tolist(), digits) == ([False, True, True], [-5, 2**63 - 1], 0)
    assert values.dtype == np.int64
    one.keep(meter=8, mantissa=column([1, 2, 3], object), digits=0)
    assert one.find(meter=8, places=column([0, 1, 2]))[0].all()


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(kept_usage, "MOST_SUMS", 7)
    one = kept()
    one.keep(meter=7, mantissa=column([1, 2, 3]), digits=0)
    assert one.has_room()
    one.keep(meter=8, mantissa=column([1, 2, 3]), digits=0)
    assert not one.has_room()


@pytest.mark.parametrize(
    ("values", "digits", "told"),
    [
        ([100, 2000], 2, ([1, 20], 0)),
        ([100, 250], 2, ([10, 25], 1)),
        ([-100, 0], 1, ([-10, 0], 0)),
        ([7], 3, ([7], 3)),
        ([], 4, ([], 0)),
    ],
)
def test_digits_that_nobody_needs_are_left_out(values, digits, told):
    found, left = shortened(column(values), digits=digits)
    assert (found.tolist(), left) == told


def test_what_else_decides_a_quantity_is_never_kept():
    unlike = {"percentile": "95"} | {"unique_by": "host"}
    keeps = {each for each in Aggregation if may_keep(meter(each, **unlike))}
    assert keeps == {"count", "sum", "max", "min", "latest"}
    assert not may_keep(meter("sum", late_usage=LateUsage.IGNORE))
