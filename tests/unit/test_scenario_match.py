from decimal import Decimal
from typing import Any

import pytest

from api.scenario_match import differences


def told(expected: Any, actual: Any) -> list[str]:
    return [str(entry) for entry in differences(expected=expected, actual=actual, place="x")]


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("49.00", "49.0"),
        (6000, "6000.000000000"),
        (Decimal("0.10"), "0.1"),
        ("2026-01-01", "2026-01-01T00:00:00Z"),
        ("2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00.000000Z"),
        (["2026-01-01", "2026-02-01"], ["2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"]),
        ({"status": "paid"}, {"status": "paid", "total": "1.00"}),
        ({"discount": None}, {}),
        (None, None),
        (True, True),
    ],
)
def test_the_same_is_the_same_however_written(expected: Any, actual: Any) -> None:
    assert told(expected, actual) == []


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        ("49.00", "49.01"),
        ("49.00", None),
        (1, True),
        ("2026-01-01", "2026-01-02T00:00:00Z"),
        ({"status": "paid"}, {"status": "open"}),
        ({"status": "paid"}, {}),
        ([], [{"total": "1.00"}]),
        ([{"total": "1.00"}, {"total": "2.00"}], [{"total": "2.00"}, {"total": "1.00"}]),
        ({"a": 1}, "a"),
    ],
)
def test_what_differs_is_told(expected: Any, actual: Any) -> None:
    assert len(told(expected, actual)) >= 1


FEE = {"price": "fee", "amount": "60.00"}
USAGE = {"price": "units", "amount": "10.00"}


def test_lines_are_complete_in_any_order() -> None:
    actual = {"lines": [FEE, USAGE]}
    assert told({"lines": [{"amount": "10.00"}, {"price": "fee"}]}, actual) == []
    assert told({"lines": [{"price": "fee"}]}, actual) == [
        "x.lines: expected no more, got [{price: units}]"
    ]
    assert told({"lines_include": [{"price": "fee"}]}, actual) == []
    assert told({"lines_include": [{"price": "seat"}]}, actual) != []


def test_each_line_answers_one_expectation_only() -> None:
    assert told({"lines": [{"price": "fee"}, {"price": "fee"}]}, {"lines": [FEE, USAGE]}) != []


def test_a_vague_line_leaves_the_one_that_another_needs() -> None:
    # The first expectation fits both lines, the second only one of them.
    expected = {"lines": [{"price": "fee"}, {"price": "fee", "amount": "60.00"}]}
    actual = {"lines": [FEE, {"price": "fee", "amount": "-30.00"}]}
    assert told(expected, actual) == []


def test_a_difference_names_the_place_and_both_values() -> None:
    assert told([{"total": "49.00"}], [{"total": "50.00"}]) == [
        "x.1.total: expected 49.00, got 50.00"
    ]
