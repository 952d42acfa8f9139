"""The rating kernel: price rows and quantities in, minor units out.

Lines are rated in blocks that stay in the processor's cache. Each block tries the narrow lanes
first; lines whose digits or size do not fit go to the next wider one, the last of which is exact
for everything. Nothing overflows unseen: an amount beyond int64 is an error that names its line.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BillingError
from engine.money import Rounding, round_ratio
from rating.adjustments import adjusted, limited
from rating.exact import INT64_MAX, WIDE, WIDE_DIGITS, Integers, rounded
from rating.lanes import LIMB_QUANTITY_DIGITS, LIMBS, OBJECTS, PLAIN, Lane, lane_of
from rating.pricing import rounded_limb_amounts, scaled_amounts
from rating.ratios import exact_amount
from rating.tables import PriceTables

BLOCK: Final = 16_384
_PROBE: Final = 64
_PLAIN_LIMIT: Final = 2**60
_FINEST_PLAIN: Final = 9

Rows = NDArray[np.integer[Any]]


class Quantities(msgspec.Struct, frozen=True, kw_only=True):
    """n quantities, each `mantissa` × 10^-digits.

    `mantissa` is an int64 array, or an object array of Python ints where int64 is too small.
    """

    mantissa: Integers
    digits: int


class AmountOutOfRangeError(BillingError):
    """`amount_out_of_range`: the amount of `line`, its place in the call, does not fit int64."""

    def __init__(self, line: int) -> None:
        """Name the line."""
        message = f"the amount of line {line} is beyond what minor units can hold"
        super().__init__("amount_out_of_range", message)
        self.line = line


class _Run(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What all blocks of one call have in common."""

    tables: PriceTables
    digits: int
    rounding: Rounding
    fast: bool


def rate(
    *,
    tables: PriceTables,
    price: NDArray[np.int32],
    quantity: Quantities,
    fraction_numerator: NDArray[np.int64],
    fraction_denominator: NDArray[np.int64],
    rounding: Rounding,
) -> NDArray[np.int64]:
    """Minor units of n lines; `price` is the row in `tables` of each line.

    The fraction is the active part of the period; pass 1/1 for a whole period. It prorates the
    amount of a recurring price, and the bounds, allowance, minimum and maximum of a price with
    `prorate_tiers`; a one-time price, other usage, and `prorate: false` ignore it. Quantities
    below zero bill as zero. Percentage and matrix prices have kernels of their own.
    `amount_out_of_range` names the first line whose amount does not fit int64.
    """
    count = len(price)
    fed = tables.all_by_quantity or bool(tables.by_quantity[price].all())
    assert fed, "a percentage takes events and a matrix cells"
    mantissa, digits = shortest(quantity.mantissa, quantity.digits)
    run = _Run(tables=tables, digits=digits, rounding=rounding, fast=mantissa.dtype == np.int64)
    out = np.empty(count, dtype=np.int64)
    for begin in range(0, count, BLOCK):
        part = slice(begin, min(begin + BLOCK, count))
        rows, amounts, values = price[part].astype(np.intp), out[part], mantissa[part]
        parted = fraction_numerator[part] != fraction_denominator[part]
        if parted.any():
            parted &= tables.touched[rows]
        try:
            if not parted.any():
                amounts[:] = _whole(run, rows, values)
                continue
            whole, partial = np.flatnonzero(~parted), np.flatnonzero(parted)
            amounts[whole] = _whole(run, rows[whole], values[whole])
            amounts[partial] = _prorated(
                run,
                rows[partial],
                values[partial],
                fraction_numerator[part][partial],
                fraction_denominator[part][partial],
            )
        except OverflowError:
            shares = [
                Fraction(int(above), int(below))
                for above, below in zip(
                    fraction_numerator[part], fraction_denominator[part], strict=True
                )
            ]
            raise _out_of_range(run, rows, values, shares, begin) from None
    return out


