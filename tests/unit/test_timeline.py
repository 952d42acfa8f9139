import msgspec
import pytest

from engine.errors import BillingError
from engine.period import Alignment
from plans.agreement import CancelDraft, Refund, SubscriptionDraft
from plans.model import Plan
from plans.timeline import (
    cancel_intervals,
    cancellation_instant,
    change_instant,
    next_change_at,
    next_due_at,
    open_subscription,
    status_at,
)
from tests.agreements import SEATS, SETUP, TOKENS, agreement, at, cancelled

YEARLY = SEATS | {"interval": {"unit": "year"}}
WEEKLY = SEATS | {"interval": {"unit": "week"}}


def instants(agreed, count):
    found, after = [], None
    while len(found) < count and (after := next_due_at(agreement=agreed, after=after)):
        found.append(f"{after:%Y-%m-%d}")
    return found


def test_due_are_the_start_every_boundary_and_the_end():
    assert instants(agreement(SEATS, ends_at=at("2026-03-10")), 9) == [
        "2026-01-01",
        "2026-02-01",
        "2026-03-01",
        "2026-03-10",
    ]


def test_each_price_has_its_own_boundaries():
    assert instants(agreement(WEEKLY, TOKENS), 6) == [
        "2026-01-01",
        "2026-01-08",
        "2026-01-15",
        "2026-01-22",
        "2026-01-29",
        "2026-02-01",
    ]
    assert instants(agreement(YEARLY, TOKENS), 3) == ["2026-01-01", "2026-02-01", "2026-03-01"]


def test_a_one_time_price_falls_due_once():
    assert instants(agreement(SETUP), 5) == ["2026-01-01"]
    assert instants(agreement(SETUP, ends_at=at("2026-02-10")), 5) == ["2026-01-01", "2026-02-10"]


def test_a_clipped_month_comes_back():
    assert instants(agreement(SEATS, start="2026-01-31"), 4) == [
        "2026-01-31",
        "2026-02-28",
        "2026-03-31",
        "2026-04-30",
    ]


def test_calendar_alignment_falls_due_at_local_midnights():
    new_york = agreement(
        SEATS, start="2026-01-20", alignment=Alignment.CALENDAR, timezone="America/New_York"
    )
    found = [
        next_due_at(agreement=new_york, after=at(when)) for when in ("2026-01-20", "2026-03-02")
    ]
    assert found == [at("2026-02-01T05:00"), at("2026-04-01T04:00")]


def test_nothing_falls_due_after_a_cancellation():
    agreed = cancelled(agreement(SEATS, TOKENS), effective="2026-02-10", asked="2026-01-05")
    assert instants(agreed, 9) == ["2026-01-01", "2026-02-01", "2026-02-10"]
    assert next_due_at(agreement=agreed, after=at("2026-02-10")) is None


@pytest.mark.parametrize(
    ("effective", "now", "found"),
    [
        ("now", "2026-01-20", "2026-01-20"),
        ("now", "2025-12-20", "2026-01-01"),
        ("period_end", "2026-01-20", "2026-02-01"),
        ("period_end", "2026-02-01", "2026-03-01"),
        ("period_end", "2025-12-20", "2026-02-01"),
        ("2026-01-25T00:00:00Z", "2026-01-20", "2026-01-25"),
        ("2026-01-05T01:00:00+01:00", "2026-01-20", "2026-01-05"),
    ],
)
def test_when_a_cancellation_takes_effect(effective, now, found):
    draft = CancelDraft(effective=effective)
    agreed = agreement(SEATS, TOKENS)
    assert cancellation_instant(agreement=agreed, draft=draft, now=at(now)) == at(found)


def test_the_period_that_ends_is_the_longest():
    draft = CancelDraft(effective="period_end")
    agreed = agreement(TOKENS, YEARLY)
    found = cancellation_instant(agreement=agreed, draft=draft, now=at("2026-03-03"))
    assert found == at("2027-01-01")


