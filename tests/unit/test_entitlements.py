"""What running subscriptions give together, and in which period usage counts against it."""

from decimal import Decimal

import pytest

from engine.period import IntervalUnit, Period
from plans.entitlements import Grants, entitlements_of, metered_periods, plain_entitlements
from plans.prices import Interval
from tests.agreements import agreement, at

MONTH = Interval(unit=IntervalUnit.MONTH, count=1)
YEAR = Interval(unit=IntervalUnit.YEAR, count=1)


def grants(*features, interval=MONTH, start="2026-01-01"):
    return [
        Grants(agreement=agreement(key=f"s{n}", start=start), interval=interval, features=given)
        for n, given in enumerate(features, start=1)
    ]


@pytest.mark.parametrize(
    ("given", "kind", "limit", "has_access", "by"),
    [
        ([False], "boolean", None, False, ()),
        ([False, True], "boolean", None, True, ("s2",)),
        (["2", "0.5"], "number", "2.5", True, ("s1", "s2")),
        (["0", False], "number", "0", False, ("s1",)),
        (["2", True], "number", None, True, ("s1", "s2")),
    ],
)
def test_what_several_subscriptions_give_adds_up(given, kind, limit, has_access, by):
    (found,) = entitlements_of(
        grants=grants(*({"f": value} for value in given)), periods={}, used_nanos={}
    )
    assert (found.type, found.limit, found.has_access, found.subscriptions) == (
        kind,
        limit,
        has_access,
        by,
    )
    assert (found.usage, found.remaining, found.period) == (None, None, None)


@pytest.mark.parametrize(
    ("limit", "used", "usage", "remaining", "has_access"),
    [
        ("10", 9_999_999_999, "9.999999999", "0.000000001", True),
        ("10", 10_000_000_000, "10", "0", False),
        ("10", 12_000_000_000, "12", "0", False),
        ("10", -1, "0", "10", True),
        (True, 12_000_000_000, "12", None, True),
        (False, 12_000_000_000, "12", None, False),
    ],
)
def test_usage_counts_against_the_limit(limit, used, usage, remaining, has_access):
    period = Period(at("2026-01-01"), at("2026-02-01"))
    (found,) = entitlements_of(
        grants=grants({"calls": limit}), periods={"calls": period}, used_nanos={"calls": used}
    )
    assert (found.type, found.usage, found.remaining) == ("metered", usage, remaining)
    assert found.has_access is has_access
    assert found.period == (period.start, period.end)


def test_of_several_periods_the_earliest_start_and_end_hold():
    given = [
        *grants({"calls": "1", "seats": "2"}, start="2025-12-15"),
        *grants({"calls": "1"}, start="2026-01-20", interval=YEAR),
    ]
    now = at("2026-01-25")
    assert metered_periods(grants=given, meters=["calls", "other"], now=now) == {
        "calls": Period(at("2026-01-15"), at("2026-02-15"))
    }


def test_numbers_are_kept_as_the_shortest_text():
    assert plain_entitlements({"a": True, "b": Decimal(5), "c": Decimal("2.50"), "d": False}) == {
        "a": True,
        "b": "5",
        "c": "2.5",
        "d": False,
    }
