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
    largest,
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


class _Cells(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n lines and their m cells: matrix row (-1 none) and quantity, not negative."""

    price: Lines
    offsets: Offsets
    row: Lines
    quantity: Integers

    def only(self, lines: NDArray[np.intp]) -> "_Cells":
        elements, own = elements_of(self.offsets, lines)
        return _Cells(
            price=self.price[lines],
            offsets=own,
            row=self.row[elements],
            quantity=self.quantity[elements],
        )


_Answer = tuple[NDArray[np.int64], NDArray[np.bool_]]  # amounts, and which of them hold


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
    run = _Run(tables=tables, rounding=rounding, digits=digits)
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
        cells = _Cells(
            price=price[begin:end].astype(np.intp),
            offsets=offsets[begin : end + 1] - offsets[begin],
            row=row[inside],
            quantity=np.maximum(mantissa[inside], 0),
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
    if largest(cells.quantity) > INT64_MAX:
        return _by_objects(run, cells)
    quantity = cells.quantity.astype(np.int64, copy=False)
    cells = msgspec.structs.replace(cells, quantity=quantity)
    amounts, holds = _by_plain(run, cells)
    left = np.flatnonzero(~holds)
    for digits in LIMB_QUANTITY_DIGITS:
        if left.size and run.digits <= digits:
            wider, holds = _by_limbs(run, cells.only(left), digits)
            amounts[left] = wider
            left = left[~holds]
    if left.size:
        amounts[left] = _by_objects(run, cells.only(left))
    return amounts


def _by_plain(run: _Run, cells: _Cells) -> _Answer:
    arrays = _arrays_of(run.tables, _PLAIN, run.digits)
    holds = arrays.usable[cells.price]
    if largest(cells.quantity) >= WIDE:
        holds &= segment_all(cells.quantity < WIDE, cells.offsets)
        cells = msgspec.structs.replace(cells, quantity=np.minimum(cells.quantity, WIDE))
    quantity, inside = _priced(arrays, cells)
    unit = _unit_of(cells, arrays.start, arrays.unit)
    room = ROOM // max(longest(cells.offsets), 1)
    if inside is not None or largest(quantity) * largest(unit) >= room:
        fits = quantity < room // np.maximum(unit, 1)
        fits = fits if inside is None else fits & inside
        holds &= segment_all(fits, cells.offsets)
        quantity = np.where(fits, quantity, 0)
    sums = segment_sums(quantity * unit, cells.offsets)
    amounts = rounded(numerator=sums, denominator=arrays.scale[cells.price], rounding=run.rounding)
    return limited(arrays=arrays.limits, price=cells.price, amount=amounts), holds


def _by_limbs(run: _Run, cells: _Cells, digits: int) -> _Answer:
    arrays = _arrays_of(run.tables, _LIMBS, digits)
    holds = arrays.usable[cells.price]
    factor = 10 ** (digits - run.digits)
    small = cells.quantity < WIDE // factor
    scaled = np.where(small, cells.quantity, 0) * factor
    cells = msgspec.structs.replace(cells, quantity=scaled)
    quantity, inside = _priced(arrays, cells)
    small &= quantity < WIDE
    if inside is not None:
        small &= inside
    pairs = limb_products(
        quantity=np.where(small, quantity, 0),
        unit_high=_unit_of(cells, arrays.start, arrays.unit_high),
        unit_low=_unit_of(cells, arrays.start, arrays.unit),
    )
    if largest(pairs.high) * longest(cells.offsets) >= ROOM:
        return np.zeros(len(cells.price), dtype=np.int64), np.zeros(len(cells.price), dtype=bool)
    sums = segment_pair_sums(pairs, cells.offsets)
    amounts = rounded_pairs(pairs=sums, rounding=run.rounding)
    amounts = limited(arrays=arrays.limits, price=cells.price, amount=amounts)
    return amounts, holds & segment_all(small, cells.offsets)


def _by_objects(run: _Run, cells: _Cells) -> NDArray[np.int64]:
    """Amounts in Python ints; OverflowError beyond int64."""
    arrays = _arrays_of(run.tables, _OBJECTS, run.digits)
    exact = cells.quantity.astype(object) * 10 ** (arrays.digits - run.digits)
    cells = msgspec.structs.replace(cells, quantity=exact)
    quantity, _ = _priced(arrays, cells)
    sums = segment_sums(quantity * _unit_of(cells, arrays.start, arrays.unit), cells.offsets)
    coarse = 10**arrays.digits
    sums = np.maximum(sums, arrays.limits.minimum[cells.price] * coarse)
    sums = np.minimum(sums, arrays.limits.maximum[cells.price] * coarse)
    scale = arrays.scale[cells.price]
    return rounded(numerator=sums, denominator=scale, rounding=run.rounding).astype(np.int64)


def _priced(arrays: _Arrays, cells: _Cells) -> tuple[Integers, NDArray[np.bool_] | None]:
    """Quantities rounded as their price says, and which of them still fit (None: all)."""
    if not arrays.quantities.any_touched:
        return cells.quantity, None
    price = cells.price[segment_of(cells.offsets)]
    quantity, inside = adjusted(
        arrays=arrays.quantities, price=price, quantity=cells.quantity, limit=None
    )
    return quantity, inside


def _unit_of(cells: _Cells, start: NDArray[np.int64], units: Integers) -> Integers:
    """The unit amount of each cell."""
    begin = np.repeat(start[cells.price], np.diff(cells.offsets))
    return units.take(begin + cells.row + 1)


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
    amount = exact_amount(
        price=run.tables.prices[price],
        cells=[
            (int(row), Fraction(int(value), unit))
            for row, value in zip(cells.row[own], cells.quantity[own].tolist(), strict=True)
        ],
        fraction=share,
        currency=run.tables.currencies[price],
    )
    return round_ratio(amount.numerator, amount.denominator, rounding=run.rounding)
