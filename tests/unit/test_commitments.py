import msgspec
import pytest

from invoicing.commitments import (
    commitments_touched,
    counted_in_all,
    has_commitment,
    shortfall,
)
from invoicing.difference import RatedCharge, difference_of
from invoicing.model import Reason
from plans.model import PlanDraft, charged_prices
from plans.prices import commitment_price
from plans.validation import validate_plan
from tests.agreements import SEATS, SECONDS, TOKENS, agreement, at, due, posted

MINIMUM = msgspec.to_builtins(commitment_price("100.00"))
AGREED = agreement(SEATS | {"bill": "in_arrears"}, TOKENS, MINIMUM)


def pledge(agreed=AGREED, through="2026-02-01"):
    return next(charge for charge in due(agreed, through) if charge.is_commitment)


def rated(charge, amount_minor):
    return RatedCharge(charge=charge, quantity_nanos=0, amount_minor=amount_minor)


def plan(**fields):
    body = {"key": "team", "currency": "EUR", "interval": {"unit": "month"}, "prices": [SEATS]}
    return msgspec.convert(body | fields, PlanDraft)


@pytest.mark.parametrize(("counted", "added"), [(0, 10000), (3100, 6900), (10000, 0), (12000, 0)])
def test_what_charges_lack_of_the_minimum_is_added(counted, added):
    found = shortfall(rated=rated(pledge(), 10000), counted=[(at("2026-01-01"), counted)])
    assert found.amount_minor == added


def test_only_charges_that_begin_in_the_stretch_count():
    instants = ["2025-12-31T23:59:59", "2026-01-31T23:59:59", "2026-02-01"]
    counted = [(at(each), 1000) for each in instants]
    assert shortfall(rated=rated(pledge(), 10000), counted=counted).amount_minor == 9000


def test_what_is_derived_counts_else_what_is_posted_and_not_void():
    lines = [
        posted(1, 300, "2026-01-01", "2026-02-01"),
        posted(2, 200, "2026-01-01", "2026-02-01", counts=False),
    ]
    january, february = at("2026-01-01"), at("2026-02-01")
    counted = counted_in_all(
        agreement=AGREED,
        posted={("pri_2", january): lines, ("pri_2", february): lines, ("pri_3", january): lines},
        starts={"pri_2": [january, february], "pri_3": [january]},
        derived={("pri_2", february): (february, 350)},
    )
    assert list(counted) == [(january, 300), (february, 350)]


def test_a_charge_derived_again_brings_its_commitment_along():
    usage = [charge for charge in due(AGREED, "2026-02-01") if charge.is_usage]
    found = commitments_touched(
        agreement=AGREED, charges=usage, terms=SECONDS, through=at("2026-02-01")
    )
    assert [charge.key for charge in found] == [("pri_3", at("2026-01-01"))]
    known = commitments_touched(
        agreement=AGREED, charges=[*usage, *found], terms=SECONDS, through=at("2026-02-01")
    )
    early = commitments_touched(
        agreement=AGREED, charges=usage, terms=SECONDS, through=at("2026-01-31")
    )
    assert known == early == []
    assert has_commitment(AGREED) and not has_commitment(agreement(SEATS))


def test_its_lines_say_true_up_over_the_whole_stretch():
    first = difference_of(rated=rated(pledge(), 7000), posted=[])
    assert first.reason is Reason.TRUE_UP
    later = difference_of(
        rated=rated(pledge(), 5000), posted=[posted(1, 7000, "2026-01-01", "2026-02-01")]
    )
    assert (later.amount_minor, later.reason) == (-2000, Reason.TRUE_UP)
    assert later.period.end == at("2026-02-01")


def test_part_of_a_period_owes_part_of_the_minimum():
    charge = pledge(agreement(MINIMUM, ends_at=at("2026-01-11")), "2026-01-11")
    assert charge.numerator * 31 == charge.denominator * 10


def test_the_minimum_is_kept_as_a_price_that_nobody_states():
    assert charged_prices(plan()) == plan().prices
    assert charged_prices(plan(minimum_commitment="5.00"))[1:] == (commitment_price("5.00"),)
    errors = validate_plan(plan(prices=[MINIMUM], minimum_commitment="5.001"))
    assert {(each.pointer, each.code) for each in errors} == {
        ("/minimum_commitment", "too_many_digits"),
        ("/prices/0/kind", "not_allowed"),
        ("/prices/0/key", "reserved"),
    }
