"""One charge with its trace, in exact ratios: what a document shows and a check compares.

The kernel in `rating.rate` gives the same amounts for whole columns.
"""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor
from typing import Final

import msgspec

from engine.money import currency_digits
from plans.prices import (
    FlatPrice,
    GraduatedPrice,
    PackagePrice,
    PerUnitPrice,
    Price,
    QuantityRounding,
    VolumePrice,
)
from rating.exact import ratio, ratio_text
from rating.tables import FINE, bounds_shrink, is_prorated, limits_shrink, upper_bounds

ONE: Final = Fraction(1)
ZERO: Final = Fraction(0)


class TierStep(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a trace: `units` at `unit_amount` plus `flat_amount` make `amount`.

    All are decimals in units and major units, or a ratio `a/b` where no decimal is exact.
    """

    units: str
    unit_amount: str
    flat_amount: str
    amount: str


class _Step(msgspec.Struct, frozen=True):
    units: Fraction
    unit_amount: Fraction
    flat_amount: Fraction

    def amount(self) -> Fraction:
        return self.units * self.unit_amount + self.flat_amount


def exact_amount(
    *, price: Price, quantity: Fraction, fraction: Fraction, currency: str
) -> Fraction:
    """The amount in minor units before it is rounded, minimum and maximum included.

    `fraction` is the active part of the period; prices that are not prorated ignore it.
    """
    steps = _steps(
        price, billed_quantity(price=price, quantity=quantity, fraction=fraction), fraction
    )
    amount = sum((step.amount() for step in steps), start=ZERO)
    if is_prorated(price):
        amount *= fraction
    share = fraction if limits_shrink(price) else ONE
    if price.minimum_amount is not None:
        amount = max(amount, ratio(price.minimum_amount) * share)
    if price.maximum_amount is not None:
        amount = min(amount, ratio(price.maximum_amount) * share)
    return amount * 10 ** currency_digits(currency)


def tier_detail(*, price: Price, quantity: Fraction, fraction: Fraction) -> tuple[TierStep, ...]:
    """The steps that add up to the amount before proration, minimum and maximum."""
    billed = billed_quantity(price=price, quantity=quantity, fraction=fraction)
    return tuple(
        TierStep(
            units=ratio_text(step.units),
            unit_amount=ratio_text(step.unit_amount),
            flat_amount=ratio_text(step.flat_amount),
            amount=ratio_text(step.amount()),
        )
        for step in _steps(price, billed, fraction)
    )


def billed_quantity(*, price: Price, quantity: Fraction, fraction: Fraction) -> Fraction:
    """What is left of a quantity after the allowance, rounded as the price says."""
    allowance = ratio(price.included_quantity) if price.included_quantity else ZERO
    left = max(quantity - allowance * _bound_share(price, fraction), ZERO)
    return left if price.quantity_rounding is None else _stepped(left, price.quantity_rounding)


def _bound_share(price: Price, fraction: Fraction) -> Fraction:
    return fraction if bounds_shrink(price) else ONE


def _stepped(quantity: Fraction, rounding: QuantityRounding) -> Fraction:
    step = Fraction(10) ** -rounding.digits
    match rounding.mode:
        case "up":
            return ceil(quantity / step) * step
        case "down":
            return floor(quantity / step) * step
        case "half_up":
            return floor(quantity / step + Fraction(1, 2)) * step


def _steps(price: Price, quantity: Fraction, fraction: Fraction) -> Iterator[_Step]:
    match price:
        case FlatPrice():
            yield _Step(ONE, ratio(price.flat_amount), ZERO)
        case PerUnitPrice():
            yield _Step(quantity, ratio(price.unit_amount), ZERO)
        case PackagePrice():
            packages = quantity / ratio(price.package_size)
            count = ceil(packages) if price.package_rounding == "up" else floor(packages)
            yield _Step(Fraction(count), ratio(price.unit_amount), ZERO)
        case GraduatedPrice() | VolumePrice():
            if quantity > 0 or price.flat_at_zero:
                yield from _tier_steps(price, quantity, _bound_share(price, fraction))


def _tier_steps(
    price: GraduatedPrice | VolumePrice, quantity: Fraction, share: Fraction
) -> Iterator[_Step]:
    lower = ZERO
    for tier, bound in zip(price.tiers, upper_bounds(price), strict=True):
        upper = quantity if tier.up_to is None else Fraction(bound, FINE) * share
        unit, flat = ratio(tier.unit_amount or "0"), ratio(tier.flat_amount or "0")
        holds = quantity <= upper
        if isinstance(price, GraduatedPrice):
            yield _Step(min(quantity, upper) - lower, unit, flat)
        elif holds:
            yield _Step(quantity, unit, flat)
        if holds:
            return
        lower = upper
