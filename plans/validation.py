"""What a plan must satisfy beyond its shape: every fault at its field, all of them at once."""

from collections.abc import Iterator
from decimal import Decimal
from itertools import pairwise
from typing import Final

from engine.errors import FieldError
from engine.money import currency_digits, is_currency
from engine.period import Alignment
from plans.model import PlanDraft
from plans.prices import (
    COMMITMENT_KEY,
    Bill,
    DynamicPrice,
    FlatPrice,
    GraduatedPercentagePrice,
    Kind,
    MatrixPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    TieredPrice,
)

QUANTITY_DIGITS: Final = 9
QUANTITY_WHOLE_DIGITS: Final = 15
MATCH_LENGTH: Final = 500
_LONGEST: Final = 30
_RANGE: Final = "quantities lie below 10^15 and have at most 9 fractional digits"

_FROM_USAGE: Final = (PercentagePrice, GraduatedPercentagePrice, MatrixPrice, DynamicPrice)
_WITHOUT_ALLOWANCE: Final = {
    "percentage": "free_events and free_amount say what is free",
    "matrix": "an allowance over a matrix would have no price of its own",
}


def validate_plan(draft: PlanDraft) -> list[FieldError]:
    """All faults of the body, by JSON pointer; empty when it may be published."""
    errors: list[FieldError] = []
    if not is_currency(draft.currency):
        detail = f"{draft.currency} is not an ISO 4217 currency"
        errors.append(_error("/currency", "unknown_currency", detail))
    if draft.alignment is Alignment.CALENDAR and draft.interval.count != 1:
        errors.append(_calendar_count("/interval/count"))
    errors += _minimum_errors(draft)
    keys: set[str] = set()
    for index, price in enumerate(draft.prices):
        pointer = f"/prices/{index}"
        if price.key in keys:
            detail = f"another price of this plan has the key {price.key}"
            errors.append(_error(f"{pointer}/key", "duplicate_key", detail))
        keys.add(price.key)
        errors += price_errors(
            price=price, currency=draft.currency, alignment=draft.alignment, pointer=pointer
        )
    for feature, granted in draft.entitlements.items():
        if not isinstance(granted, bool) and not _is_granted(granted):
            errors.append(_error(f"/entitlements/{feature}", "quantity_out_of_range", _RANGE))
    return errors


def _minimum_errors(draft: PlanDraft) -> list[FieldError]:
    minimum, field = draft.minimum_commitment, "/minimum_commitment"
    if minimum is None or not is_currency(draft.currency):
        return []
    digits = currency_digits(draft.currency)
    if _fraction_digits(minimum) > digits:
        detail = f"{draft.currency} has {digits} fractional digits"
        return [_error(field, "too_many_digits", detail)]
    if not _is_quantity(minimum):
        return [_error(field, "out_of_range", "amounts lie below 10^15")]
    return []


def price_errors(
    *, price: Price, currency: str, alignment: Alignment, pointer: str
) -> list[FieldError]:
    """All faults of one price; `pointer` is where it stands in the body."""
    return [
        _error(f"{pointer}{field}", code, detail)
        for faults in (
            _terms(price, alignment),
            _amounts(price, currency),
            _quantities(price),
            _tiers(price),
            _percentage(price),
            _matrix(price),
            _groups(price),
        )
        for field, code, detail in faults
    ]


_Fault = tuple[str, str, str]  # field below the price, code, sentence


def _error(pointer: str, code: str, detail: str) -> FieldError:
    return FieldError(pointer=pointer, code=code, detail=detail)


def _calendar_count(pointer: str) -> FieldError:
    return _error(pointer, "calendar_count", "calendar alignment takes an interval of count 1")


def _model(price: Price) -> str:
    return str(price.__struct_config__.tag)


def _terms(price: Price, alignment: Alignment) -> Iterator[_Fault]:
    """Kind, meter, billing time and interval."""
    if price.kind is Kind.COMMITMENT:
        yield "/kind", "not_allowed", "a plan states its minimum_commitment beside its prices"
    if price.key == COMMITMENT_KEY:
        yield "/key", "reserved", "lines of the plan's minimum_commitment have this key"
    if price.kind is Kind.USAGE:
        if price.meter is None:
            yield "/meter", "required", "a usage price names the meter it rates"
        if price.bill is Bill.IN_ADVANCE:
            yield "/bill", "usage_in_advance", "usage is known only in arrears"
        if price.quantity is not None:
            yield "/quantity", "not_allowed", "the quantity of a usage price is measured"
    elif price.meter is not None:
        yield "/meter", "not_allowed", "only usage prices have a meter"
    if price.kind is not Kind.USAGE and isinstance(price, _FROM_USAGE):
        yield "/kind", "not_allowed", f"only usage has a {_model(price)} price"
    own = price.interval
    if own is not None and own.count != 1 and alignment is Alignment.CALENDAR:
        fault = _calendar_count("/interval/count")
        yield fault.pointer, fault.code, fault.detail


