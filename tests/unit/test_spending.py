import pytest

from invoicing.charges import running_usage, vanished_charge
from invoicing.difference import RatedCharge, difference_of
from invoicing.model import Reason
from plans.spending import is_reached, threshold_faults, thresholds_minor
from tests.agreements import SEATS, SECONDS, TOKENS, agreement, at, posted


@pytest.mark.parametrize(
    ("spent", "billed", "reached"),
    [(99, 0, False), (100, 0, True), (250, 100, False), (300, 100, True), (900, 300, False)],
)
def test_a_threshold_is_reached_by_what_is_not_billed(spent, billed, reached):
    found = is_reached(thresholds=(100, 300), spent_minor=spent, billed_minor=billed)
    assert found is reached


def test_thresholds_rise_above_zero_in_whole_minor_units():
    texts = ["0.00", "5.00", "5.00", "5.001", "6"]
    faults = threshold_faults(thresholds=texts, currency="EUR")
    assert [(each.pointer[-1], each.code) for each in faults] == [
        ("0", "out_of_order"),
        ("2", "out_of_order"),
        ("3", "too_many_digits"),
    ]
    assert thresholds_minor(thresholds=["5.00", "6"], currency="EUR") == [500, 600]


def test_only_usage_of_the_period_running_is_looked_at():
    agreed = agreement(SEATS, TOKENS, ends_at=at("2026-02-15"))
    inside = running_usage(agreement=agreed, at=at("2026-02-10"), terms=SECONDS)
    assert [(each.key, each.due_at) for each in inside] == [
        (("pri_2", at("2026-02-01")), at("2026-02-15"))
    ]
    assert running_usage(agreement=agreed, at=at("2026-02-15"), terms=SECONDS) == []
    assert running_usage(agreement=agreed, at=at("2025-12-31"), terms=SECONDS) == []


def test_the_rest_of_usage_billed_early_is_not_late_and_not_taken_back():
    agreed = agreement(TOKENS, spend_thresholds=(100,), dirty_from_at=at("2026-01-01"))
    (charge,) = running_usage(agreement=agreed, at=at("2026-01-10"), terms=SECONDS)
    rated = RatedCharge(charge=charge, quantity_nanos=0, amount_minor=500)
    early = posted(1, 300, "2026-01-01", "2026-02-01", issued_at=at("2026-01-05"))
    late = posted(2, 100, "2026-01-01", "2026-02-01", issued_at=at("2026-02-01"))
    assert difference_of(rated=rated, posted=[early]).reason is Reason.INITIAL
    assert difference_of(rated=rated, posted=[early, late]).reason is Reason.LATE_USAGE
    kept = vanished_charge(
        agreement=agreed,
        stretch=charge.stretch,
        period_start=at("2026-01-01"),
        terms=SECONDS,
        through=at("2026-01-10"),
    )
    assert kept is None
