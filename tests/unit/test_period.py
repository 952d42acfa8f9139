from datetime import UTC, date, datetime

import pytest

from engine.errors import BillingError
from engine.period import (
    Alignment,
    BillingPeriod,
    Calendar,
    IntervalUnit,
    billing_periods,
    boundary,
    first_period,
    local_date,
    local_midnight,
    period_holding,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def calendar(anchor: str, **fields) -> Calendar:
    defaults = {
        "unit": IntervalUnit.MONTH,
        "count": 1,
        "alignment": Alignment.ANNIVERSARY,
        "anchor_at": at(anchor),
        "anchor_day": None,
        "timezone": "UTC",
    }
    return Calendar(**(defaults | fields))


def test_an_anchor_day_is_local_midnight_of_that_day_in_the_month_of_the_start():
    berlin = calendar("2026-01-20T12:00:00Z", anchor_day=15, timezone="Europe/Berlin")
    assert first_period(calendar=berlin, start=at("2026-01-20T12:00:00Z")) == BillingPeriod(
        0, at("2026-01-14T23:00:00Z"), at("2026-02-14T23:00:00Z")
    )


def test_an_anchor_day_after_the_start_gives_a_first_period_with_a_negative_index():
    late = calendar("2026-01-20T12:00:00Z", anchor_day=25)
    assert first_period(calendar=late, start=at("2026-01-20T12:00:00Z")) == BillingPeriod(
        -1, at("2025-12-25T00:00:00Z"), at("2026-01-25T00:00:00Z")
    )


def test_anchor_day_31_is_clipped_in_each_month_and_stays_31():
    last = calendar("2026-02-10T00:00:00Z", anchor_day=31)
    boundaries = [boundary(calendar=last, index=index) for index in range(3)]
    assert boundaries == [
        at("2026-02-28T00:00:00Z"),
        at("2026-03-31T00:00:00Z"),
        at("2026-04-30T00:00:00Z"),
    ]


def test_boundaries_before_the_anchor_are_counted_from_it_too():
    last = calendar("2026-03-31T00:00:00Z")
    assert boundary(calendar=last, index=-1) == at("2026-02-28T00:00:00Z")
    assert boundary(calendar=last, index=-2) == at("2026-01-31T00:00:00Z")


def test_an_anchor_in_the_second_of_two_equal_hours_stays_where_it_is():
    anchor = "2026-10-25T01:30:00Z"  # 02:30 for the second time in Berlin
    daily = calendar(anchor, unit=IntervalUnit.DAY, timezone="Europe/Berlin")
    assert boundary(calendar=daily, index=0) == at(anchor)
    assert first_period(calendar=daily, start=at(anchor)).start == at(anchor)


def test_microseconds_of_the_anchor_are_kept():
    exact = calendar("2026-01-31T10:20:30.000001Z")
    assert boundary(calendar=exact, index=1) == at("2026-02-28T10:20:30.000001Z")


def test_calendar_alignment_ignores_an_anchor_day():
    aligned = calendar("2026-01-20T00:00:00Z", alignment=Alignment.CALENDAR, anchor_day=15)
    assert boundary(calendar=aligned, index=0) == at("2026-01-01T00:00:00Z")


def test_periods_are_whole_and_half_open():
    monthly = calendar("2026-01-01T00:00:00Z")
    start, end = at("2026-01-10T00:00:00Z"), at("2026-03-01T00:00:00Z")
    assert billing_periods(calendar=monthly, start=start, end=end) == [
        BillingPeriod(0, at("2026-01-01T00:00:00Z"), at("2026-02-01T00:00:00Z")),
        BillingPeriod(1, at("2026-02-01T00:00:00Z"), at("2026-03-01T00:00:00Z")),
    ]
    assert billing_periods(calendar=monthly, start=end, end=end) == []
    assert period_holding(calendar=monthly, at=end).index == 2


def test_the_index_of_an_empty_period_is_left_out():
    apia = calendar("2011-12-28T10:00:00Z", unit=IntervalUnit.DAY, timezone="Pacific/Apia")
    periods = billing_periods(
        calendar=apia, start=at("2011-12-28T10:00:00Z"), end=at("2011-12-31T10:00:00Z")
    )
    assert [period.index for period in periods] == [0, 1, 3]


def test_answers_are_in_utc_whatever_the_anchor_was_written_in():
    cairo = calendar("2026-01-05T10:00:00+02:00")
    assert boundary(calendar=cairo, index=0).tzinfo is UTC


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_a_timezone_that_does_not_exist_is_an_expected_failure(timezone):
    with pytest.raises(BillingError) as failure:
        boundary(calendar=calendar("2026-01-01T00:00:00Z", timezone=timezone), index=1)
    assert failure.value.code == "unknown_timezone"


def test_a_boundary_past_the_last_year_is_an_expected_failure():
    with pytest.raises(BillingError) as failure:
        boundary(calendar=calendar("2026-01-01T00:00:00Z"), index=12 * 8000)
    assert failure.value.code == "time_out_of_range"


def test_local_dates_and_their_midnights():
    auckland = "Pacific/Auckland"
    assert local_date(at=at("2026-01-01T11:00:00Z"), timezone=auckland) == date(2026, 1, 2)
    assert local_midnight(on=date(2026, 1, 2), timezone=auckland) == at("2026-01-01T11:00:00Z")
