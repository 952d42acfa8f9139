"""Matrix prices over arrays: each cell at the price of its row, summed exactly, rounded once."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding, currency_digits, round_ratio
from plans.prices import MatrixPrice
from rating.adjustments import (
    LimitArrays,
    QuantityArrays,
    adjusted,
    at_digits,
    limit_arrays,
    limited,
    quantity_arrays,
)
from rating.exact import (
    FINEST_DIGITS,
    INT64_MAX,
    LIMB,
    WIDE,
    WIDE_DIGITS,
    Integers,
    int_array,
    limb_products,
    rounded,
    rounded_pairs,
)
from rating.lanes import LIMB_QUANTITY_DIGITS, blank_row, digits_needed, has_whole_limits
from rating.rate import Quantities, amount_out_of_range, shortest
from rating.ratios import exact_amount
from rating.segments import (
    ROOM,
    Offsets,
    blocks,
    elements_of,
    highest,
    longest,
    segment_all,
    segment_of,
    segment_pair_sums,
    segment_sums,
)
from rating.tables import PriceTables, Row, fine

_PLAIN: Final = "cells, plain"
_LIMBS: Final = "cells, limbs"
_OBJECTS: Final = "cells, objects"

Lines = NDArray[np.integer[Any]]


class _Arrays(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n prices: unit amounts of row i begin at start[i], its own first, then those of the matrix.

    Quantities × 10^digits, amounts of row i whole at 1 / scale[i] (limbs: at 10^-18, units split
    at 10^9). A row that is not `usable` is blank.
    """

    digits: int
    usable: NDArray[np.bool_]
    start: NDArray[np.int64]
    unit: Integers
    unit_high: Integers
    scale: Integers
    quantities: QuantityArrays
    limits: LimitArrays