def _amounts(price: Price, currency: str) -> Iterator[_Fault]:
    """Amounts are no finer than the currency; unit amounts may be."""
    amounts = {"/minimum_amount": price.minimum_amount, "/maximum_amount": price.maximum_amount}
    match price:
        case FlatPrice():
            amounts["/flat_amount"] = price.flat_amount
        case _ if isinstance(price, TieredPrice):
            for index, tier in enumerate(price.tiers):
                amounts[f"/tiers/{index}/flat_amount"] = tier.flat_amount
        case _:
            pass
    if is_currency(currency):
        digits = currency_digits(currency)
        for field, text in amounts.items():
            if text is not None and _fraction_digits(text) > digits:
                yield field, "too_many_digits", f"{currency} has {digits} fractional digits"
    least, most = price.minimum_amount, price.maximum_amount
    if _is_above(least, most):
        yield "/minimum_amount", "above_maximum", "the minimum is above the maximum"


def _quantities(price: Price) -> Iterator[_Fault]:
    """Quantities have at most 9 fractional digits and lie below 10^15; packages hold something."""
    quantities = {"/quantity": price.quantity, "/included_quantity": price.included_quantity}
    if isinstance(price, PackagePrice):
        quantities["/package_size"] = price.package_size
        if not _is_positive(price.package_size):
            yield "/package_size", "not_positive", "a package holds more than nothing"
    if isinstance(price, TieredPrice):
        for index, tier in enumerate(price.tiers):
            quantities[f"/tiers/{index}/up_to"] = tier.up_to
    if isinstance(price, PercentagePrice):
        quantities["/free_amount"] = price.free_amount
    if price.included_quantity is not None and (reason := _WITHOUT_ALLOWANCE.get(_model(price))):
        yield "/included_quantity", "not_allowed", reason
    for field, text in quantities.items():
        if text is not None and not _is_quantity(text):
            yield (
                field,
                "quantity_out_of_range",
                _RANGE,
            )


def _tiers(price: Price) -> Iterator[_Fault]:
    """Bounds ascend from zero, and the last tier, only, is open."""
    if not isinstance(price, TieredPrice):
        return
    if not price.tiers:
        yield "/tiers", "required", "a tiered price has at least one tier"
        return
    last = len(price.tiers) - 1
    for index, tier in enumerate(price.tiers):
        if index < last and tier.up_to is None:
            yield f"/tiers/{index}/up_to", "required", "only the last tier is open"
        if index == last and tier.up_to is not None:
            yield f"/tiers/{index}/up_to", "not_open", "the last tier has no upper bound"
    bounds = ["0", *(tier.up_to for tier in price.tiers)]
    for index, (lower, upper) in enumerate(pairwise(bounds)):
        if lower is not None and upper is not None and _order(lower) >= _order(upper):
            yield f"/tiers/{index}/up_to", "not_ascending", f"{upper} is not above {lower}"


def _percentage(price: Price) -> Iterator[_Fault]:
    """Options of a percentage that would undo each other."""
    if not isinstance(price, PercentagePrice):
        return
    if price.quantity_rounding is not None:
        yield "/quantity_rounding", "not_allowed", "a percentage has no quantity to round"
    if price.free_events == 0 and price.free_amount is not None:
        yield "/free_events", "contradictory", "with no free event the free amount is never used"
    if _is_above(price.event_minimum, price.event_maximum):
        yield "/event_minimum", "above_maximum", "the minimum is above the maximum"


def _matrix(price: Price) -> Iterator[_Fault]:
    """Every row names something and can be the first to match."""
    if not isinstance(price, MatrixPrice):
        return
    if not price.matrix:
        yield "/matrix", "required", "a matrix has at least one row"
    for index, row in enumerate(price.matrix):
        field = f"/matrix/{index}/match"
        if not row.match:
            yield field, "required", "a row names the dimensions it matches"
        for name, value in row.match.items():
            if len(value) > MATCH_LENGTH:
                yield f"{field}/{name}", "too_long", f"at most {MATCH_LENGTH} characters"
        for earlier, other in enumerate(price.matrix[:index]):
            if other.match and other.match.items() <= row.match.items():
                yield field, "unreachable", f"row {earlier} matches all that this one would"
                break


def _groups(price: Price) -> Iterator[_Fault]:
    """Groups are of usage, by each property once."""
    if price.group_by and price.kind is not Kind.USAGE:
        yield "/group_by", "not_allowed", "only usage has groups"
    for index, name in enumerate(price.group_by):
        if name in price.group_by[:index]:
            yield f"/group_by/{index}", "duplicate", f"{name} is named twice"


def _is_above(least: str | None, most: str | None) -> bool:
    return least is not None and most is not None and _order(least) > _order(most)


def _fraction_digits(text: str) -> int:
    return len(text.partition(".")[2].rstrip("0"))


def _is_positive(text: str) -> bool:
    return text.strip("0.") != ""


def _is_quantity(text: str) -> bool:
    whole = text.partition(".")[0].lstrip("0")
    return len(whole) <= QUANTITY_WHOLE_DIGITS and _fraction_digits(text) <= QUANTITY_DIGITS


def _is_granted(number: Decimal) -> bool:
    """Whether it is a quantity; a number that is told with an exponent may be of any length."""
    if not number.is_finite() or number.is_signed() or number.adjusted() >= QUANTITY_WHOLE_DIGITS:
        return False
    exponent = number.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_LONGEST and _is_quantity(f"{number:f}")


def _order(text: str) -> tuple[int, str]:
    """A key that orders unsigned decimals as numbers."""
    whole, _, fraction = text.partition(".")
    return int(whole), fraction.rstrip("0")
