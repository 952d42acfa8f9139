"""What a body of the catalogue must satisfy beyond its shape. Pure."""

import functools
import hashlib
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from typing import Final
from zoneinfo import available_timezones

import msgspec

from engine.errors import BillingError, FieldError
from engine.ids import encode_body
from engine.money import is_currency
from plans.drafts import SellerDraft
from plans.expression import ExpressionError, is_property, parse_expression
from plans.letterhead import locale_errors
from plans.mailing import is_address
from plans.model import (
    Aggregation,
    CustomerAnswer,
    CustomerDraft,
    MeterDraft,
    Party,
    PlanDraft,
    Seller,
)
from plans.prices import MatrixPrice, PercentagePrice, Price

_ALL: Final = 100
# Events of these name something, or move a level: no event has an amount to take a share of.
_WITHOUT_AMOUNTS: Final = (Aggregation.UNIQUE_COUNT, Aggregation.WEIGHTED_SUM)


@functools.cache
def _timezones() -> frozenset[str]:
    return frozenset(available_timezones())


def is_timezone(name: str) -> bool:
    """Whether `name` is a zone of the IANA database, spelled as it is there."""
    return name in _timezones()


def refuse_invalid(errors: Iterable[FieldError]) -> None:
    """Raise `invalid_body` with every error there is; return when there is none."""
    found = list(errors)
    if found:
        rest = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        detail = f"{found[0].pointer}: {found[0].detail}{rest}"
        raise BillingError("invalid_body", detail, errors=tuple(found))


def currency_errors(currency: str | None, *, pointer: str = "/currency") -> list[FieldError]:
    """An error when the currency is none of ISO 4217; no currency is fine."""
    if currency is None or is_currency(currency):
        return []
    detail = f"{currency!r} is not an ISO 4217 currency"
    return [FieldError(pointer=pointer, code="unknown_currency", detail=detail)]


def timezone_errors(timezone: str | None, *, pointer: str = "/timezone") -> list[FieldError]:
    """An error when the timezone is unknown; no timezone is fine."""
    if timezone is None or is_timezone(timezone):
        return []
    detail = f"{timezone[:60]!r} is not a timezone of the IANA database"
    return [FieldError(pointer=pointer, code="unknown_timezone", detail=detail)]


def customer_errors(draft: CustomerDraft) -> list[FieldError]:
    """Currency, timezone, locale and e-mail addresses of a customer."""
    errors = currency_errors(draft.currency) + timezone_errors(draft.timezone)
    errors += locale_errors(draft.locale)
    for index, email in enumerate(draft.emails):
        if not is_address(email):
            detail = f"{email[:60]!r} is not an e-mail address"
            errors.append(FieldError(pointer=f"/emails/{index}", code="invalid", detail=detail))
    return errors


def meter_errors(draft: MeterDraft) -> list[FieldError]:
    """Whether the aggregation has what it needs, and nothing else; dimensions once."""
    errors = _value_errors(draft) + _option_errors(draft)
    for index, name in enumerate(draft.group_by):
        if name in draft.group_by[:index]:
            detail = f"{name!r} is named twice"
            errors.append(FieldError(pointer=f"/group_by/{index}", code="duplicate", detail=detail))
    return errors


def _value_errors(draft: MeterDraft) -> list[FieldError]:
    counts = draft.aggregation in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}
    if counts and draft.value is not None:
        detail = "a count measures no value of the event"
        return [FieldError(pointer="/value", code="invalid", detail=detail)]
    if not counts and draft.value is None:
        detail = f"{draft.aggregation.value!r} needs the property of `data` that it measures"
        return [FieldError(pointer="/value", code="required", detail=detail)]
    if draft.value is not None and not is_property(draft.value):
        try:
            parse_expression(draft.value)
        except ExpressionError as error:
            return [FieldError(pointer="/value", code="invalid_expression", detail=str(error))]
    return []


