"""Lanes: the same price tables at scales of different width.

plain    quantity × unit in one int64; for whole counts and short prices
limbs    128-bit products in decimal limbs; quantities in 10^-6 or 10^-9
objects  Python ints, slow; everything fits

A line takes the first lane that loses no digit of it. The checks here are on whole tables, those
on quantities are in `rating.rate`.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from rating.adjustments import LimitArrays, QuantityArrays, limit_arrays, quantity_arrays
from rating.exact import FINEST_DIGITS, INT64_MAX, WIDE, WIDE_DIGITS
from rating.pricing import TierArrays, tier_arrays
from rating.tables import UNBOUNDED, PriceTables, Row, TierLine

OBJECTS: Final = "objects"
LIMBS: Final = "limbs"
PLAIN: Final = "plain"
LIMB_QUANTITY_DIGITS: Final = (6, 9)
_MINOR: Final = 10**FINEST_DIGITS
_BLANK: Final = TierLine(UNBOUNDED, 0, 0)


class Lane(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Quantities × 10^quantity_digits, amounts × 10^(quantity_digits + price_digits).

    A row that is not `usable` is blank: it must not be rated here.
    """

    name: str
    quantity_digits: int
    price_digits: int
    usable: NDArray[np.bool_]
    all_usable: bool
    tiers: TierArrays
    quantities: QuantityArrays
    limits: LimitArrays


def lane_of(*, tables: PriceTables, name: str, digits: int) -> Lane:
    """The lane of that name for quantities of so many digits, made once for each table."""
    known = tables.lanes.get((name, digits))
    if isinstance(known, Lane):
        return known
    lane = _build(tables, name, digits)
    tables.lanes[name, digits] = lane
    return lane


def digits_needed(value: int, *, digits: int) -> int:
    """Fractional digits of a value in 10^-digits without its trailing zeros."""
    while digits and value % 10 == 0:
        value, digits = value // 10, digits - 1
    return digits


def _build(tables: PriceTables, name: str, digits: int) -> Lane:
    quantity_digits, price_digits = _scale(tables, name, digits)
    wide = name == OBJECTS
    usable = [wide or _fits(row, name, quantity_digits, price_digits) for row in tables.rows]
    rows = [row if fits else blank_row(row) for row, fits in zip(tables.rows, usable, strict=True)]
    return Lane(
        name=name,
        quantity_digits=quantity_digits,
        price_digits=price_digits,
        usable=np.array(usable, dtype=np.bool_),
        all_usable=all(usable),
        tiers=tier_arrays(
            rows=rows,
            quantity_digits=quantity_digits,
            price_digits=price_digits,
            wide=wide,
            limbs=name == LIMBS,
        ),
        quantities=quantity_arrays(rows=rows, digits=quantity_digits, wide=wide),
        limits=limit_arrays(rows=rows, wide=wide),
    )


def _scale(tables: PriceTables, name: str, digits: int) -> tuple[int, int]:
    if name == OBJECTS:
        return max(digits, FINEST_DIGITS), FINEST_DIGITS
    if name == LIMBS:
        return digits, WIDE_DIGITS - digits
    tiers = [tier for row in tables.rows for tier in row.tiers]
    units = max((digits_needed(tier.unit, digits=FINEST_DIGITS) for tier in tiers), default=0)
    offsets = max(
        (digits_needed(tier.offset, digits=2 * FINEST_DIGITS) for tier in tiers), default=0
    )
    return digits, min(max(units, offsets - digits), FINEST_DIGITS)


def _fits(row: Row, name: str, quantity_digits: int, price_digits: int) -> bool:
    """Whether every number of the row is exact and in bounds at this scale.

    Tier bounds need not be: a quantity is beyond a bound exactly when it is beyond its floor.
    """
    coarse = 10 ** (FINEST_DIGITS - quantity_digits)
    quantities = (row.included, row.package, row.step)
    if any(value % coarse or value // coarse >= WIDE for value in quantities):
        return False
    if not has_whole_limits(row):
        return False
    unit_cut = 10 ** (FINEST_DIGITS - price_digits)
    offset_cut = 10 ** (2 * FINEST_DIGITS - quantity_digits - price_digits)
    offset_limit = (WIDE - 1) * WIDE if name == LIMBS else WIDE
    return all(
        tier.unit % unit_cut == 0
        and tier.unit // unit_cut < WIDE
        and tier.offset % offset_cut == 0
        and abs(tier.offset // offset_cut) < offset_limit
        for tier in row.tiers
    )


def has_whole_limits(row: Row) -> bool:
    """Whether minimum and maximum are minor units that int64 holds: they may follow rounding."""
    limits = (row.minimum, row.maximum if row.maximum < UNBOUNDED else 0)
    return all(value % _MINOR == 0 and value // _MINOR <= INT64_MAX for value in limits)


def blank_row(row: Row) -> Row:
    """As many tiers as the row has, and nothing in them: what stands for it in a narrow lane."""
    return Row(
        tiers=tuple(_BLANK for _ in row.tiers),
        included=0,
        step=0,
        rounding_mode="down",
        package=0,
        package_up=False,
        minimum=0,
        maximum=UNBOUNDED,
    )