def shortest(mantissa: Integers, digits: int) -> tuple[Integers, int]:
    """The same quantities with fewer digits where all end in zeros: they fit narrower lanes."""
    for fewer in (0, 3, 6):
        if fewer >= digits:
            break
        unit = 10 ** (digits - fewer)
        if not (mantissa[:_PROBE] % unit).any() and not (mantissa % unit).any():
            return mantissa // unit, fewer
    return mantissa, digits


def _whole(run: _Run, rows: Rows, values: Integers) -> NDArray[np.int64]:
    """Amounts of lines that cover their whole period, or whose price ignores the fraction."""
    if rows.size == 0 or not run.fast:
        return _by_objects(run, rows, values)
    smallest, largest = int(values.min()), int(values.max())
    if smallest < 0:
        values = np.maximum(values, 0)
    done = _by_plain(run, rows, values, largest)
    if done is not None:
        return done
    out = np.empty(rows.shape, dtype=np.int64)
    left: NDArray[np.intp] | None = None  # None is all of them
    for digits in LIMB_QUANTITY_DIGITS:
        if run.digits > digits:
            continue
        lane = lane_of(tables=run.tables, name=LIMBS, digits=digits)
        some_rows, some_values = (rows, values) if left is None else (rows[left], values[left])
        amounts, fits = _by_limbs(run, lane, some_rows, some_values, largest)
        if left is None and fits is None:
            return amounts
        target = np.arange(rows.size) if left is None else left
        kept = slice(None) if fits is None else fits
        out[target[kept]] = amounts[kept]
        left = target[:0] if fits is None else target[~fits]
        if left.size == 0:
            return out
    if left is None:
        return _by_objects(run, rows, values)
    out[left] = _by_objects(run, rows[left], values[left])
    return out


def _by_plain(run: _Run, rows: Rows, values: Integers, largest: int) -> NDArray[np.int64] | None:
    """The block in plain int64 products, or None when one of its lines might not fit."""
    scaled = _plain_scaled(run, rows, values, largest)
    if scaled is None:
        return None
    lane, amounts = scaled
    unit = 10 ** (lane.quantity_digits + lane.price_digits)
    if unit > 1:
        amounts += unit // 2
        whole = amounts // unit
        if run.rounding is Rounding.HALF_EVEN:
            whole -= (whole * unit == amounts) & ((whole & 1) == 1)
        amounts = whole
    return limited(arrays=lane.limits, price=rows, amount=amounts)


def _plain_scaled(
    run: _Run, rows: Rows, values: Integers, largest: int
) -> tuple[Lane, Integers] | None:
    """Exact amounts in int64 at the lane's scale, each below 2^61."""
    if run.digits > _FINEST_PLAIN:
        return None
    lane = lane_of(tables=run.tables, name=PLAIN, digits=run.digits)
    tiers = lane.tiers
    room = _PLAIN_LIMIT - tiers.offset_max
    if largest * tiers.unit_max >= room or largest >= WIDE:
        return None
    if lane.quantity_digits + lane.price_digits >= WIDE_DIGITS:
        return None
    if not lane.all_usable and not lane.usable[rows].all():
        return None
    limit = room // max(tiers.unit_max, 1)
    quantity, inside = adjusted(
        arrays=lane.quantities, price=rows, quantity=values, limit=min(limit, WIDE)
    )
    if inside is not None:
        return None
    if lane.quantities.has_steps and int(quantity.max()) * tiers.unit_max >= room:
        return None
    return lane, scaled_amounts(tiers=tiers, price=rows, quantity=quantity)


