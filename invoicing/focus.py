"""Lines as rows of FOCUS 1.2, the FinOps Open Cost and Usage Specification. Pure.

A line is one row for what it charges without tax, and one each for its discount, its promotional
credit and its tax: together they are what the line adds to its document's total.
"""

from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal, Inexact
from fractions import Fraction
from typing import Final

import msgspec

from engine.money import format_amount
from engine.period import local_date, local_midnight
from invoicing.export_table import Cell, format_instant

_EXACT: Final = Context(prec=28, traps=[Inexact])
_TEXTS: Final = (
    "BillingAccountId BillingAccountName ChargeDescription InvoiceId InvoiceIssuerName"
    " ProviderName PublisherName ServiceName SkuId SkuPriceId SubAccountId SubAccountName Tags"
    " ConsumedUnit PricingUnit"
).split()
_NAMES: Final = (
    "BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd"
    " BillingPeriodStart ChargeCategory ChargeClass ChargeDescription ChargeFrequency"
    " ChargePeriodEnd ChargePeriodStart ConsumedQuantity ConsumedUnit ContractedCost"
    " ContractedUnitPrice EffectiveCost InvoiceId InvoiceIssuerName ListCost ListUnitPrice"
    " PricingCategory PricingQuantity PricingUnit ProviderName PublisherName ServiceCategory"
    " ServiceName SkuId SkuPriceId SubAccountId SubAccountName Tags x_LineId"
).split()
FOCUS_COLUMNS: Final = {name: Cell.TEXT if name in _TEXTS else Cell.PLAIN for name in _NAMES}


class FocusLine(msgspec.Struct, frozen=True, kw_only=True):
    """A posted line with what its document says; amounts in the sign of the charge.

    `kind` is that of its price, None of a line written by hand; `unit` the meter it counts with.
    """

    line: str
    number: str
    issued_at: datetime
    currency: str
    issuer: str
    account: str
    account_name: str
    sub_account: str | None
    sub_account_name: str | None
    plan: str | None
    price: str
    name: str | None
    kind: str | None
    unit: str | None
    charge_group: str
    period_start_at: datetime | None
    period_end_at: datetime | None
    quantity: str | None
    is_correction: bool
    amount_minor: int
    discount_minor: int
    promotional_minor: int
    tax_minor: int
    tax_included_minor: int


def focus_rows(line: FocusLine, *, timezone: str) -> list[dict[str, str | None]]:
    """The rows of a line by column; BilledCost sums up to the line's part of the total."""
    common = _common(line, timezone=timezone)
    net_minor = line.amount_minor - line.tax_included_minor
    rows = [{**common, **_costs(net_minor, line.currency), **_charge(line, net_minor)}]
    for category, what, minor in (
        ("Adjustment", "Discount", -line.discount_minor),
        ("Credit", "Promotional credit", -line.promotional_minor),
        ("Tax", "Tax", line.tax_minor),
    ):
        if minor:
            told = {"ChargeCategory": category, "ChargeDescription": f"{what}: {_title(line)}"}
            rows.append({**common, **_costs(minor, line.currency), **told})
    return rows


def _title(line: FocusLine) -> str:
    return line.name or line.price


def _common(line: FocusLine, *, timezone: str) -> dict[str, str | None]:
    day = local_date(at=line.issued_at, timezone=timezone)
    first = day.replace(day=1)
    after = (first + timedelta(days=32)).replace(day=1)
    starts_at, ends_at = line.period_start_at, line.period_end_at
    if starts_at is None or ends_at is None or starts_at >= ends_at:
        starts_at = local_midnight(on=day, timezone=timezone)
        ends_at = local_midnight(on=day + timedelta(days=1), timezone=timezone)
    return dict.fromkeys(FOCUS_COLUMNS) | {
        "BillingAccountId": line.account,
        "BillingAccountName": line.account_name,
        "BillingCurrency": line.currency,
        "BillingPeriodStart": _midnight(local_midnight(on=first, timezone=timezone)),
        "BillingPeriodEnd": _midnight(local_midnight(on=after, timezone=timezone)),
        "ChargeClass": "Correction" if line.is_correction else None,
        "ChargeFrequency": {"usage": "Usage-Based", None: "One-Time", "one_time": "One-Time"}.get(
            line.kind, "Recurring"
        ),
        "ChargePeriodStart": _midnight(starts_at),
        "ChargePeriodEnd": _midnight(ends_at),
        "InvoiceId": line.number,
        "InvoiceIssuerName": line.issuer,
        "ProviderName": line.issuer,
        "PublisherName": line.issuer,
        "ServiceCategory": "Other",
        "ServiceName": line.plan or _title(line),
        "SubAccountId": line.sub_account,
        "SubAccountName": line.sub_account_name,
        "Tags": line.charge_group or None,
        "x_LineId": line.line,
    }


def _midnight(at: datetime) -> str:
    return format_instant(at.astimezone(UTC))


def _costs(minor: int, currency: str) -> dict[str, str]:
    amount = format_amount(minor, currency=currency)
    return dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), amount)


def _charge(line: FocusLine, net_minor: int) -> dict[str, str | None]:
    """What a row of usage or of a purchase says more than others."""
    is_usage = line.kind == "usage"
    unit = line.unit or "Units"
    quantity, unit_price = _priced(line, net_minor)
    return {
        "ChargeCategory": "Usage" if is_usage else "Purchase",
        "ChargeDescription": _title(line),
        "ConsumedQuantity": (line.quantity or "0") if is_usage else None,
        "ConsumedUnit": unit if is_usage else None,
        "PricingCategory": "Standard",
        "PricingQuantity": quantity,
        "PricingUnit": unit if quantity == line.quantity else "Charges",
        "ContractedUnitPrice": unit_price,
        "ListUnitPrice": unit_price,
        "SkuId": line.price,
        "SkuPriceId": line.price if line.plan is None else f"{line.plan}:{line.price}",
    }


def _priced(line: FocusLine, net_minor: int) -> tuple[str, str | None]:
    """A quantity and the price of one that multiply to exactly the cost.

    Tiers, minima, proration and included tax seldom leave such a price; the row then
    counts one charge. A correction stands for itself and has no unit price.
    """
    if line.is_correction:
        return line.quantity or "1", None
    cost = Fraction(format_amount(net_minor, currency=line.currency))
    counted = Fraction(line.quantity or 0)
    if counted > 0 and cost >= 0:
        price = cost / counted
        try:
            exact = _EXACT.divide(Decimal(price.numerator), Decimal(price.denominator))
        except Inexact:
            pass
        else:
            return line.quantity or "1", f"{exact:f}"
    one = "1" if net_minor >= 0 else "-1"
    return one, format_amount(abs(net_minor), currency=line.currency)
