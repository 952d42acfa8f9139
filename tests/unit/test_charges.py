import msgspec
import pytest

from engine.period import Alignment
from invoicing.charges import ProrationTerms, vanished_charge
from plans.agreement import Refund
from plans.model import LastDay, Proration
from tests.agreements import (
    SEATS,
    SECONDS,
    SETUP,
    TOKENS,
    agreement,
    at,
    cancelled,
    due,
    told,
)

DAYS = ProrationTerms(proration=Proration.DAY, last_day=LastDay.EXCLUDE)
LAST_DAY = ProrationTerms(proration=Proration.DAY, last_day=LastDay.INCLUDE)
YEARLY = SEATS | {"interval": {"unit": "year"}}
WEEKLY = SEATS | {"interval": {"unit": "week"}}
ARREARS = SEATS | {"bill": "in_arrears"}


def derived(agreed, through, **fields):
    return msgspec.structs.replace(agreed, derived_through_at=at(through), **fields)


def test_advance_is_due_at_starts_and_arrears_at_ends():
    agreed = agreement(SEATS, ARREARS, TOKENS)
    assert told(due(agreed, "2026-01-01")) == [("seats", "01-01", "02-01", "1/1")]
    assert told(due(derived(agreed, "2026-01-01"), "2026-02-01")) == [
        ("seats", "02-01", "03-01", "1/1"),
        ("seats", "01-01", "02-01", "1/1"),
        ("tokens", "01-01", "02-01", "1/1"),
    ]
    assert due(derived(agreed, "2026-02-01"), "2026-02-28") == []


def test_monthly_usage_on_a_yearly_plan():
    agreed = derived(agreement(YEARLY, TOKENS), "2026-01-01")
    assert told(due(agreed, "2026-03-01")) == [
        ("tokens", "01-01", "02-01", "1/1"),
        ("tokens", "02-01", "03-01", "1/1"),
    ]


def test_the_first_stub_is_a_part_of_the_whole_calendar_month():
    agreed = agreement(SEATS, TOKENS, start="2026-01-22", alignment=Alignment.CALENDAR)
    assert told(due(agreed, "2026-02-01", DAYS)) == [
        ("seats", "01-22", "02-01", "10/31"),
        ("seats", "02-01", "03-01", "1/1"),
        ("tokens", "01-22", "02-01", "1/1"),
    ]
    (first, *_) = due(agreed, "2026-02-01")
    assert (first.period.start, first.numerator * 31) == (at("2026-01-01"), first.denominator * 10)


def test_a_month_that_loses_an_hour_is_measured_in_seconds():
    agreed = agreement(
        SEATS,
        start="2026-03-28T23:00",
        alignment=Alignment.CALENDAR,
        timezone="Europe/Berlin",
    )
    (first,) = due(agreed, "2026-03-30")
    assert first.denominator == (31 * 24 - 1) * 3600
    assert first.numerator == (3 * 24 - 1) * 3600


def test_a_one_time_price_is_charged_once_and_whole():
    agreed = agreement(SETUP, start="2026-01-22", alignment=Alignment.CALENDAR)
    assert told(due(agreed, "2026-05-01")) == [("setup", "01-22", "01-22", "1/1")]
    assert due(derived(agreed, "2026-01-22"), "2026-05-01") == []
    gone = cancelled(agreed, effective="2026-01-22", asked="2026-01-01")
    assert due(gone, "2026-05-01") == []


def test_an_agreed_end_cuts_the_last_period():
    agreed = agreement(SEATS, TOKENS, ends_at=at("2026-01-11"))
    assert told(due(agreed, "2026-01-11", DAYS)) == [
        ("seats", "01-01", "01-11", "10/31"),
        ("tokens", "01-01", "01-11", "1/1"),
    ]


def test_late_usage_touches_its_period_and_what_follows():
    agreed = derived(agreement(TOKENS), "2026-04-01", dirty_from_at=at("2026-02-10"))
    assert told(due(agreed, "2026-04-10")) == [
        ("tokens", "02-01", "03-01", "1/1"),
        ("tokens", "03-01", "04-01", "1/1"),
    ]
    boundary = derived(agreement(TOKENS), "2026-04-01", dirty_from_at=at("2026-03-01"))
    assert told(due(boundary, "2026-04-10")) == [("tokens", "03-01", "04-01", "1/1")]


