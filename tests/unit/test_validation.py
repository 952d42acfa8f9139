import msgspec
import pytest

from plans.model import PlanDraft
from plans.validation import validate_plan


def faults(prices, **fields):
    body = {"key": "pro", "currency": "USD", "interval": {"unit": "month"}, "prices": prices}
    draft = msgspec.convert(body | fields, PlanDraft)
    return {(error.pointer, error.code) for error in validate_plan(draft)}


def recurring(**fields):
    return {"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": "49.00"} | fields


def tiered(*tiers):
    return {"key": "t", "kind": "usage", "meter": "m", "model": "volume", "tiers": list(tiers)}


def test_a_sound_plan_has_no_faults():
    tiers = [{"up_to": "10", "unit_amount": "0.000000000001"}, {"up_to": None}]
    assert faults([recurring(), tiered(*tiers)]) == set()


@pytest.mark.parametrize(
    ("price", "field", "code"),
    [
        (recurring(flat_amount="1.005"), "flat_amount", "too_many_digits"),
        (recurring(maximum_amount="1.001"), "maximum_amount", "too_many_digits"),
        (
            recurring(minimum_amount="10.1", maximum_amount="9.90"),
            "minimum_amount",
            "above_maximum",
        ),
        (recurring(meter="calls"), "meter", "not_allowed"),
        (recurring(kind="usage"), "meter", "required"),
        (recurring(kind="usage", meter="m", bill="in_advance"), "bill", "usage_in_advance"),
        (recurring(kind="usage", meter="m", quantity="3"), "quantity", "not_allowed"),
        (recurring(quantity="1000000000000000"), "quantity", "quantity_out_of_range"),
        (
            recurring(included_quantity="0.0000000001"),
            "included_quantity",
            "quantity_out_of_range",
        ),
        (
            {
                "key": "p",
                "kind": "recurring",
                "model": "package",
                "unit_amount": "1",
                "package_size": "0.00",
            },
            "package_size",
            "not_positive",
        ),
        (tiered(), "tiers", "required"),
        (tiered({"up_to": "5"}), "tiers/0/up_to", "not_open"),
        (tiered({"up_to": None}, {"up_to": None}), "tiers/0/up_to", "required"),
        (tiered({"up_to": "0"}, {"up_to": None}), "tiers/0/up_to", "not_ascending"),
        (
            tiered({"up_to": "10"}, {"up_to": "9.9"}, {"up_to": None}),
            "tiers/1/up_to",
            "not_ascending",
        ),
        (
            tiered({"up_to": None, "flat_amount": "0.001"}),
            "tiers/0/flat_amount",
            "too_many_digits",
        ),
    ],
)
def test_each_fault_is_named_at_its_field(price, field, code):
    assert faults([price]) == {(f"/prices/0/{field}", code)}


def test_all_faults_are_told_at_once():
    found = faults(
        [recurring(), recurring(flat_amount="0.5", interval={"unit": "month", "count": 3})],
        currency="JPY",
        alignment="calendar",
        interval={"unit": "month", "count": 2},
    )
    assert found == {
        ("/interval/count", "calendar_count"),
        ("/prices/1/key", "duplicate_key"),
        ("/prices/1/flat_amount", "too_many_digits"),
        ("/prices/1/interval/count", "calendar_count"),
    }


def test_an_unknown_currency_is_a_fault():
    assert ("/currency", "unknown_currency") in faults([recurring()], currency="XXQ")
