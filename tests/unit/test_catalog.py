"""What a body of the catalogue must satisfy, and how patches apply."""

from datetime import UTC, datetime

import msgspec
import pytest

from engine.errors import BillingError
from engine.period import Alignment, IntervalUnit
from plans.api_keys import secret_digest, secret_text
from plans.catalog import (
    currency_errors,
    customer_errors,
    is_timezone,
    meter_errors,
    party_id,
    party_of_customer,
    refuse_invalid,
    unmetered_errors,
)
from plans.drafts import CustomerPatch, PlanVersionDraft, next_version, patched
from plans.model import (
    Aggregation,
    CustomerDraft,
    MeterDraft,
    Mode,
    Party,
    Plan,
    PlanDraft,
)
from plans.prices import (
    FlatPrice,
    Interval,
    Kind,
    MatrixPrice,
    MatrixRow,
    PercentagePrice,
    PerUnitPrice,
)

BASE = FlatPrice(key="base", kind=Kind.RECURRING, flat_amount="49.00")
CALLS = PerUnitPrice(key="calls", kind=Kind.USAGE, meter="calls", unit_amount="0.1")
MONTH = Interval(unit=IntervalUnit.MONTH)
LATEST = Plan(
    id="pln_1",
    key="pro",
    version=3,
    name="Pro",
    currency="USD",
    interval=MONTH,
    alignment=Alignment.CALENDAR,
    prices=(BASE,),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("UTC", True),
        ("Europe/Berlin", True),
        ("Asia/Kolkata", True),
        ("europe/berlin", False),
        ("Europe/", False),
        ("../../etc/passwd", False),
        ("", False),
    ],
)
def test_timezones_are_spelled_as_in_the_database(name: str, known: bool) -> None:
    assert is_timezone(name) is known


def test_errors_of_a_customer_have_their_places() -> None:
    emails = ("a@b.example", "a b@c.example", "@c.example", "a@", "a@b\n.example")
    draft = CustomerDraft(key="a", name="A", currency="ABC", timezone="Mars", emails=emails)
    assert [(error.pointer, error.code) for error in customer_errors(draft)] == [
        ("/currency", "unknown_currency"),
        ("/timezone", "unknown_timezone"),
        ("/emails/1", "invalid"),
        ("/emails/2", "invalid"),
        ("/emails/3", "invalid"),
        ("/emails/4", "invalid"),
    ]
    assert customer_errors(CustomerDraft(key="a", name="A")) == []


def test_every_aggregation_but_count_measures_a_property() -> None:
    for aggregation in Aggregation:
        bare = MeterDraft(key="m", event_type="t", aggregation=aggregation)
        measuring = MeterDraft(key="m", event_type="t", aggregation=aggregation, value="v")
        counts = aggregation in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}
        missing = [error.code for error in meter_errors(bare) if error.pointer == "/value"]
        given = [error.code for error in meter_errors(measuring) if error.pointer == "/value"]
        assert (missing, given) == (([], ["invalid"]) if counts else (["required"], []))


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({"aggregation": "sum", "value": "a"}, []),
        ({"aggregation": "sum", "value": "a", "carry_over": False}, []),
        ({"aggregation": "unique_count", "unique_by": "host"}, []),
        ({"aggregation": "unique_count"}, [("/unique_by", "required")]),
        ({"aggregation": "count", "unique_by": "host"}, [("/unique_by", "invalid")]),
        ({"aggregation": "percentile", "value": "a", "percentile": 95}, []),
        ({"aggregation": "percentile", "value": "a", "percentile": "99.9"}, []),
        ({"aggregation": "percentile", "value": "a"}, [("/percentile", "required")]),
        (
            {"aggregation": "percentile", "value": "a", "percentile": "0.000"},
            [("/percentile", "out_of_range")],
        ),
        (
            {"aggregation": "percentile", "value": "a", "percentile": "100.01"},
            [("/percentile", "out_of_range")],
        ),
        (
            {"aggregation": "max", "value": "a", "percentile": 50, "carry_over": True},
            [("/percentile", "invalid"), ("/carry_over", "invalid")],
        ),
        ({"aggregation": "weighted_sum", "value": "a", "carry_over": True}, []),
        ({"aggregation": "weighted_sum", "value": "a - b"}, []),
        ({"aggregation": "sum", "value": "a +"}, [("/value", "invalid_expression")]),
    ],
)
def test_options_belong_to_their_aggregation(fields: dict, errors: list) -> None:
    draft = msgspec.convert({"key": "m", "event_type": "t"} | fields, MeterDraft)
    assert [(error.pointer, error.code) for error in meter_errors(draft)] == errors


def test_an_expression_is_refused_with_the_place_in_it() -> None:
    draft = MeterDraft(
        key="m", event_type="t", aggregation=Aggregation.SUM, value="max(input; output)"
    )
    (error,) = meter_errors(draft)
    assert error.detail == "'; output)' is not understood at position 10"


