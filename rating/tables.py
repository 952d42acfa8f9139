"""Price lists as arrays: rows of prices over compressed sparse rows of tiers.

Everything is kept exactly, as Python ints in 10^-14 of a unit and of a minor unit. A tier is a
straight line: amount = offset + quantity × unit, where the offset already holds what all tiers
below it cost, so a line of a charge is one search and one multiplication whatever the model.
Prices of single events and of matrix cells have no tiers: see `rating.percentage`, `rating.matrix`.
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
    DynamicPrice,
    FlatPrice,
    FlatTier,
    GraduatedPercentagePrice,
    GraduatedPrice,
    Kind,
    MatrixPrice,
    PackagePrice,
    PercentagePrice,
    PerUnitPrice,
    Price,
    QuantityRounding,
    RateTier,
    StairstepPrice,
    Tier,
    TieredPrice,
    VolumePrice,
    recurs,
)
from rating.exact import FINEST_DIGITS

FINE: Final = 10**FINEST_DIGITS
UNBOUNDED: Final = 10**60  # beyond any quantity or amount that can be written


class TierLine(msgspec.Struct, frozen=True):
    """For quantities up to `up_to` the amount is offset + quantity × unit.

    `up_to` in 10^-14 units, `unit` in 10^-14 minor units a unit, `offset` in 10^-28 minor units.
    """

    up_to: int
    unit: int
    offset: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One price, exactly: quantities in 10^-14 units, amounts in 10^-14 minor units.

    `step` 0 leaves the quantity as it is, `package` 0 is no package. Limits over groups are no
    limits of a line: see `rating.dimensions`.
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

    by_quantity[n]: one quantity is enough to rate a line. prorated[n]: the amount takes the
    fraction. shrinks[n]: bounds, allowance, minimum or maximum do. touched[n]: either of them.
    """

    prices: tuple[Price, ...]
    currencies: tuple[str, ...]
    rows: tuple[Row, ...]
    by_quantity: NDArray[np.bool_]
    all_by_quantity: bool
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
    by_quantity = [not isinstance(price, PercentagePrice | MatrixPrice) for price in prices]
    prorated = np.array([is_prorated(price) for price in prices], dtype=np.bool_)
    shrinks = np.array(
        [_shrinks(price, row) for price, row in zip(prices, rows, strict=True)], dtype=np.bool_
    )
    return PriceTables(
        prices=tuple(prices),
        currencies=tuple(currencies),
        rows=rows,
        by_quantity=np.array(by_quantity, dtype=np.bool_),
        all_by_quantity=all(by_quantity),
        prorated=prorated,
        shrinks=shrinks,
        touched=prorated | shrinks,
        lanes={},
    )


def is_prorated(price: Price) -> bool:
    """Whether a part period takes its share of the amount."""
    return recurs(price) and price.prorate


def bounds_shrink(price: Price) -> bool:
    """Whether a part period takes its share of tier bounds and allowance."""
    return price.kind is Kind.USAGE and price.prorate_tiers


def limits_shrink(price: Price) -> bool:
    """Whether a part period takes its share of minimum and maximum."""
    return price.prorate_tiers and (price.kind is Kind.USAGE or is_prorated(price))


def _shrinks(price: Price, row: Row) -> bool:
    free = isinstance(price, PercentagePrice) and (price.free_events or price.free_amount)
    bounded = len(row.tiers) > 1 or row.included > 0 or bool(free)
    by_bounds = bounds_shrink(price) and bounded
    by_limits = limits_shrink(price) and (row.minimum > 0 or row.maximum < UNBOUNDED)
    return by_bounds or by_limits


