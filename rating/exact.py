"""Exact arithmetic on arrays: products in decimal limbs, and the rounding of scaled integers.

A product of two int64 is split at 10^9 so that every partial product fits int64. With quantity
and price scales that add up to 10^18 the high limb is whole minor units and the low limb the
fraction, so rounding divides no wide number.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding, format_plain, parse_scaled

LIMB: Final = 10**9
WIDE: Final = 10**18
WIDE_DIGITS: Final = 18
INT64_MAX: Final = 2**63 - 1
DECIMAL_DIGITS: Final = 12  # fractional digits of any accepted decimal
FINEST_DIGITS: Final = 14  # the same, and two more for a rate in per cent

Integers = NDArray[Any]
"""An int64 array, or an object array of Python ints: the same formulas serve both."""


def ratio(text: str) -> Fraction:
    """The accepted decimal as an exact ratio; `invalid_decimal` otherwise."""
    return Fraction(parse_scaled(text, digits=DECIMAL_DIGITS), 10**DECIMAL_DIGITS)


def ratio_text(value: Fraction) -> str:
    """The shortest exact decimal, or `a/b` in lowest terms where no decimal is exact."""
    denominator, digits = value.denominator, 0
    for prime in (2, 5):
        power = 0
        while denominator % prime == 0:
            denominator, power = denominator // prime, power + 1
        digits = max(digits, power)
    if denominator != 1:
        return f"{value.numerator}/{value.denominator}"
    scaled = value * 10**digits
    return format_plain(scaled.numerator, digits=digits)


def int_array(values: Sequence[int], *, wide: bool) -> Integers:
    """int64, or with `wide` an object array of Python ints, whose arithmetic never overflows."""
    array = np.empty(len(values), dtype=np.object_ if wide else np.int64)
    array[:] = values
    return array


def limb_amounts(
    *,
    quantity: NDArray[np.int64],
    unit_high: NDArray[np.int64],
    unit_low: NDArray[np.int64],
    offset_high: NDArray[np.int64],
    offset_low: NDArray[np.int64],
    rounding: Rounding,
) -> NDArray[np.int64]:
    """quantity × unit × 10^-18 + offset, rounded: n lines whose exact value is not negative.

    0 ≤ quantity < 10^18; unit is split at 10^9 and below 10^18; offset is split at 10^18, below
    10^18 in its high limb, and has the half that rounds already in it. Consumes `unit_low` and
    `offset_low`.
    """
    high = quantity // LIMB
    low = quantity - high * LIMB
    cross = high * unit_low
    unit_low *= low  # the lowest product, below 10^18
    low *= unit_high
    cross += low  # below 2 × 10^18
    high *= unit_high
    high += offset_high
    np.floor_divide(cross, LIMB, out=low)
    high += low
    low *= LIMB
    cross -= low
    cross *= LIMB  # below 10^18
    offset_low += cross
    offset_low += unit_low  # below 3 × 10^18
    np.floor_divide(offset_low, WIDE, out=cross)
    high += cross
    if rounding is Rounding.HALF_EVEN:
        cross *= WIDE
        high -= (offset_low == cross) & ((high & 1) == 1)
    return high


def rounded(*, numerator: Integers, denominator: Integers | int, rounding: Rounding) -> Integers:
    """numerator / denominator to the nearest integer; neither is negative.

    3 × numerator and 3 × denominator must fit the arrays' type; object arrays always do.
    """
    double = denominator * 2
    raised = numerator * 2 + denominator
    whole = raised // double
    if rounding is Rounding.HALF_EVEN:
        tie = whole * double == raised
        whole = whole - (tie & (whole % 2 == 1)).astype(whole.dtype)
    return whole


class Pairs(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n exact amounts high + low × 10^-18 minor units, 0 ≤ low < 10^18; negative ones too."""

    high: NDArray[np.int64]
    low: NDArray[np.int64]


def limb_products(
    *,
    quantity: NDArray[np.int64],
    unit_high: NDArray[np.int64],
    unit_low: NDArray[np.int64],
) -> Pairs:
    """quantity × unit, |quantity| < 10^18, unit split at 10^9 and below 10^18: see `limb_amounts`.

    Scales that add up to 10^18 make `high` the whole minor units, rounded down.
    """
    high = quantity // LIMB
    low = quantity - high * LIMB
    cross = high * unit_low + low * unit_high
    carry = cross // LIMB
    part = (cross - carry * LIMB) * LIMB + low * unit_low  # below 2 × 10^18
    carry += high * unit_high
    whole = part // WIDE
    return Pairs(high=carry + whole, low=part - whole * WIDE)


def pair_sums(first: Pairs, second: Pairs) -> Pairs:
    """Element by element."""
    low = first.low + second.low
    carry = low // WIDE
    return Pairs(high=first.high + second.high + carry, low=low - carry * WIDE)


def rounded_pairs(*, pairs: Pairs, rounding: Rounding) -> NDArray[np.int64]:
    """Whole minor units; an amount below zero is zero."""
    half = WIDE // 2
    up = pairs.low >= half
    if rounding is Rounding.HALF_EVEN:
        up &= (pairs.low > half) | ((pairs.high & 1) == 1)
    return np.maximum(pairs.high + up, 0)
