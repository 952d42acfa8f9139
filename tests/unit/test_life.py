import msgspec
import pytest

from engine.period import Alignment
from plans.agreement import Anchor
from plans.life import Act, ActKind, Beginning, Catalogue, Offer, lay_out
from plans.model import Plan
from plans.own_prices import own_price
from plans.prices import Price
from tests.agreements import SEATS, SETUP, TOKENS, at

SUPPORT = {"key": "support", "kind": "recurring", "model": "flat", "flat_amount": "9.00"}
START = Anchor(at=at("2026-01-01"))


def offer(plan_id, *prices, key="team", unit="month"):
    plan = {
        "id": plan_id,
        "key": key,
        "version": 1,
        "name": None,
        "currency": "EUR",
        "interval": {"unit": unit},
        "alignment": "anniversary",
        "prices": list(prices),
        "created_at": "2026-01-01T00:00:00Z",
    }
    ids = {price["key"]: f"{plan_id}.{price['key']}" for price in prices}
    return Offer(plan=msgspec.convert(plan, Plan), price_ids=ids)


CATALOGUE = Catalogue(
    offers={
        "small": offer("small", SEATS, TOKENS, SETUP),
        "large": offer("large", SEATS | {"unit_amount": "62.00"}, TOKENS, SUPPORT, key="large"),
        "yearly": offer("yearly", SEATS, TOKENS | {"interval": {"unit": "month"}}, unit="year"),
    },
    prices={"own": msgspec.convert(SEATS | {"unit_amount": "20.00"}, Price)},
)


def act(number, when, **fields):
    return Act(
        id=f"sch_{number}",
        number=number,
        kind=fields.pop("kind", ActKind.CHANGE),
        effective_at=at(when),
        recorded_at=at(when),
        **fields,
    )


def laid(*acts, **fields):
    values = {
        "starts_at": at("2026-01-01"),
        "ends_at": None,
        "trial_ends_at": None,
        "anchor": START,
        "timezone": "UTC",
        "plan": "small",
        "quantities": {},
        "overrides": {},
    }
    runs = lay_out(beginning=Beginning(**(values | fields)), acts=acts, catalogue=CATALOGUE)
    return {
        (run.terms.price_id, run.terms.quantity, f"{run.start_at:%m-%d}"): run.end_at
        and f"{run.end_at:%m-%d}"
        for run in runs
    }


def test_a_quantity_touches_its_own_price_only():
    assert laid(act(1, "2026-01-16", quantities={"seats": "5"})) == {
        ("small.seats", "1", "01-01"): "01-16",
        ("small.seats", "5", "01-16"): None,
        ("small.tokens", "1", "01-01"): None,
        ("small.setup", "1", "01-01"): None,
    }


def test_a_price_left_identical_by_another_plan_keeps_its_interval():
    found = laid(act(1, "2026-01-16", plan="large"))
    assert found[("small.tokens", "1", "01-01")] is None
    assert found[("small.setup", "1", "01-01")] == "01-16"
    assert found[("large.support", "1", "01-16")] is None


def test_a_change_put_back_at_once_was_none():
    up, down = (
        act(number, "2026-01-16", quantities={"seats": each})
        for number, each in ((1, "8"), (2, "1"))
    )
    assert laid(up, down) == laid()


def test_changes_count_in_the_order_in_which_they_take_effect():
    late = act(1, "2026-01-21", quantities={"seats": "3"})
    early = act(2, "2026-01-11", quantities={"seats": "2"})
    found = laid(late, early)
    assert found[("small.seats", "1", "01-01")] == "01-11"
    assert found[("small.seats", "2", "01-11")] == "01-21"
    assert found[("small.seats", "3", "01-21")] is None


def test_a_new_unit_begins_its_own_periods_and_keeps_what_has_its_own_interval():
    moved = act(1, "2026-01-16", plan="yearly")
    runs = lay_out(
        beginning=Beginning(
            starts_at=at("2026-01-01"),
            ends_at=None,
            trial_ends_at=None,
            anchor=START,
            timezone="UTC",
            plan="small",
            quantities={},
            overrides={},
        ),
        acts=[moved],
        catalogue=CATALOGUE,
    )
    anchors = {run.terms.price_id: run.anchor for run in runs}
    assert anchors["yearly.seats"] == Anchor(at=at("2026-01-16"), alignment=Alignment.ANNIVERSARY)
    assert anchors["small.tokens"] is None
    assert "yearly.tokens" not in anchors


def test_without_proration_a_recurring_price_waits_for_its_boundary():
    found = laid(act(1, "2026-01-16", plan="large", prorate=False))
    assert found[("small.seats", "1", "01-01")] == "02-01"
    assert found[("large.seats", "1", "02-01")] is None
    assert found[("large.support", "1", "02-01")] is None


def test_a_trial_frees_recurring_prices_only():
    found = laid(trial_ends_at=at("2026-01-15"))
    assert set(found) == {
        ("small.seats", "1", "01-15"),
        ("small.tokens", "1", "01-01"),
        ("small.setup", "1", "01-01"),
    }
    changed = laid(act(1, "2026-01-10", quantities={"seats": "4"}), trial_ends_at=at("2026-01-15"))
    assert ("small.seats", "4", "01-15") in changed
    assert ("small.seats", "1", "01-15") not in changed


def test_a_pause_closes_and_a_resume_reopens_all_but_what_is_charged_once():
    paused = act(1, "2026-01-11", kind=ActKind.PAUSE)
    resumed = act(2, "2026-01-21", kind=ActKind.RESUME)
    assert laid(paused, resumed) == {
        ("small.seats", "1", "01-01"): "01-11",
        ("small.seats", "1", "01-21"): None,
        ("small.tokens", "1", "01-01"): "01-11",
        ("small.tokens", "1", "01-21"): None,
        ("small.setup", "1", "01-01"): None,
    }


def test_an_own_price_stands_until_another_plan():
    own = act(1, "2026-01-11", overrides={"seats": "own"})
    assert laid(own)[("own", "1", "01-11")] is None
    both = laid(own, act(2, "2026-01-21", plan="large"))
    assert both[("own", "1", "01-11")] == "01-21"
    assert both[("large.seats", "1", "01-21")] is None


def test_the_end_cuts_every_run():
    found = laid(act(1, "2026-01-16", quantities={"seats": "5"}), ends_at=at("2026-01-10"))
    assert set(found.values()) == {"01-10"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"kind": "usage"}, "contradictory"),
        ({"unit_amount": "x"}, "invalid"),
        ({"flat_amount": "1.00"}, "unknown_field"),
        ({"model": "flat", "flat_amount": "1.005"}, "too_many_digits"),
    ],
)
def test_own_prices_that_cannot_be(fields, code):
    found = own_price(
        price=msgspec.convert(SEATS, Price),
        fields=fields,
        currency="EUR",
        alignment=Alignment.ANNIVERSARY,
        pointer="/overrides/seats",
    )
    assert isinstance(found, list)
    assert found[0].pointer.startswith("/overrides/seats")
    if code != "too_many_digits":
        assert found[0].code == code