class _Run(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    tables: PriceTables
    rounding: Rounding
    digits: int
    start: NDArray[np.int64]


class _Cells(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n lines and their m cells: place among the unit amounts, and quantity, not negative."""

    price: Lines
    offsets: Offsets
    place: Lines
    quantity: Integers

    def only(self, lines: NDArray[np.intp]) -> "_Cells":
        elements, own = elements_of(self.offsets, lines)
        return _Cells(
            price=self.price[lines],
            offsets=own,
            place=self.place[elements],
            quantity=self.quantity[elements],
        )


_Answer = tuple[NDArray[np.int64] | None, NDArray[np.bool_]]
"""Amounts and which of them hold; None when the lane is not worth trying."""


def rate_cells(
    *,
    tables: PriceTables,
    price: NDArray[np.int32],
    offsets: NDArray[np.int64],
    row: NDArray[np.int32],
    quantity: Quantities,
    rounding: Rounding,
    fraction_numerator: NDArray[np.int64] | None = None,
    fraction_denominator: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Minor units of n lines of matrix prices; cells offsets[i]:offsets[i + 1] are line i's.

    `price` is the row in `tables` of each line; `row` (m) what `rating.dimensions.matrix_row`
    gives for the dimensions of a cell, `quantity` (m) what was measured there; below zero counts
    as zero. The fraction (default: whole periods) matters where `prorate_tiers` shrinks minimum
    and maximum. `amount_out_of_range` names the first line whose amount does not fit int64.
    """
    is_matrix = np.array([isinstance(item, MatrixPrice) for item in tables.prices], dtype=bool)
    assert is_matrix[price].all(), "only matrix prices have cells"
    mantissa, digits = shortest(quantity.mantissa, quantity.digits)
    signless = not mantissa.size or int(mantissa.min()) >= 0
    start = _arrays_of(tables, _OBJECTS, digits).start
    run = _Run(tables=tables, rounding=rounding, digits=digits, start=start)
    out = np.empty(len(price), dtype=np.int64)
    parted = np.zeros(len(price), dtype=bool)
    if fraction_numerator is not None and fraction_denominator is not None:
        parted = (fraction_numerator != fraction_denominator) & tables.shrinks[price]
    shares = [Fraction(1)] * len(price) if parted.any() else []
    if fraction_numerator is not None and fraction_denominator is not None:
        for line in np.flatnonzero(parted).tolist():
            shares[line] = Fraction(int(fraction_numerator[line]), int(fraction_denominator[line]))
    for begin, end in blocks(offsets):
        inside = slice(int(offsets[begin]), int(offsets[end]))
        rows, own = price[begin:end].astype(np.intp), offsets[begin : end + 1]
        cells = _Cells(
            price=rows,
            offsets=own - own[0],
            place=np.repeat(start[rows] + 1, np.diff(own)) + row[inside],
            quantity=mantissa[inside] if signless else np.maximum(mantissa[inside], 0),
        )
        own_shares = shares[begin:end]
        try:
            out[begin:end] = _block(run, cells)
            for line in np.flatnonzero(parted[begin:end]).tolist():
                out[begin + line] = _one(run, cells, line, own_shares[line])
        except OverflowError:
            amounts = (
                _one(run, cells, line, own_shares[line] if own_shares else Fraction(1))
                for line in range(end - begin)
            )
            raise amount_out_of_range(amounts, begin) from None
    return out


def _block(run: _Run, cells: _Cells) -> NDArray[np.int64]:
    """Amounts of some lines: those that a lane cannot hold go to the next wider one."""
    if highest(cells.quantity) > INT64_MAX:
        return _by_objects(run, cells)
    if cells.quantity.dtype == np.object_:
        cells = msgspec.structs.replace(cells, quantity=cells.quantity.astype(np.int64))
    if (amounts := _by_plain(run, cells, whole=True)[0]) is not None:
        return amounts
    if (amounts := _by_halves(run, cells)) is not None:
        return amounts
    out = np.empty(len(cells.price), dtype=np.int64)
    left: NDArray[np.intp] | None = None  # None is all of them
    for digits in (*(x for x in LIMB_QUANTITY_DIGITS if run.digits <= x), None):
        some = cells if left is None else cells.only(left)
        if digits is None:
            amounts, holds = _by_plain(run, some, whole=False)
        else:
            amounts, holds = _by_limbs(run, some, digits)
        if amounts is None:
            continue
        if left is None and holds.all():
            return amounts
        target = np.arange(len(out)) if left is None else left
        out[target[holds]] = amounts[holds]
        left = target[~holds]
        if left.size == 0:
            return out
    if left is None:
        return _by_objects(run, cells)
    out[left] = _by_objects(run, cells.only(left))
    return out


def _by_plain(run: _Run, cells: _Cells, *, whole: bool) -> _Answer:
    """In one int64 a cell; with `whole` only if no cell of the block is too wide."""
    arrays = _arrays_of(run.tables, _PLAIN, run.digits)
    holds = arrays.usable[cells.price]
    if whole and not holds.all():
        return None, holds
    if highest(cells.quantity) >= WIDE:
        holds &= segment_all(cells.quantity < WIDE, cells.offsets)
        cells = msgspec.structs.replace(cells, quantity=np.minimum(cells.quantity, WIDE))
    quantity = _priced(arrays, cells)
    unit = arrays.unit.take(cells.place)
    room = ROOM // max(longest(cells.offsets), 1)
    if highest(quantity) * highest(unit) >= room:
        if whole:
            return None, holds
        fits = quantity < room // np.maximum(unit, 1)
        holds &= segment_all(fits, cells.offsets)
        quantity = np.where(fits, quantity, 0)
    sums = segment_sums(quantity * unit, cells.offsets)
    scale = arrays.scale[cells.price]
    amounts = rounded(numerator=sums, denominator=scale, rounding=run.rounding)
    if whole and not holds.all():
        return None, holds
    return limited(arrays=arrays.limits, price=cells.price, amount=amounts), holds


def _by_halves(run: _Run, cells: _Cells) -> NDArray[np.int64] | None:
    """Whole units and the rest of each cell apart, in one int64 each, or None if one is too wide.

    The price at its own scale keeps both sums short: half the work of limbs.
    """
    arrays = _arrays_of(run.tables, _PLAIN, run.digits)
    if not arrays.usable[cells.price].all() or highest(cells.quantity) >= WIDE:
        return None
    quantity = _priced(arrays, cells)
    unit = arrays.unit.take(cells.place)
    one = 10**run.digits
    whole = quantity // one
    room = ROOM // max(longest(cells.offsets), 1)
    widest = highest(unit)
    if max(highest(whole), one) * widest >= room:
        return None
    units = segment_sums(whole * unit, cells.offsets)
    rest = segment_sums((quantity - whole * one) * unit, cells.offsets)
    scale = arrays.scale[cells.price]
    coarse = scale // one
    above = units // coarse
    rest += (units - above * coarse) * one  # below scale + ROOM
    carry = rest // scale
    above += carry
    twice = (rest - carry * scale) * 2
    up = twice >= scale
    if run.rounding is Rounding.HALF_EVEN:
        up &= (twice > scale) | ((above & 1) == 1)
    return limited(arrays=arrays.limits, price=cells.price, amount=above + up)


def _by_limbs(run: _Run, cells: _Cells, digits: int) -> _Answer:
    """In decimal limbs; None when a sum of them might not fit."""
    arrays = _arrays_of(run.tables, _LIMBS, digits)
    holds = arrays.usable[cells.price]
    factor = 10 ** (digits - run.digits)
    quantity = cells.quantity
    if highest(quantity) * factor >= WIDE:
        small = quantity < WIDE // factor
        holds &= segment_all(small, cells.offsets)
        quantity = np.where(small, quantity, 0)
    quantity = quantity * factor if factor > 1 else quantity
    quantity = _priced(arrays, msgspec.structs.replace(cells, quantity=quantity))
    if arrays.quantities.has_steps and highest(quantity) >= WIDE:
        small = quantity < WIDE
        holds &= segment_all(small, cells.offsets)
        quantity = np.where(small, quantity, 0)
    pairs = limb_products(
        quantity=quantity,
        unit_high=arrays.unit_high.take(cells.place),
        unit_low=arrays.unit.take(cells.place),
    )
    if highest(pairs.high) * longest(cells.offsets) >= ROOM:
        return None, holds
    sums = segment_pair_sums(pairs, cells.offsets)
    amounts = rounded_pairs(pairs=sums, rounding=run.rounding)
    return limited(arrays=arrays.limits, price=cells.price, amount=amounts), holds


def _by_objects(run: _Run, cells: _Cells) -> NDArray[np.int64]:
    """Amounts in Python ints; OverflowError beyond int64."""
    arrays = _arrays_of(run.tables, _OBJECTS, run.digits)
    exact = cells.quantity.astype(object) * 10 ** (arrays.digits - run.digits)
    quantity = _priced(arrays, msgspec.structs.replace(cells, quantity=exact))
    sums = segment_sums(quantity * arrays.unit.take(cells.place), cells.offsets)
    coarse = 10**arrays.digits
    sums = np.maximum(sums, arrays.limits.minimum[cells.price] * coarse)
    sums = np.minimum(sums, arrays.limits.maximum[cells.price] * coarse)
    scale = arrays.scale[cells.price]
    return rounded(numerator=sums, denominator=scale, rounding=run.rounding).astype(np.int64)


def _priced(arrays: _Arrays, cells: _Cells) -> Integers:
    """Quantities rounded as their price says; below 10^18 they cannot overflow on the way."""
    if not arrays.quantities.any_touched:
        return cells.quantity
    price = cells.price[segment_of(cells.offsets)]
    return adjusted(arrays=arrays.quantities, price=price, quantity=cells.quantity, limit=None)[0]


def _arrays_of(tables: PriceTables, name: str, digits: int) -> _Arrays:
    """The arrays of a lane for quantities of so many digits, made once for each table."""
    known = tables.lanes.get((name, digits))
    if isinstance(known, _Arrays):
        return known
    arrays = _build(tables, name, digits)
    tables.lanes[name, digits] = arrays
    return arrays


def _build(tables: PriceTables, name: str, digits: int) -> _Arrays:
    wide = name == _OBJECTS
    quantity_digits = max(digits, FINEST_DIGITS) if wide else digits
    units = [_units(*item) for item in zip(tables.prices, tables.currencies, strict=True)]
    cuts = [_price_digits(name, digits, row_units) for row_units in units]
    usable = [
        wide or _fits(row, row_units, quantity_digits, cut)
        for row, row_units, cut in zip(tables.rows, units, cuts, strict=True)
    ]
    rows = [row if fits else blank_row(row) for row, fits in zip(tables.rows, usable, strict=True)]
    scaled = [
        at_digits(unit, cut) if fits else 0
        for row_units, cut, fits in zip(units, cuts, usable, strict=True)
        for unit in row_units
    ]
    scales = [
        10 ** (quantity_digits + cut) if fits else 1 for cut, fits in zip(cuts, usable, strict=True)
    ]
    limbs = name == _LIMBS
    counts = [len(row_units) for row_units in units]
    return _Arrays(
        digits=quantity_digits,
        usable=np.array(usable, dtype=np.bool_),
        start=np.cumsum([0, *counts[:-1]], dtype=np.int64),
        unit=int_array([unit % LIMB for unit in scaled] if limbs else scaled, wide=wide),
        unit_high=int_array([unit // LIMB for unit in scaled] if limbs else [], wide=wide),
        scale=int_array(scales, wide=wide),
        quantities=quantity_arrays(rows=rows, digits=quantity_digits, wide=wide),
        limits=limit_arrays(rows=rows, wide=wide),
    )


def _units(price: object, currency: str) -> tuple[int, ...]:
    """The price's own unit amount, then that of each row, in 10^-14 minor units."""
    if not isinstance(price, MatrixPrice):
        return (0,)
    scale = 10 ** currency_digits(currency)
    own = fine(price.unit_amount) * scale
    return (own, *(fine(row.unit_amount) * scale for row in price.matrix))


def _price_digits(name: str, digits: int, units: Sequence[int]) -> int:
    if name == _OBJECTS:
        return FINEST_DIGITS
    if name == _LIMBS:
        return WIDE_DIGITS - digits
    return max(digits_needed(unit, digits=FINEST_DIGITS) for unit in units)


def _fits(row: Row, units: Sequence[int], quantity_digits: int, price_digits: int) -> bool:
    """Whether every number of the price is exact and in bounds at this scale."""
    coarse = 10 ** max(FINEST_DIGITS - quantity_digits, 0)
    if row.step % coarse or row.step // coarse >= WIDE or not has_whole_limits(row):
        return False
    if quantity_digits + price_digits > WIDE_DIGITS:
        return False
    cut = 10 ** (FINEST_DIGITS - price_digits)
    return all(unit % cut == 0 and unit // cut < WIDE for unit in units)


def _one(run: _Run, cells: _Cells, line: int, share: Fraction) -> int:
    """The amount of one line by ratios; OverflowError is left to the array that takes it."""
    own = slice(int(cells.offsets[line]), int(cells.offsets[line + 1]))
    price, unit = int(cells.price[line]), 10**run.digits
    places = cells.place[own] - run.start[price] - 1
    amount = exact_amount(
        price=run.tables.prices[price],
        cells=[
            (int(place), Fraction(int(value), unit))
            for place, value in zip(places.tolist(), cells.quantity[own].tolist(), strict=True)
        ],
        fraction=share,
        currency=run.tables.currencies[price],
    )
    return round_ratio(amount.numerator, amount.denominator, rounding=run.rounding)