@pytest.mark.parametrize(
    ("effective", "now", "code"),
    [
        ("now", "2026-06-01", "already_cancelled"),
        ("2025-12-31T00:00:00Z", "2026-01-20", "invalid_body"),
        ("2026-01-05T00:00:00", "2026-01-20", "invalid_body"),
        ("tomorrow", "2026-01-20", "invalid_body"),
    ],
)
def test_cancellations_that_cannot_be(effective, now, code):
    agreed = agreement(SEATS, ends_at=at("2026-05-01"))
    with pytest.raises(BillingError) as refused:
        cancellation_instant(agreement=agreed, draft=CancelDraft(effective=effective), now=at(now))
    assert refused.value.code == code


def test_an_agreed_end_is_never_put_off():
    agreed = agreement(SEATS, ends_at=at("2026-01-15"))
    draft = CancelDraft(effective="period_end")
    assert cancellation_instant(agreement=agreed, draft=draft, now=at("2026-01-02")) == at(
        "2026-01-15"
    )
    kept = cancel_intervals(
        agreement=agreed,
        effective=at("2026-01-15"),
        refund=Refund.CREDIT,
        now=at("2026-01-02"),
    )
    assert kept == agreed.intervals


def test_an_interval_that_begins_later_closes_where_it_begins():
    agreed = agreement(SEATS, start="2026-03-01")
    (closed,) = cancel_intervals(
        agreement=agreed, effective=at("2026-02-01"), refund=Refund.NONE, now=at("2026-01-02")
    )
    assert closed.start_at == closed.end_at == at("2026-03-01")
    assert closed.end_is_cancellation and not closed.credit_unused
    assert closed.agreed_end_at is None


@pytest.mark.parametrize(
    ("now", "ends", "asked", "paused", "status"),
    [
        ("2025-12-31", None, None, None, "scheduled"),
        ("2026-01-01", None, None, None, "active"),
        ("2026-01-05", None, None, "2026-01-03", "paused"),
        ("2026-01-31", "2026-02-01", "2026-01-15", None, "active"),
        ("2026-02-01", "2026-02-01", "2026-01-15", None, "cancelled"),
        ("2026-02-01", "2026-02-01", None, "2026-01-03", "ended"),
    ],
)
def test_where_a_subscription_is_in_its_life(now, ends, asked, paused, status):
    found = status_at(
        starts_at=at("2026-01-01"),
        ends_at=ends and at(ends),
        cancelled_at=asked and at(asked),
        paused_at=paused and at(paused),
        now=at(now),
    )
    assert found.value == status


def test_cancelled_before_its_start_it_is_over_at_once():
    found = status_at(
        starts_at=at("2026-03-01"),
        ends_at=at("2026-03-01"),
        cancelled_at=at("2026-02-01"),
        paused_at=None,
        now=at("2026-02-02"),
    )
    assert found.value == "cancelled"


PLAN = {
    "id": "pln_a",
    "key": "team",
    "version": 1,
    "name": None,
    "currency": "EUR",
    "interval": {"unit": "month"},
    "alignment": "anniversary",
    "prices": [SEATS | {"quantity": "5"}, TOKENS, SETUP],
    "created_at": "2026-01-01T00:00:00Z",
}


def opened(plan=PLAN, **fields):
    draft = {"key": "s1", "customer": "acme", "plan": "team"} | fields
    return open_subscription(
        draft=msgspec.convert(draft, SubscriptionDraft),
        plan=msgspec.convert(plan, Plan),
        timezone="UTC",
        now=at("2026-01-15"),
    )


def test_a_trial_moves_the_anchor_unless_there_is_one():
    assert opened(trial_days=10).anchor_at == at("2026-01-25")
    assert opened(PLAN | {"trial_days": 3}).trial_ends_at == at("2026-01-18")
    assert opened(PLAN | {"trial_days": 3}, trial_days=0).trial_ends_at is None
    assert opened(trial_days=10, anchor={"day": 3}).anchor_at == at("2026-01-15")


def test_a_trial_keeps_the_wall_time_when_clocks_change():
    draft = {"key": "s1", "customer": "acme", "plan": "team", "trial_days": 2}
    found = open_subscription(
        draft=msgspec.convert(draft, SubscriptionDraft),
        plan=msgspec.convert(PLAN, Plan),
        timezone="Europe/Berlin",
        now=at("2026-03-28T11:00"),
    )
    assert found.trial_ends_at == at("2026-03-30T10:00")


