import msgspec
import pytest

from plans.entitlements import plain_entitlements
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


def usage(model, **fields):
    return {"key": "u", "kind": "usage", "meter": "m", "model": model} | fields


def matrix(*rows, **fields):
    listed = [{"match": match, "unit_amount": "1"} for match in rows]
    return usage("matrix", unit_amount="0.5", matrix=listed, **fields)


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
        (
            usage("stairstep", tiers=[{"flat_amount": "0.001"}]),
            "tiers/0/flat_amount",
            "too_many_digits",
        ),
        (
            usage("graduated_percentage", tiers=[{"up_to": "5", "rate": "1"}]),
            "tiers/0/up_to",
            "not_open",
        ),
        (usage("dynamic", kind="one_time", meter=None), "kind", "not_allowed"),
        (
            usage("graduated_percentage", kind="recurring", meter=None, tiers=[{"rate": "1"}]),
            "kind",
            "not_allowed",
        ),
    ],
)
def test_each_fault_is_named_at_its_field(price, field, code):
    assert faults([price]) == {(f"/prices/0/{field}", code)}


@pytest.mark.parametrize(
    ("price", "found"),
    [
        (usage("percentage", rate="2.9", fixed_amount="0.005"), set()),
        (
            usage("percentage", rate="1", included_quantity="5", quantity_rounding={"mode": "up"}),
            {("included_quantity", "not_allowed"), ("quantity_rounding", "not_allowed")},
        ),
        (
            usage("percentage", rate="1", free_events=0, free_amount="10"),
            {("free_events", "contradictory")},
        ),
        (
            usage("percentage", rate="1", free_amount="1000000000000000"),
            {("free_amount", "quantity_out_of_range")},
        ),
        (
            usage("percentage", rate="1", event_minimum="2", event_maximum="1.99"),
            {("event_minimum", "above_maximum")},
        ),
        (matrix({"a": "1", "b": "2"}, {"a": "1"}, {"b": "2"}), set()),
        (matrix(), {("matrix", "required")}),
        (matrix({}), {("matrix/0/match", "required")}),
        (matrix({"a": "1"}, {"b": "2", "a": "1"}), {("matrix/1/match", "unreachable")}),
        (matrix({"a": "x" * 501}), {("matrix/0/match/a", "too_long")}),
        (
            matrix({"a": "1"}, included_quantity="5"),
            {("included_quantity", "not_allowed")},
        ),
        (
            usage("per_unit", unit_amount="1", group_by=["a", "b", "a"]),
            {("group_by/2", "duplicate")},
        ),
        (recurring(group_by=["a"]), {("group_by", "not_allowed")}),
    ],
)
def test_options_that_undo_each_other_are_named(price, found):
    assert faults([price]) == {(f"/prices/0/{field}", code) for field, code in found}


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


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"2.5", "2.5"),
        (b'"2.50"', "2.5"),
        (b"0.100000001", "0.100000001"),
        (b"123456789012345.123456789", "123456789012345.123456789"),
        (b"1e3", "1000"),
        (b"0.1000000001", None),
        (b"1e15", None),
        (b"1e999999999", None),
        (b"1e-999999999", None),
        (b"-1", None),
        (b'"NaN"', None),
        (b'"Infinity"', None),
    ],
)
def test_a_granted_number_is_taken_as_it_is_written(written, kept) -> None:
    body = (
        b'{"key": "p", "currency": "USD", "interval": {"unit": "month"}, "prices": [],'
        b' "entitlements": {"seats": ' + written + b"}}"
    )
    draft = msgspec.json.decode(body, type=PlanDraft)
    found = [error.pointer for error in validate_plan(draft)]
    if kept is None:
        assert found == ["/entitlements/seats"]
    else:
        assert (found, plain_entitlements(draft.entitlements)) == ([], {"seats": kept})
