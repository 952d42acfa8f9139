"""FOCUS rows: they sum up to the line, and keep a table of the specification's rules."""

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from engine.money import format_amount
from invoicing.focus import FOCUS_COLUMNS, FocusLine, focus_rows

NEVER_NULL = (
    "BilledCost BillingAccountId BillingCurrency BillingPeriodStart BillingPeriodEnd"
    " ChargeCategory ChargeFrequency ChargePeriodStart ChargePeriodEnd ContractedCost EffectiveCost"
    " InvoiceId InvoiceIssuerName ListCost ProviderName PublisherName ServiceCategory ServiceName"
).split()
"""Columns that allow no null in any row."""
OF_CHARGES = (
    "PricingQuantity PricingUnit PricingCategory ContractedUnitPrice ListUnitPrice SkuId SkuPriceId"
).split()
"""Not null for usage and purchases that are no correction; null for tax."""
ALLOWED = {
    "ChargeCategory": {"Usage", "Purchase", "Tax", "Credit", "Adjustment"},
    "ChargeClass": {None, "Correction"},
    "ChargeFrequency": {"One-Time", "Recurring", "Usage-Based"},
    "PricingCategory": {None, "Standard", "Dynamic", "Committed", "Other"},
    "ServiceCategory": {"Other"},
}
MINOR = st.integers(-(10**9), 10**9)
LINES = st.builds(
    FocusLine,
    line=st.just("li_1"),
    number=st.just("INV-1"),
    issued_at=st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),
    currency=st.sampled_from(["USD", "JPY", "KWD"]),
    issuer=st.just("Us"),
    account=st.just("acme"),
    account_name=st.just("Acme"),
    sub_account=st.none() | st.just("child"),
    sub_account_name=st.none() | st.just("Child"),
    plan=st.none() | st.just("pro"),
    price=st.just("fee"),
    name=st.none() | st.just("Fee"),
    kind=st.sampled_from([None, "usage", "recurring", "one_time", "commitment"]),
    unit=st.none() | st.just("tokens"),
    charge_group=st.sampled_from(["", '{"model":"big"}']),
    period_start_at=st.none() | st.just(datetime(2026, 1, 1, tzinfo=UTC)),
    period_end_at=st.none() | st.just(datetime(2026, 2, 1, tzinfo=UTC)),
    quantity=st.none() | st.decimals(-1000, 10**9, places=3).map(lambda one: f"{one:f}"),
    is_correction=st.booleans(),
    amount_minor=MINOR,
    discount_minor=MINOR,
    promotional_minor=MINOR,
    tax_minor=MINOR,
    tax_included_minor=MINOR,
)


@given(LINES, st.sampled_from(["UTC", "Asia/Tokyo", "America/New_York"]))
def test_the_rows_sum_up_to_the_line_and_keep_the_rules(line: FocusLine, timezone: str) -> None:
    rows = focus_rows(line, timezone=timezone)
    adds_minor = line.amount_minor - line.discount_minor - line.promotional_minor
    adds_minor += line.tax_minor - line.tax_included_minor
    billed = sum(Decimal(row["BilledCost"] or "") for row in rows)
    assert billed == Decimal(format_amount(adds_minor, currency=line.currency))
    for row in rows:
        keeps_the_rules(row)


def keeps_the_rules(row: dict[str, str | None]) -> None:
    """Assert what the specification says of nulls, allowed values and products."""
    assert list(row) == list(FOCUS_COLUMNS)
    assert all(row[name] for name in NEVER_NULL), row
    for name, values in ALLOWED.items():
        assert row[name] in values, name
    category, is_correction = row["ChargeCategory"], row["ChargeClass"] == "Correction"
    if category in {"Usage", "Purchase"} and not is_correction:
        assert all(row[name] is not None for name in OF_CHARGES), row
    if category == "Tax":
        assert all(row[name] is None for name in OF_CHARGES), row
    if category == "Purchase":
        assert row["ChargeFrequency"] != "Usage-Based"
    assert (row["ConsumedQuantity"] is not None) == (category == "Usage")
    assert (row["ConsumedQuantity"] is None) == (row["ConsumedUnit"] is None)
    for price, cost in (("ContractedUnitPrice", "ContractedCost"), ("ListUnitPrice", "ListCost")):
        unit_price = row[price]
        if unit_price is not None and not is_correction:
            assert Decimal(unit_price) >= 0
            product = Decimal(unit_price) * Decimal(row["PricingQuantity"] or "")
            assert product == Decimal(row[cost] or "")
        elif unit_price is None:
            assert row[cost] == row["BilledCost"]
    assert str(row["BillingPeriodStart"]) < str(row["BillingPeriodEnd"])
    assert str(row["ChargePeriodStart"]) < str(row["ChargePeriodEnd"])
