"""Price lists as arrays: rows of prices over compressed sparse rows of tiers.

Everything is kept exactly, as Python ints in 10^-12 of a unit and of a minor unit. A tier is a
straight line: amount = offset + quantity × unit, where the offset already holds what all tiers
below it cost, so a line of a charge is one search and one multiplication whatever the model.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BillingError
from engine.money import currency_digits, parse_scaled
from plans.prices import (
    FlatPrice,
    GraduatedPrice,
    Kind,
    PackagePrice,
    PerUnitPrice,
    Price,
    QuantityRounding,
    Tier,
    VolumePrice,
)
from rating.exact import FINEST_DIGITS

FINE: Final = 10**FINEST_DIGITS
UNBOUNDED: Final = 10**60  # beyond any quantity or amount that can be written


class TierLine(msgspec.Struct, frozen=True):
    """For quantities up to `up_to` the amount is offset + quantity × unit.

    `up_to` in 10^-12 units, `unit` in 10^-12 minor units a unit, `offset` in 10^-24 minor units.
    """

    up_to: int
    unit: int
    offset: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One price, exactly: quantities in 10^-12 units, amounts in 10^-12 minor units.

    `step` 0 leaves the quantity as it is, `package` 0 is no package.
    """

    tiers: tuple[TierLine, ...]
    included: int
    step: int
    rounding_mode: str
    package: int
    package_up: bool
    minimum: int
    maximum: int


class PriceTables(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n price rows. `lanes` remembers the arrays derived from them, see `rating.pricing`.

    prorated[n]: the amount takes the fraction. shrinks[n]: bounds, allowance, minimum or maximum
    do. touched[n]: either of them.
    """

    prices: tuple[Price, ...]
    currencies: tuple[str, ...]
    rows: tuple[Row, ...]
    prorated: NDArray[np.bool_]
    shrinks: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    lanes: dict[tuple[str, int], object]


def compile_prices(*, prices: Sequence[Price], currencies: Sequence[str]) -> PriceTables:
    """Rows in the order of `prices`, amounts in minor units of the currency beside each.

    Raises `invalid_price` when tiers are not ascending and closed by an open one.
    """
    rows = tuple(
        compile_price(price=price, currency=currency)
        for price, currency in zip(prices, currencies, strict=True)
    )
    prorated = np.array([is_prorated(price) for price in prices], dtype=np.bool_)
    shrinks = np.array(
        [_shrinks(price, row) for price, row in zip(prices, rows, strict=True)], dtype=np.bool_
    )
    return PriceTables(
        prices=tuple(prices),
        currencies=tuple(currencies),
        rows=rows,
        prorated=prorated,
        shrinks=shrinks,
        touched=prorated | shrinks,
        lanes={},
    )


def is_prorated(price: Price) -> bool:
    """Whether a part period takes its share of the amount."""
    return price.kind is Kind.RECURRING and price.prorate


def bounds_shrink(price: Price) -> bool:
    """Whether a part period takes its share of tier bounds and allowance."""
    return price.kind is Kind.USAGE and price.prorate_tiers


def limits_shrink(price: Price) -> bool:
    """Whether a part period takes its share of minimum and maximum."""
    return price.prorate_tiers and (price.kind is Kind.USAGE or is_prorated(price))


def _shrinks(price: Price, row: Row) -> bool:
    by_bounds = bounds_shrink(price) and (len(row.tiers) > 1 or row.included > 0)
    by_limits = limits_shrink(price) and (row.minimum > 0 or row.maximum < UNBOUNDED)
    return by_bounds or by_limits


def compile_price(*, price: Price, currency: str) -> Row:
    """One row; `unknown_currency`, `invalid_decimal` and `invalid_price` where it cannot stand."""
    scale = 10 ** currency_digits(currency)
    rounding = price.quantity_rounding
    package = fine(price.package_size) if isinstance(price, PackagePrice) else 0
    if isinstance(price, PackagePrice) and package <= 0:
        raise _invalid(price, "the package size must be above zero")
    return Row(
        tiers=tuple(_tier_lines(price, scale)),
        included=fine(price.included_quantity),
        step=_step(rounding),
        rounding_mode=rounding.mode if rounding else "down",
        package=package,
        package_up=isinstance(price, PackagePrice) and price.package_rounding == "up",
        minimum=fine(price.minimum_amount) * scale,
        maximum=UNBOUNDED if price.maximum_amount is None else fine(price.maximum_amount) * scale,
    )


def fine(text: str | None) -> int:
    """The decimal in units of 10^-12; nothing is zero."""
    return 0 if text is None else parse_scaled(text, digits=FINEST_DIGITS)


def _step(rounding: QuantityRounding | None) -> int:
    return 0 if rounding is None else 10 ** (FINEST_DIGITS - rounding.digits)


def _tier_lines(price: Price, scale: int) -> Iterator[TierLine]:
    match price:
        case FlatPrice():
            yield TierLine(UNBOUNDED, 0, fine(price.flat_amount) * scale * FINE)
        case PerUnitPrice() | PackagePrice():
            yield TierLine(UNBOUNDED, fine(price.unit_amount) * scale, 0)
        case GraduatedPrice() | VolumePrice():
            if not price.flat_at_zero:
                yield TierLine(0, 0, 0)
            yield from _stepped_lines(price, scale)


def _stepped_lines(price: GraduatedPrice | VolumePrice, scale: int) -> Iterator[TierLine]:
    """Tiers with what lies below folded into the offset (nothing does in a volume price)."""
    below = lower = 0
    for tier, upper in zip(price.tiers, upper_bounds(price), strict=True):
        unit = fine(tier.unit_amount) * scale
        flat = fine(tier.flat_amount) * scale * FINE
        if isinstance(price, VolumePrice):
            yield TierLine(upper, unit, flat)
        else:
            yield TierLine(upper, unit, below + flat - lower * unit)
            below += flat + (upper - lower) * unit
        lower = upper


def upper_bounds(price: GraduatedPrice | VolumePrice) -> list[int]:
    """`up_to` of each tier in 10^-12 units; `invalid_price` unless ascending and closed."""
    bounds = [_bound(tier) for tier in price.tiers]
    ascending = all(lower < upper for lower, upper in pairwise(bounds))
    if not bounds or not ascending or bounds[-1] != UNBOUNDED:
        raise _invalid(price, "tiers must ascend and end with an open one")
    return bounds


def _bound(tier: Tier) -> int:
    return UNBOUNDED if tier.up_to is None else fine(tier.up_to)


def _invalid(price: Price, detail: str) -> BillingError:
    return BillingError("invalid_price", f"price {price.key!r}: {detail}")