def _option_errors(draft: MeterDraft) -> list[FieldError]:
    """An error for each option that the aggregation lacks, or has no use for."""
    errors: list[FieldError] = []
    options = (
        ("unique_by", Aggregation.UNIQUE_COUNT, draft.unique_by is not None, True),
        ("percentile", Aggregation.PERCENTILE, draft.percentile is not None, True),
        ("carry_over", Aggregation.WEIGHTED_SUM, draft.carry_over, False),
    )
    for name, aggregation, given, needed in options:
        pointer = f"/{name}"
        if given and draft.aggregation is not aggregation:
            detail = f"{name!r} is of {aggregation.value!r} only"
            errors.append(FieldError(pointer=pointer, code="invalid", detail=detail))
        if needed and not given and draft.aggregation is aggregation:
            detail = f"{aggregation.value!r} needs {name!r}"
            errors.append(FieldError(pointer=pointer, code="required", detail=detail))
    if draft.percentile is not None and not 0 < Fraction(draft.percentile) <= _ALL:
        detail = "a percentile lies above 0 and at 100 at most"
        errors.append(FieldError(pointer="/percentile", code="out_of_range", detail=detail))
    return errors


def unmetered_errors(
    *,
    draft: PlanDraft,
    known: Mapping[str, Collection[str]],
    aggregations: Mapping[str, Aggregation] | None = None,
) -> list[FieldError]:
    """An error for each price whose meter is none, or cannot give what it needs.

    `known` gives the dimensions that a meter keeps by the meter's key, `aggregations` what it
    makes of events.
    """
    errors: list[FieldError] = []
    for index, price in enumerate(draft.prices):
        pointer = f"/prices/{index}"
        if price.meter is None:
            continue
        kept = known.get(price.meter)
        if kept is None:
            detail = f"no meter {price.meter!r}"
            code = "unknown_meter"
            errors.append(FieldError(pointer=f"{pointer}/meter", code=code, detail=detail))
            continue
        aggregation = (aggregations or {}).get(price.meter)
        if isinstance(price, PercentagePrice) and aggregation in _WITHOUT_AMOUNTS:
            detail = f"a percentage is of amounts, which events of {price.meter!r} do not have"
            code = "not_allowed"
            errors.append(FieldError(pointer=f"{pointer}/meter", code=code, detail=detail))
        for field, names in _dimensions(price).items():
            missing = ", ".join(name for name in names if name not in kept)
            if missing:
                detail = f"the meter {price.meter!r} does not keep {missing}"
                code = "unknown_dimension"
                errors.append(FieldError(pointer=f"{pointer}/{field}", code=code, detail=detail))
    return errors


def _dimensions(price: Price) -> dict[str, tuple[str, ...]]:
    """The dimensions a price needs, by the field that names them."""
    needed = {"group_by": price.group_by}
    if isinstance(price, MatrixPrice):
        needed["matrix"] = tuple(dict.fromkeys(name for row in price.matrix for name in row.match))
    return needed


def country_of(party: Seller | SellerDraft | CustomerDraft) -> str | None:
    """Where somebody is: the country of the address comes first."""
    address = party.address
    return (None if address is None else address.country) or party.country


def party_of_seller(seller: Seller) -> Party:
    """What documents print of the seller."""
    return Party(
        name=seller.legal_name,
        address=seller.address,
        country=seller.country,
        tax_ids=seller.tax_ids,
        locale=seller.default_locale,
        branding=seller.branding,
        payment_details=seller.payment_details,
    )


def party_of_customer(draft: CustomerDraft | CustomerAnswer) -> Party:
    """What documents print of the customer."""
    return Party(
        name=draft.name,
        address=draft.address,
        country=draft.country,
        tax_ids=draft.tax_ids,
        emails=draft.emails,
        locale=draft.locale,
    )


def party_id(party: Party) -> str:
    """The id that the content itself has: equal content, equal id."""
    canonical = msgspec.json.encode(party, order="sorted")
    digest = hashlib.sha256(canonical).digest()
    return f"pty_{encode_body(int.from_bytes(digest[:16], 'big'))}"
