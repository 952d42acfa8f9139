from datetime import datetime

import pytest

from engine.period import Period
from plans.model import LastDay, Proration
from rating.proration import fraction


def period(start: str, end: str) -> Period:
    return Period(datetime.fromisoformat(start + "+00:00"), datetime.fromisoformat(end + "+00:00"))


JANUARY = period("2026-01-01T00:00", "2026-02-01T00:00")


def share(proration: Proration, active: Period, **fields) -> tuple[int, int]:
    defaults = {
        "last_day": LastDay.EXCLUDE,
        "period": JANUARY,
        "timezone": "UTC",
        "ends_by_cancellation": False,
    }
    return fraction(proration=proration, active=active, **(defaults | fields))


@pytest.mark.parametrize("proration", Proration)
def test_the_whole_period_is_one_and_nothing_is_zero(proration):
    assert share(proration, JANUARY) == (1, 1)
    assert share(proration, period("2026-01-05T00:00", "2026-01-05T00:00"))[0] == 0


def test_seconds_are_elapsed_not_shown_on_a_clock():
    march = period("2026-02-28T23:00", "2026-03-31T22:00")  # Berlin loses an hour
    active = period("2026-03-28T23:00", "2026-03-29T22:00")
    assert share(Proration.SECOND, active, period=march) == (23 * 3600, (31 * 24 - 1) * 3600)
    assert share(Proration.DAY, active, period=march, timezone="Europe/Berlin") == (1, 31)


def test_microseconds_count_when_there_are_any():
    active = period("2026-01-01T00:00", "2026-01-01T00:00:00.000001")
    assert share(Proration.SECOND, active) == (1, 31 * 86400 * 10**6)


def test_days_count_the_first_date_and_not_the_last():
    assert share(Proration.DAY, period("2026-01-10T15:00", "2026-01-12T09:00")) == (2, 31)


@pytest.mark.parametrize(
    ("end", "cancelled", "last_day", "days"),
    [
        ("2026-01-12T09:00", True, LastDay.EXCLUDE, 11),
        ("2026-01-12T09:00", True, LastDay.INCLUDE, 12),
        ("2026-01-12T09:00", False, LastDay.INCLUDE, 11),
        ("2026-01-01T09:00", True, LastDay.INCLUDE, 1),
        ("2026-01-01T09:00", True, LastDay.EXCLUDE, 1),
        ("2026-01-01T09:00", False, LastDay.INCLUDE, 0),
        ("2026-01-31T09:00", True, LastDay.INCLUDE, 31),
    ],
)
def test_the_last_day_of_a_cancellation(end, cancelled, last_day, days):
    active = period("2026-01-01T00:00", end)
    found = share(Proration.DAY, active, last_day=last_day, ends_by_cancellation=cancelled)
    assert found == (days, 31)


def test_every_month_has_thirty_days():
    quarter = period("2026-01-01T00:00", "2026-04-01T00:00")
    february = period("2026-02-01T00:00", "2026-03-01T00:00")
    assert share(Proration.THIRTY_360, february, period=quarter) == (30, 90)
    assert share(Proration.THIRTY_360, period("2026-01-31T00:00", "2026-02-01T00:00")) == (1, 30)


def test_without_proration_a_stub_pays_all_and_a_change_waits_for_the_next_boundary():
    active = period("2026-01-20T00:00", "2026-02-01T00:00")
    assert share(Proration.NONE, active) == (1, 1)
    assert share(Proration.NONE, active, starts_by_change=True) == (0, 1)
    left = period("2026-01-01T00:00", "2026-01-20T00:00")
    assert share(Proration.NONE, left, ends_by_cancellation=True) == (1, 1)