def compile_price(*, price: Price, currency: str) -> Row:
    """One row; `unknown_currency`, `invalid_decimal` and `invalid_price` where it cannot stand."""
    scale = 10 ** currency_digits(currency)
    rounding = price.quantity_rounding
    package = fine(price.package_size) if isinstance(price, PackagePrice) else 0
    if isinstance(price, PackagePrice) and package <= 0:
        raise _invalid(price, "the package size must be above zero")
    if isinstance(price, PercentagePrice | MatrixPrice) and price.included_quantity is not None:
        raise _invalid(price, "an allowance has no meaning for this model")
    if isinstance(price, PercentagePrice) and rounding is not None:
        raise _invalid(price, "there is no quantity to round")
    grouped = bool(price.group_by)
    most = None if grouped else price.maximum_amount
    return Row(
        tiers=tuple(_tier_lines(price, scale)),
        included=fine(price.included_quantity),
        step=_step(rounding),
        rounding_mode=rounding.mode if rounding else "down",
        package=package,
        package_up=isinstance(price, PackagePrice) and price.package_rounding == "up",
        minimum=0 if grouped else fine(price.minimum_amount) * scale,
        maximum=UNBOUNDED if most is None else fine(most) * scale,
    )


def fine(text: str | None) -> int:
    """The decimal in units of 10^-14; nothing is zero."""
    return 0 if text is None else parse_scaled(text, digits=FINEST_DIGITS)


def _step(rounding: QuantityRounding | None) -> int:
    return 0 if rounding is None else 10 ** (FINEST_DIGITS - rounding.digits)


def _tier_lines(price: Price, scale: int) -> Iterator[TierLine]:
    match price:
        case FlatPrice():
            yield TierLine(UNBOUNDED, 0, fine(price.flat_amount) * scale * FINE)
        case PerUnitPrice() | PackagePrice():
            yield TierLine(UNBOUNDED, fine(price.unit_amount) * scale, 0)
        case DynamicPrice():
            yield TierLine(UNBOUNDED, FINE * scale, 0)
        case PercentagePrice() | MatrixPrice():
            yield TierLine(UNBOUNDED, 0, 0)
        case GraduatedPrice() | VolumePrice() | StairstepPrice() | GraduatedPercentagePrice():
            if not price.flat_at_zero:
                yield TierLine(0, 0, 0)
            yield from _stepped_lines(price, scale)


def _stepped_lines(price: TieredPrice, scale: int) -> Iterator[TierLine]:
    """Tiers with what lies below folded into the offset (where all of it counts)."""
    adds_up = isinstance(price, GraduatedPrice | GraduatedPercentagePrice)
    below = lower = 0
    for tier, upper in zip(price.tiers, upper_bounds(price), strict=True):
        unit = _tier_unit(tier, scale)
        flat = fine(tier.flat_amount) * scale * FINE
        if adds_up:
            yield TierLine(upper, unit, below + flat - lower * unit)
            below += flat + (upper - lower) * unit
        else:
            yield TierLine(upper, unit, flat)
        lower = upper


def _tier_unit(tier: Tier | FlatTier | RateTier, scale: int) -> int:
    match tier:
        case Tier():
            return fine(tier.unit_amount) * scale
        case FlatTier():
            return 0
        case RateTier():
            return rate_unit(tier.rate, scale)


def rate_unit(rate: str | None, scale: int) -> int:
    """So many per cent of a major unit of `scale` minor units, in 10^-14 minor units."""
    return fine(rate) * scale // 100  # exact: a rate has two digits fewer than `fine` keeps


def upper_bounds(price: TieredPrice) -> list[int]:
    """`up_to` of each tier in 10^-14 units; `invalid_price` unless ascending and closed."""
    bounds = [_bound(tier) for tier in price.tiers]
    ascending = all(lower < upper for lower, upper in pairwise(bounds))
    if not bounds or not ascending or bounds[-1] != UNBOUNDED:
        raise _invalid(price, "tiers must ascend and end with an open one")
    return bounds


def _bound(tier: Tier | FlatTier | RateTier) -> int:
    return UNBOUNDED if tier.up_to is None else fine(tier.up_to)


def _invalid(price: Price, detail: str) -> BillingError:
    return BillingError("invalid_price", f"price {price.key!r}: {detail}")
