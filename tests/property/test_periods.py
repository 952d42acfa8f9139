"""Boundaries, periods, proration and splits against the oracle, and the laws they keep."""

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.money import Rounding, round_ratio, split_largest_remainder
from engine.period import (
    Alignment,
    Calendar,
    IntervalUnit,
    Period,
    billing_periods,
    boundary,
    period_holding,
)
from plans.model import LastDay, Proration
from rating.proration import fraction
from tests.property import oracle

ZONES = [
    "UTC",
    "America/New_York",
    "America/Sao_Paulo",
    "America/Havana",
    "America/St_Johns",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
]
zones = st.sampled_from(ZONES)
instants = st.datetimes(
    min_value=datetime(2009, 1, 1),
    max_value=datetime(2026, 12, 31),
    timezones=st.just(UTC),
)
counts = st.integers(1, 6)


anniversary = st.just(Alignment.ANNIVERSARY)


def calendars(alignment=anniversary):
    return st.builds(
        Calendar,
        unit=st.sampled_from(IntervalUnit),
        count=counts,
        alignment=alignment,
        anchor_at=instants,
        anchor_day=st.one_of(st.none(), st.integers(1, 31)),
        timezone=zones,
    )


@given(calendar=calendars(), index=st.integers(-40, 40))
@settings(max_examples=400, deadline=None)
def test_a_boundary_is_counted_from_the_anchor(calendar, index):
    assume(calendar.anchor_day is None)
    expected = oracle.boundary(
        calendar.unit.value, calendar.count, calendar.anchor_at, calendar.timezone, index
    )
    assert boundary(calendar=calendar, index=index) == expected


@given(calendar=calendars(st.sampled_from(Alignment)), at=instants)
@settings(max_examples=300, deadline=None)
def test_the_period_that_holds_an_instant_lies_between_two_boundaries(calendar, at):
    period = period_holding(calendar=calendar, at=at)
    assert period.start <= at < period.end
    assert period.start == boundary(calendar=calendar, index=period.index)
    assert period.end == boundary(calendar=calendar, index=period.index + 1)


@given(
    calendar=calendars(st.sampled_from(Alignment)),
    start=instants,
    length=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=500)),
)
@settings(max_examples=200, deadline=None)
def test_periods_cover_a_stretch_without_gap_overlap_or_empty_ones(calendar, start, length):
    end = start + length
    periods = billing_periods(calendar=calendar, start=start, end=end)
    assert all(period.start < period.end for period in periods)
    assert all(
        earlier.end == later.start and earlier.index < later.index
        for earlier, later in pairwise(periods)
    )
    assert bool(periods) == (start < end)
    if periods:
        assert periods[0].start <= start < periods[0].end
        assert periods[-1].start < end <= periods[-1].end


def parts_of(period: Period, cuts: list[Fraction]) -> list[Period]:
    whole = (period.end - period.start) // timedelta(microseconds=1)
    edges = sorted({period.start + timedelta(microseconds=int(cut * whole)) for cut in cuts})
    edges = [period.start, *(edge for edge in edges if edge > period.start), period.end]
    return [Period(*pair) for pair in pairwise(edges)]


@given(
    calendar=calendars(),
    at=instants,
    cuts=st.lists(st.fractions(0, Fraction(99, 100)), max_size=4),
    proration=st.sampled_from([Proration.SECOND, Proration.DAY, Proration.THIRTY_360]),
)
@settings(max_examples=300, deadline=None)
def test_parts_of_a_period_add_up_to_the_whole(calendar, at, cuts, proration):
    held = period_holding(calendar=calendar, at=at)
    period = Period(held.start, held.end)
    shares = [
        Fraction(
            *fraction(
                proration=proration,
                last_day=LastDay.INCLUDE,
                period=period,
                active=part,
                timezone=calendar.timezone,
                ends_by_cancellation=False,
            )
        )
        for part in parts_of(period, cuts)
    ]
    assert sum(shares) == 1
    assert all(0 <= share <= 1 for share in shares)


@given(at=instants, zone=zones, cut=st.fractions(Fraction(1, 100), Fraction(99, 100)))
@settings(max_examples=200, deadline=None)
def test_a_share_is_what_the_oracle_counts(at, zone, cut):
    calendar = Calendar(
        unit=IntervalUnit.MONTH,
        count=1,
        alignment=Alignment.ANNIVERSARY,
        anchor_at=at,
        anchor_day=None,
        timezone=zone,
    )
    held = period_holding(calendar=calendar, at=at)
    period = Period(held.start, held.end)
    active = parts_of(period, [cut])[0]
    whole, part = (period.start, period.end), (active.start, active.end)
    counted = {
        Proration.SECOND: oracle.elapsed_share(whole, part),
        Proration.DAY: Fraction(
            oracle.dates_between(*part, zone), oracle.dates_between(*whole, zone)
        ),
        Proration.THIRTY_360: Fraction(
            oracle.thirty_day_months_between(*part, zone),
            oracle.thirty_day_months_between(*whole, zone),
        ),
    }
    for proration, expected in counted.items():
        share = fraction(
            proration=proration,
            last_day=LastDay.EXCLUDE,
            period=period,
            active=active,
            timezone=zone,
            ends_by_cancellation=False,
        )
        assert Fraction(*share) == expected


@given(
    total=st.integers(-(10**15), 10**15),
    weights=st.lists(st.integers(0, 10**9), min_size=1, max_size=12).filter(any),
)
def test_a_split_sums_to_the_whole_and_no_part_is_a_unit_off(total, weights):
    parts = split_largest_remainder(total, weights)
    assert sum(parts) == total
    base = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        assert abs(part - Fraction(total * weight, base)) < 1


@given(
    numerator=st.integers(-(10**30), 10**30),
    denominator=st.integers(1, 10**18),
    rounding=st.sampled_from(Rounding),
)
def test_rounding_is_symmetric_and_to_the_nearest(numerator, denominator, rounding):
    whole = round_ratio(numerator, denominator, rounding=rounding)
    assert whole == -round_ratio(-numerator, denominator, rounding=rounding)
    assert abs(whole) == oracle.rounded(abs(Fraction(numerator, denominator)), rounding)
