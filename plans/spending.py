"""Spend thresholds of a subscription: amounts of usage at which it is billed at once. Pure."""

from collections.abc import Sequence

from engine.errors import BillingError, FieldError
from engine.money import parse_amount


def threshold_faults(*, thresholds: Sequence[str], currency: str) -> list[FieldError]:
    """Thresholds that are zero, finer than the currency, or do not rise."""
    errors: list[FieldError] = []
    last = 0
    for index, text in enumerate(thresholds):
        where = f"/spend_thresholds/{index}"
        try:
            minor = parse_amount(text, currency=currency)
        except BillingError as error:
            errors.append(FieldError(pointer=where, code="too_many_digits", detail=error.detail))
            continue
        if not last < minor < 2**62:
            detail = "thresholds lie above zero and rise"
            errors.append(FieldError(pointer=where, code="out_of_order", detail=detail))
        last = minor
    return errors


def thresholds_minor(*, thresholds: Sequence[str], currency: str) -> list[int]:
    """The thresholds in minor units."""
    return [parse_amount(text, currency=currency) for text in thresholds]


def is_reached(*, thresholds: Sequence[int], spent_minor: int, billed_minor: int) -> bool:
    """Whether usage of the running period came to a threshold that what is billed did not.

    Each threshold is so reached once in a period, and the next one only by what was used since.
    """
    return any(billed_minor < threshold <= spent_minor for threshold in thresholds)