def test_a_change_inside_a_period_is_no_due_instant_and_one_on_a_boundary_is():
    inside, boundary = at("2026-01-16"), at("2026-02-01")
    for moment, found in ((inside, "2026-02-01"), (boundary, "2026-02-01")):
        old = msgspec.structs.replace(
            agreement(SEATS).intervals[0], end_at=moment, closed_at=at("2026-01-10")
        )
        new = msgspec.structs.replace(
            old, id="pri_2", start_at=moment, end_at=None, closed_at=None, start_is_due=False
        )
        agreed = agreement(SEATS, intervals=(old, new))
        assert next_due_at(agreement=agreed, after=at("2026-01-01")) == at(found)
        assert next_change_at(agreement=agreed, after=at("2026-01-01")) == moment
        assert next_change_at(agreement=agreed, after=moment) is None


@pytest.mark.parametrize(
    ("effective", "now", "found"),
    [
        ("now", "2026-01-20", "2026-01-20"),
        ("now", "2025-12-20", "2026-01-01"),
        ("period_end", "2026-01-20", "2026-02-01"),
        ("2026-01-05T00:00:00Z", "2026-01-20", "2026-01-05"),
    ],
)
def test_when_a_change_takes_effect(effective, now, found):
    agreed = agreement(SEATS, TOKENS, ends_at=at("2026-03-01"))
    assert change_instant(agreement=agreed, effective=effective, now=at(now)) == at(found)


@pytest.mark.parametrize(
    ("effective", "now", "code"),
    [
        ("now", "2026-03-01", "subscription_over"),
        ("period_end", "2026-02-20", "subscription_over"),
        ("2025-12-31T00:00:00Z", "2026-01-20", "invalid_body"),
        ("soon", "2026-01-20", "invalid_body"),
    ],
)
def test_changes_that_cannot_be(effective, now, code):
    agreed = agreement(SEATS, ends_at=at("2026-03-01"))
    with pytest.raises(BillingError) as refused:
        change_instant(agreement=agreed, effective=effective, now=at(now))
    assert refused.value.code == code


def test_an_anchor_is_an_instant_or_a_day():
    assert opened(anchor={"at": "2026-02-10T00:00:00Z"}).anchor_at == at("2026-02-10")
    assert opened(anchor={"day": 31}).anchor_day == 31


@pytest.mark.parametrize(
    ("fields", "pointer", "code"),
    [
        ({"quantities": {"a/b~c": "1"}}, "/quantities/a~1b~0c", "unknown_price"),
        ({"quantities": {"tokens": "1"}}, "/quantities/tokens", "contradictory"),
        ({"quantities": {"seats": "1.0000000001"}}, "/quantities/seats", "invalid_decimal"),
        ({"quantities": {"seats": "1000000000000000"}}, "/quantities/seats", "invalid_decimal"),
        ({"ends_at": "2026-01-15T00:00:00Z"}, "/ends_at", "out_of_order"),
        ({"anchor": {}}, "/anchor", "contradictory"),
        ({"anchor": {"at": "2026-01-01T00:00:00Z", "day": 3}}, "/anchor", "contradictory"),
        ({"anchor": {"day": 3}, "alignment": "calendar"}, "/anchor", "contradictory"),
        (
            {"phases": [{"starts_at": "2026-01-15T00:00:00Z"}]},
            "/phases/0/starts_at",
            "out_of_order",
        ),
    ],
)
def test_what_a_subscription_cannot_be(fields, pointer, code):
    with pytest.raises(BillingError) as refused:
        opened(**fields)
    assert [(each.pointer, each.code) for each in refused.value.errors] == [(pointer, code)]


def test_calendar_alignment_takes_no_multiples():
    plan = PLAN | {"interval": {"unit": "month", "count": 2}}
    with pytest.raises(BillingError) as refused:
        opened(plan, alignment="calendar")
    assert refused.value.errors[0].pointer == "/alignment"
