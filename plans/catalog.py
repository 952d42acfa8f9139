"""What a body of the catalogue must satisfy beyond its shape. Pure."""

import functools
import hashlib
from collections.abc import Iterable
from typing import Final
from zoneinfo import available_timezones

import msgspec

from engine.errors import BillingError, FieldError
from engine.ids import encode_body
from engine.money import is_currency
from plans.model import Aggregation, CustomerDraft, MeterDraft, Party, PlanDraft, Seller

_EMAIL_SIGNS: Final = frozenset('\r\n\t <>,;"')


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
    """Currency, timezone and e-mail addresses of a customer."""
    errors = currency_errors(draft.currency) + timezone_errors(draft.timezone)
    for index, email in enumerate(draft.emails):
        local, at, domain = email.rpartition("@")
        if not (local and at and domain) or _EMAIL_SIGNS & set(email):
            detail = f"{email[:60]!r} is not an e-mail address"
            errors.append(FieldError(pointer=f"/emails/{index}", code="invalid", detail=detail))
    return errors


def meter_errors(draft: MeterDraft) -> list[FieldError]:
    """Whether the aggregation has the property it measures, and only then."""
    counts = draft.aggregation is Aggregation.COUNT
    if counts and draft.value is not None:
        detail = "a count measures no property of the event"
        return [FieldError(pointer="/value", code="invalid", detail=detail)]
    if not counts and draft.value is None:
        detail = f"{draft.aggregation.value!r} needs the property of `data` that it measures"
        return [FieldError(pointer="/value", code="required", detail=detail)]
    return []


def unknown_meter_errors(*, draft: PlanDraft, known: frozenset[str]) -> list[FieldError]:
    """An error for each price whose meter is none of `known` (keys)."""
    return [
        FieldError(
            pointer=f"/prices/{index}/meter",
            code="unknown_meter",
            detail=f"no meter {price.meter!r}",
        )
        for index, price in enumerate(draft.prices)
        if price.meter is not None and price.meter not in known
    ]


def party_of_seller(seller: Seller) -> Party:
    """What documents print of the seller."""
    return Party(
        name=seller.legal_name,
        address=seller.address,
        country=seller.country,
        tax_ids=seller.tax_ids,
    )


def party_of_customer(draft: CustomerDraft) -> Party:
    """What documents print of the customer."""
    return Party(
        name=draft.name,
        address=draft.address,
        country=draft.country,
        tax_ids=draft.tax_ids,
        emails=draft.emails,
    )


def party_id(party: Party) -> str:
    """The id that the content itself has: equal content, equal id."""
    canonical = msgspec.json.encode(party, order="sorted")
    digest = hashlib.sha256(canonical).digest()
    return f"pty_{encode_body(int.from_bytes(digest[:16], 'big'))}"
