"""The five price models over arrays: find the tier, then offset + quantity × unit."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding
from rating.adjustments import at_digits
from rating.exact import FINEST_DIGITS, INT64_MAX, LIMB, WIDE, Integers, int_array, limb_amounts
from rating.tables import Row

_UNROLLED: Final = 8  # with more tiers it pays to stop when no line moves on


class TierArrays(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Compressed sparse rows: `start`[n] is the first tier of a row, the others have m entries.

    Quantities × 10^quantity_digits, amounts × 10^(quantity_digits + price_digits). With `limbs`
    units are split at 10^9 and offsets, half of 10^18 added, at 10^18.
    """

    depth: int
    start: NDArray[np.int64]
    up_to: Integers
    unit: Integers
    offset: Integers
    unit_max: int
    offset_max: int
    unit_high: Integers
    offset_high: Integers


def tier_arrays(
    *, rows: Sequence[Row], quantity_digits: int, price_digits: int, wide: bool, limbs: bool
) -> TierArrays:
    """The tiers of rows that fit this scale exactly, see `rating.lanes`."""
    counts = [len(row.tiers) for row in rows]
    tiers = [tier for row in rows for tier in row.tiers]
    units = [at_digits(tier.unit, price_digits) for tier in tiers]
    digits = quantity_digits + price_digits - FINEST_DIGITS
    offsets = [at_digits(tier.offset, digits) for tier in tiers]
    raised = [offset + WIDE // 2 for offset in offsets] if limbs else offsets
    bounds = [at_digits(tier.up_to, quantity_digits) for tier in tiers]
    return TierArrays(
        depth=max(counts, default=1),
        start=np.cumsum([0, *counts[:-1]], dtype=np.int64),
        up_to=int_array(bounds if wide else [min(x, INT64_MAX) for x in bounds], wide=wide),
        unit=int_array([unit % LIMB for unit in units] if limbs else units, wide=wide),
        offset=int_array([value % WIDE for value in raised] if limbs else offsets, wide=wide),
        unit_max=max(units, default=0),
        offset_max=max(map(abs, offsets), default=0),
        unit_high=int_array([unit // LIMB for unit in units] if limbs else [], wide=wide),
        offset_high=int_array([value // WIDE for value in raised] if limbs else [], wide=wide),
    )


def tier_of(
    *, tiers: TierArrays, price: NDArray[np.integer[Any]], quantity: Integers
) -> NDArray[np.int64]:
    """The tier that holds each of n quantities; `up_to` is inclusive, the last one is open."""
    tier = tiers.start.take(price)
    for _ in range(tiers.depth - 1):
        beyond = quantity > tiers.up_to.take(tier)
        if tiers.depth > _UNROLLED and not beyond.any():
            break
        tier += beyond
    return tier


def scaled_amounts(
    *, tiers: TierArrays, price: NDArray[np.integer[Any]], quantity: Integers
) -> Integers:
    """n exact amounts in one integer each; the caller has checked that they fit."""
    tier = tier_of(tiers=tiers, price=price, quantity=quantity)
    amount = tiers.unit.take(tier)
    amount *= quantity
    amount += tiers.offset.take(tier)
    return amount


def rounded_limb_amounts(
    *,
    tiers: TierArrays,
    price: NDArray[np.integer[Any]],
    quantity: NDArray[np.int64],
    rounding: Rounding,
) -> NDArray[np.int64]:
    """n amounts in whole minor units, for quantities below 10^18."""
    tier = tier_of(tiers=tiers, price=price, quantity=quantity)
    return limb_amounts(
        quantity=quantity,
        unit_high=tiers.unit_high.take(tier),
        unit_low=tiers.unit.take(tier),
        offset_high=tiers.offset_high.take(tier),
        offset_low=tiers.offset.take(tier),
        rounding=rounding,
    )