def test_usage_after_what_is_derived_touches_nothing():
    agreed = derived(agreement(TOKENS), "2026-02-01", dirty_from_at=at("2026-02-10"))
    assert due(agreed, "2026-02-20") == []


@pytest.mark.parametrize("refund", Refund)
def test_a_cancellation_to_come_leaves_what_was_charged_until_it_takes_effect(refund):
    agreed = derived(agreement(YEARLY), "2026-01-01")
    gone = cancelled(agreed, effective="2026-03-15", asked="2026-01-10", refund=refund)
    assert due(gone, "2026-03-14") == []
    (only,) = due(gone, "2026-03-15", DAYS)
    assert (only.numerator, only.denominator) == (
        (73, 365) if refund is not Refund.NONE else (1, 1)
    )


def test_a_charge_after_the_cancellation_was_asked_for_is_cut_from_the_start():
    agreed = derived(agreement(SEATS), "2026-01-01")
    for refund in Refund:
        gone = cancelled(agreed, effective="2026-02-15", asked="2026-01-10", refund=refund)
        assert told(due(gone, "2026-02-01", DAYS)) == [("seats", "02-01", "02-15", "14/28")]


def test_a_past_cancellation_cuts_periods_and_frees_later_ones():
    agreed = derived(agreement(SEATS, TOKENS), "2026-03-01")
    gone = cancelled(agreed, effective="2026-01-22", asked="2026-03-10")
    assert told(due(gone, "2026-03-10", DAYS)) == [
        ("seats", "01-01", "01-22", "21/31"),
        ("tokens", "01-01", "01-22", "1/1"),
    ]
    for start, share in (("2026-02-01", 0), ("2026-03-01", 0)):
        freed = vanished_charge(
            agreement=gone,
            stretch=gone.intervals[0],
            period_start=at(start),
            terms=DAYS,
            through=at("2026-03-10"),
        )
        assert freed is not None and freed.numerator == share


def test_a_past_cancellation_charges_usage_that_was_never_due():
    agreed = derived(agreement(WEEKLY, TOKENS), "2026-01-22")
    gone = cancelled(agreed, effective="2026-01-20", asked="2026-01-25")
    assert ("tokens", "01-01", "01-20", "1/1") in told(due(gone, "2026-01-25"))


def test_an_untouched_period_does_not_vanish():
    agreed = derived(agreement(SEATS, SETUP), "2026-03-01")
    gone = cancelled(agreed, effective="2026-02-15", asked="2026-03-10")
    kept = {"terms": SECONDS, "through": at("2026-03-10"), "agreement": gone}
    for stretch in gone.intervals:
        assert vanished_charge(stretch=stretch, period_start=at("2026-01-01"), **kept) is None


def test_the_last_day_counts_when_the_seller_says_so():
    agreed = derived(agreement(SEATS), "2026-01-01")
    gone = cancelled(agreed, effective="2026-01-10", asked="2026-01-10")
    assert told(due(gone, "2026-01-10", DAYS)) == [("seats", "01-01", "01-10", "9/31")]
    assert told(due(gone, "2026-01-10", LAST_DAY)) == [("seats", "01-01", "01-10", "10/31")]


def test_a_price_that_does_not_prorate_keeps_its_whole_period():
    agreed = agreement(SEATS | {"prorate": False}, start="2026-01-22", alignment=Alignment.CALENDAR)
    assert told(due(agreed, "2026-01-22")) == [("seats", "01-22", "02-01", "1/1")]


def test_an_agreed_end_bounds_what_a_cancellation_keeps():
    agreed = derived(agreement(SEATS, ends_at=at("2026-01-11")), "2026-01-01")
    gone = cancelled(agreed, effective="2026-01-06", asked="2026-01-02", refund=Refund.NONE)
    assert told(due(gone, "2026-01-06", DAYS)) == [("seats", "01-01", "01-11", "10/31")]


def test_splitting_the_way_yields_the_same_charges_once():
    agreed = agreement(WEEKLY, TOKENS, ARREARS, SETUP, ends_at=at("2026-04-09"))
    at_once = {(c.key, c.due_at) for c in due(agreed, "2026-05-01")}
    in_steps = []
    for day in ("2026-01-01", "2026-01-15", "2026-02-20", "2026-04-01", "2026-04-09"):
        in_steps += [(c.key, c.due_at) for c in due(agreed, day)]
        agreed = derived(agreed, day)
    assert len(in_steps) == len(set(in_steps))
    assert set(in_steps) == at_once
