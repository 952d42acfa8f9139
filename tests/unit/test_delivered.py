from fractions import Fraction

import pytest

from engine.delivered import Delivery, RevenueMethod, share_delivered
from tests.agreements import at

QUARTER = ("2026-01-01", "2026-04-01")


def share(method, when, period=QUARTER, *, days=None, timezone="UTC"):
    begins_at, ends_at = period
    delivery = Delivery(
        method=RevenueMethod(method),
        begins_at=at(begins_at),
        ends_at=None if ends_at is None else at(ends_at),
        days=days,
    )
    return share_delivered(delivery=delivery, at=at(when), timezone=timezone)


@pytest.mark.parametrize(
    ("when", "days"),
    [
        ("2025-12-01", 0),
        ("2026-01-01", 0),
        ("2026-01-01T23:59", 0),
        ("2026-01-02", 1),
        ("2026-02-01", 31),
        ("2026-04-01", 90),
        ("2027-01-01", 90),
    ],
)
def test_by_days_the_first_counts_and_the_last_does_not(when, days):
    assert share("ratable_daily", when) == Fraction(days, 90)


def test_days_are_those_of_the_timezone():
    assert share("ratable_daily", "2026-01-31T23:00", timezone="Europe/Berlin") == Fraction(31, 90)
    assert share("ratable_daily", "2026-01-31T22:59", timezone="Europe/Berlin") == Fraction(30, 90)


def test_over_days_runs_from_the_start_whatever_the_period():
    assert share("over_days", "2026-01-04", ("2026-01-01T12:00", None), days=10) == Fraction(3, 10)
    assert share("over_days", "2026-02-01", days=10) == 1


def test_by_seconds_it_runs_with_the_clock():
    period = ("2026-01-01", "2026-01-01T08:00")
    assert share("ratable_second", "2026-01-01T03:00", period) == Fraction(3, 8)


@pytest.mark.parametrize("method", ["point_in_time", "ratable_daily", "ratable_second"])
def test_without_a_period_it_is_delivered_once_its_instant_is_past(method):
    assert share(method, "2026-01-01", ("2026-01-01", None)) == 0
    assert share(method, "2026-01-01T00:01", ("2026-01-01", None)) == 1


def test_less_than_a_day_by_days_is_delivered_at_once():
    period = ("2026-01-01T01:00", "2026-01-01T02:00")
    assert share("ratable_daily", "2026-01-01T01:00", period) == 0
    assert share("ratable_daily", "2026-01-01T01:01", period) == 1


def test_usage_that_was_billed_was_used():
    assert share("usage", "2026-01-01") == 1