def _by_limbs(
    run: _Run, lane: Lane, rows: Rows, values: Integers, largest: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Amounts of a block, and which of its lines fitted the lane (None: all)."""
    factor = 10 ** (lane.quantity_digits - run.digits)
    fits = None if lane.all_usable else lane.usable[rows]
    if largest * factor >= WIDE:
        small = values < WIDE // factor
        fits = small if fits is None else fits & small
        values = np.where(small, values, 0)
    quantity = values * factor if factor > 1 else values
    quantity, inside = adjusted(arrays=lane.quantities, price=rows, quantity=quantity, limit=WIDE)
    if lane.quantities.has_steps and int(quantity.max(initial=0)) >= WIDE:
        below = quantity < WIDE
        inside = below if inside is None else inside & below
        quantity = np.where(below, quantity, 0)
    if inside is not None:
        fits = inside if fits is None else fits & inside
    amounts = rounded_limb_amounts(
        tiers=lane.tiers, price=rows, quantity=quantity, rounding=run.rounding
    )
    amounts = limited(arrays=lane.limits, price=rows, amount=amounts)
    return amounts, None if fits is None or fits.all() else fits


def _by_objects(
    run: _Run,
    rows: Rows,
    values: Integers,
    numerator: Integers | int = 1,
    denominator: Integers | int = 1,
) -> NDArray[np.int64]:
    """Amounts × numerator / denominator in Python ints; OverflowError beyond int64."""
    lane = lane_of(tables=run.tables, name=OBJECTS, digits=run.digits)
    factor = 10 ** (lane.quantity_digits - run.digits)
    quantity = np.maximum(values.astype(object), 0) * factor
    quantity, _ = adjusted(arrays=lane.quantities, price=rows, quantity=quantity, limit=None)
    amounts = scaled_amounts(tiers=lane.tiers, price=rows, quantity=quantity) * numerator
    coarse = 10**lane.quantity_digits * denominator  # from the amount's scale to that of limits
    if lane.limits.any_set:
        amounts = np.maximum(amounts, lane.limits.minimum[rows] * coarse)
        amounts = np.minimum(amounts, lane.limits.maximum[rows] * coarse)
    unit = coarse * 10**lane.price_digits
    whole = rounded(numerator=amounts, denominator=unit, rounding=run.rounding)
    return whole.astype(np.int64)


def _prorated(
    run: _Run, rows: Rows, values: Integers, numerator: Integers, denominator: Integers
) -> NDArray[np.int64]:
    """Amounts of lines of a part period whose price heeds the fraction."""
    shrinks = run.tables.shrinks[rows]
    if shrinks.any():
        out = np.empty(rows.shape, dtype=np.int64)
        shrunk, plain = np.flatnonzero(shrinks), np.flatnonzero(~shrinks)
        for index in shrunk:
            share = Fraction(int(numerator[index]), int(denominator[index]))
            out[index] = _one(run, int(rows[index]), int(values[index]), share)
        out[plain] = _prorated(
            run, rows[plain], values[plain], numerator[plain], denominator[plain]
        )
        return out
    if run.fast and rows.size:
        scaled = _plain_scaled(run, rows, np.maximum(values, 0), max(int(values.max()), 0))
        if scaled is not None:
            lane, amounts = scaled
            unit = 10 ** (lane.quantity_digits + lane.price_digits)
            widest = int(amounts.max()) * int(numerator.max())
            if 3 * max(widest, unit * int(denominator.max())) < INT64_MAX:
                whole = rounded(
                    numerator=amounts * numerator,
                    denominator=denominator * unit,
                    rounding=run.rounding,
                )
                return limited(arrays=lane.limits, price=rows, amount=whole)
    return _by_objects(run, rows, values, numerator.astype(object), denominator.astype(object))


def _one(run: _Run, row: int, value: int, share: Fraction) -> int:
    """The amount of one line by ratios."""
    amount = exact_amount(
        price=run.tables.prices[row],
        quantity=Fraction(value, 10**run.digits),
        fraction=share,
        currency=run.tables.currencies[row],
    )
    return round_ratio(amount.numerator, amount.denominator, rounding=run.rounding)


def _out_of_range(
    run: _Run, rows: Rows, values: Integers, shares: list[Fraction], begin: int
) -> AmountOutOfRangeError:
    """The error for the first line of a block whose amount does not fit int64."""
    lines = zip(rows.tolist(), values.tolist(), shares, strict=True)
    amounts = (_one(run, row, value, share) for row, value, share in lines)
    return amount_out_of_range(amounts, begin)


def amount_out_of_range(amounts: Iterable[int], begin: int) -> AmountOutOfRangeError:
    """The error that names the first of these amounts, of lines `begin` on, beyond int64."""
    return AmountOutOfRangeError(
        next(index for index, amount in enumerate(amounts, begin) if amount > INT64_MAX)
    )