def test_prices_name_known_meters() -> None:
    draft = PlanDraft(key="p", currency="USD", interval=MONTH, prices=(BASE, CALLS))
    assert unmetered_errors(draft=draft, known={"calls": ()}) == []
    found = unmetered_errors(draft=draft, known={})
    assert [error.pointer for error in found] == ["/prices/1/meter"]


def test_prices_need_dimensions_that_their_meters_keep() -> None:
    grouped = PerUnitPrice(
        key="a", kind=Kind.USAGE, meter="calls", unit_amount="1", group_by=("region", "tier")
    )
    matrix = MatrixPrice(
        key="b",
        kind=Kind.USAGE,
        meter="calls",
        unit_amount="1",
        matrix=(
            MatrixRow(match={"tier": "gold"}, unit_amount="2"),
            MatrixRow(match={"tier": "iron", "cached": "true"}, unit_amount="3"),
        ),
    )
    draft = PlanDraft(key="p", currency="USD", interval=MONTH, prices=(CALLS, grouped, matrix))
    kept = {"region", "tier", "cached"}
    assert unmetered_errors(draft=draft, known={"calls": kept}) == []
    found = unmetered_errors(draft=draft, known={"calls": {"tier"}})
    assert [(error.pointer, error.code) for error in found] == [
        ("/prices/1/group_by", "unknown_dimension"),
        ("/prices/2/matrix", "unknown_dimension"),
    ]
    assert "region" in found[0].detail
    assert "cached" in found[1].detail
    assert len(unmetered_errors(draft=draft, known={"calls": ()})) == 2


@pytest.mark.parametrize(
    ("aggregation", "codes"),
    [
        (Aggregation.UNIQUE_COUNT, ["not_allowed"]),
        (Aggregation.WEIGHTED_SUM, ["not_allowed"]),
        (Aggregation.SUM, []),
    ],
)
def test_a_percentage_is_of_amounts(aggregation: Aggregation, codes: list[str]) -> None:
    price = PercentagePrice(key="fee", kind=Kind.USAGE, meter="calls", rate="2.5")
    draft = PlanDraft(key="p", currency="USD", interval=MONTH, prices=(BASE, CALLS, price))
    found = unmetered_errors(
        draft=draft, known={"calls": ()}, aggregations={"calls": aggregation}
    )  # fmt: skip
    assert [error.code for error in found] == codes
    assert {error.pointer for error in found} <= {"/prices/2/meter"}


def test_a_meter_keeps_a_dimension_once() -> None:
    draft = MeterDraft(
        key="m", event_type="t", aggregation=Aggregation.COUNT, group_by=("a", "b", "a")
    )
    assert [error.pointer for error in meter_errors(draft)] == ["/group_by/2"]


def test_every_error_is_raised_together() -> None:
    refuse_invalid([])
    with pytest.raises(BillingError) as caught:
        refuse_invalid(currency_errors("ABC") + currency_errors("ABD", pointer="/other"))
    assert caught.value.code == "invalid_body"
    assert [error.pointer for error in caught.value.errors] == ["/currency", "/other"]


def test_a_party_is_named_by_its_content() -> None:
    draft = CustomerDraft(key="a", name="A", country="DE")
    same = CustomerDraft(key="b", name="A", country="DE", po_number="7")
    other = CustomerDraft(key="a", name="A", country="FR")
    assert party_id(party_of_customer(draft)) == party_id(party_of_customer(same))
    assert party_id(party_of_customer(draft)) != party_id(party_of_customer(other))
    assert party_id(Party(name="A")) == party_id(Party(name="A"))


def test_a_version_takes_what_it_does_not_name_from_the_latest() -> None:
    draft = next_version(latest=LATEST, draft=PlanVersionDraft(prices=(CALLS,)))
    assert draft == PlanDraft(
        key="pro",
        name="Pro",
        currency="USD",
        interval=MONTH,
        alignment=Alignment.CALENDAR,
        prices=(CALLS,),
    )
    named = PlanVersionDraft(key="pro", currency="USD", name=None, prices=(CALLS,))
    assert next_version(latest=LATEST, draft=named).name is None


def test_a_version_keeps_key_and_currency() -> None:
    wrong = PlanVersionDraft(key="other", currency="EUR", prices=(BASE,))
    with pytest.raises(BillingError) as caught:
        next_version(latest=LATEST, draft=wrong)
    assert [error.pointer for error in caught.value.errors] == ["/key", "/currency"]


def test_a_patch_can_clear_and_can_leave_alone() -> None:
    draft = CustomerDraft(key="a", name="A", po_number="7", country="DE")
    assert patched(draft=draft, patch=CustomerPatch()) == draft
    changed = patched(draft=draft, patch=CustomerPatch(po_number=None, name="B"))
    assert changed == CustomerDraft(key="a", name="B", country="DE")


def test_a_secret_tells_its_mode_and_is_kept_as_a_hash() -> None:
    secret = secret_text(mode=Mode.LIVE, random_text="x" * 43)
    assert secret == "usk_live_" + "x" * 43
    assert len(secret_digest(secret)) == 32
    assert secret_digest(secret) != secret_digest(secret_text(mode=Mode.TEST, random_text="x" * 43))
