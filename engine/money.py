"""Money: integers of minor units with a currency, the one rounding, the one split.

Nothing here is a float. Text in, integers inside, text out.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from engine.errors import BillingError

DECIMAL_PATTERN: Final = r"^-?[0-9]{1,18}(\.[0-9]{1,12})?\Z"
UNSIGNED_PATTERN: Final = r"^[0-9]{1,18}(\.[0-9]{1,12})?\Z"
DecimalText = Annotated[str, msgspec.Meta(pattern=DECIMAL_PATTERN, max_length=32)]
UnsignedText = Annotated[str, msgspec.Meta(pattern=UNSIGNED_PATTERN, max_length=32)]
CurrencyCode = Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{3}\Z")]

_DECIMAL: Final = re.compile(DECIMAL_PATTERN, re.ASCII)
_NO_DIGITS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()
_THREE_DIGITS: Final = "BHD IQD JOD KWD LYD OMR TND".split()
_TWO_DIGITS: Final = """
AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ
GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD
MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON
RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS
UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
""".split()
_DIGITS: Final = {
    **dict.fromkeys(_NO_DIGITS, 0),
    **dict.fromkeys(_TWO_DIGITS, 2),
    **dict.fromkeys(_THREE_DIGITS, 3),
    "CLF": 4,
    "UYW": 4,
}


class Rounding(StrEnum):
    """How an exact amount becomes minor units: the seller's choice."""

    HALF_UP = "half_up"
    HALF_EVEN = "half_even"


def is_currency(code: str) -> bool:
    """Whether `code` is an ISO 4217 currency in use."""
    return code in _DIGITS


def currency_digits(currency: str) -> int:
    """Fractional digits of the currency (JPY 0, USD 2, KWD 3); `unknown_currency` otherwise."""
    try:
        return _DIGITS[currency]
    except KeyError:
        message = f"{currency!r} is not an ISO 4217 currency"
        raise BillingError("unknown_currency", message) from None


def parse_scaled(text: str, *, digits: int) -> int:
    """The decimal `text` in units of 10^-digits; `invalid_decimal` when it does not fit exactly."""
    if _DECIMAL.match(text) is None:
        message = f"{text[:40]!r} is not a plain decimal"
        raise BillingError("invalid_decimal", message)
    whole, _, fraction = text.partition(".")
    kept, lost = fraction[:digits], fraction[digits:]
    if lost.strip("0"):
        message = f"{text!r} has more than {digits} fractional digits"
        raise BillingError("invalid_decimal", message)
    return int(whole + kept.ljust(digits, "0"))


def format_scaled(value: int, *, digits: int) -> str:
    """The inverse of `parse_scaled`, with exactly `digits` fractional digits."""
    sign = "-" if value < 0 else ""
    text = str(abs(value)).rjust(digits + 1, "0")
    return f"{sign}{text[:-digits]}.{text[-digits:]}" if digits else f"{sign}{text}"


def format_plain(value: int, *, digits: int) -> str:
    """`format_scaled` without trailing zeros: the shortest exact decimal."""
    text = format_scaled(value, digits=digits)
    return text.rstrip("0").rstrip(".") if digits else text


def parse_amount(text: str, *, currency: str) -> int:
    """A major-unit decimal as minor units; it may not be finer than the currency."""
    return parse_scaled(text, digits=currency_digits(currency))


def format_amount(minor: int, *, currency: str) -> str:
    """Minor units as a major-unit decimal with exactly the currency's digits."""
    return format_scaled(minor, digits=currency_digits(currency))


def round_ratio(numerator: int, denominator: int, *, rounding: Rounding) -> int:
    """numerator / denominator to the nearest integer; ties away from zero or to even."""
    if denominator <= 0:
        message = "the denominator must be positive"
        raise ValueError(message)
    quotient, remainder = divmod(abs(numerator), denominator)
    twice = 2 * remainder
    up = twice > denominator or (
        twice == denominator and (rounding is Rounding.HALF_UP or quotient % 2 == 1)
    )
    magnitude = quotient + 1 if up else quotient
    return -magnitude if numerator < 0 else magnitude


def split_signed(total: int, weights: Sequence[int]) -> list[int]:
    """`total` over weights of both signs (their sum not zero): cut towards zero, the rest by size.

    Where `total` is the sum of the weights, they are the parts.
    """
    base = sum(weights)
    shares = [abs(total * weight) // abs(base) for weight in weights]
    signs = [-1 if (total * weight < 0) != (base < 0) else 1 for weight in weights]
    left = [abs(total * weight) % abs(base) for weight in weights]
    parts = [sign * share for sign, share in zip(signs, shares, strict=True)]
    order = sorted(range(len(weights)), key=lambda at: (-left[at], at))
    missing = total - sum(parts)
    for at in order[: abs(missing)]:
        parts[at] += 1 if missing > 0 else -1
    return parts


def split_largest_remainder(total: int, weights: Sequence[int]) -> list[int]:
    """`total` over `weights` (not negative, one above zero); parts sum to it, ties go earlier."""
    base = sum(weights)
    if base <= 0 or min(weights) < 0:
        message = "weights must not be negative and one must be above zero"
        raise ValueError(message)
    size = abs(total)
    parts = [size * weight // base for weight in weights]
    remainders = [size * weight % base for weight in weights]
    order = sorted(range(len(weights)), key=lambda index: (-remainders[index], index))
    for index in order[: size - sum(parts)]:
        parts[index] += 1
    return [-part for part in parts] if total < 0 else parts
