"""Prices of single events over arrays: free events, the crossing one, rate and fixed amount.

Values are walked by segmented running sums, so that no line needs a loop. A line whose price and
values fit one int64 at its own scale is rated there, every other one in Python ints.
"""

from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding, round_ratio
from plans.prices import PercentagePrice
from rating.event_prices import EventPrices, event_prices
from rating.exact import FINEST_DIGITS, Integers, rounded
from rating.rate import (
    AmountOutOfRangeError,
    Quantities,
    amount_out_of_range,
    rate,
    shortest,
)
from rating.ratios import exact_amount
from rating.segments import (
    ROOM,
    Offsets,
    blocks,
    elements_of,
    exact_sums,
    largest,
    longest,
    segment_all,
    segment_of,
    segment_sums,
)
from rating.tables import PriceTables

Lines = NDArray[np.integer[Any]]


class _Run(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    tables: PriceTables
    rounding: Rounding
    digits: int
    narrow: EventPrices
    wide: EventPrices


class _Batch(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is asked for: n lines, of which the `parted` ones heed their fraction."""

    price: NDArray[np.int32]
    offsets: Offsets
    parted: NDArray[np.bool_]
    numerator: NDArray[np.int64]
    denominator: NDArray[np.int64]

    def share(self, line: int) -> Fraction:
        if not self.parted[line]:
            return Fraction(1)
        return Fraction(int(self.numerator[line]), int(self.denominator[line]))


class _Lines(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Some lines and their events."""

    price: Lines
    offsets: Offsets
    values: Integers

    def only(self, lines: NDArray[np.intp]) -> "_Lines":
        elements, own = elements_of(self.offsets, lines)
        return _Lines(price=self.price[lines], offsets=own, values=self.values[elements])


class _Paying(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """m elements: what the rate is taken of, 0 for free ones. `flags` None: all pay."""

    base: Integers
    flags: NDArray[np.bool_] | None


def rate_events(
    *,
    tables: PriceTables,
    price: NDArray[np.int32],
    offsets: NDArray[np.int64],
    values: Quantities,
    rounding: Rounding,
    fraction_numerator: NDArray[np.int64] | None = None,
    fraction_denominator: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Minor units of n lines; events offsets[i]:offsets[i + 1], in time order, are line i's.

    `price` is the row in `tables` of each line, `values` has m values in major units or whatever
    the price counts, negative ones too. A percentage price looks at each event, every other one
    is rated on their sum; a line below zero is zero. The fraction (default: whole periods) is
    that of `rating.rate.rate`: with `prorate_tiers` it shrinks what is free, minimum and maximum.
    `amount_out_of_range` names a line whose amount does not fit int64.
    """
    if fraction_numerator is None or fraction_denominator is None:
        fraction_numerator = fraction_denominator = np.ones(len(price), dtype=np.int64)
    by_event = np.array([isinstance(item, PercentagePrice) for item in tables.prices], dtype=bool)
    chosen = by_event[price]
    if chosen.all():
        batch = _Batch(
            price=price,
            offsets=offsets,
            parted=(fraction_numerator != fraction_denominator) & tables.shrinks[price],
            numerator=fraction_numerator,
            denominator=fraction_denominator,
        )
        return _rate_percentages(tables, batch, values, rounding)
    out = np.empty(len(price), dtype=np.int64)
    for lines, is_event in ((np.flatnonzero(chosen), True), (np.flatnonzero(~chosen), False)):
        elements, own = elements_of(offsets, lines)
        some = Quantities(mantissa=values.mantissa[elements], digits=values.digits)
        above, below = fraction_numerator[lines], fraction_denominator[lines]
        try:
            if is_event:
                out[lines] = rate_events(
                    tables=tables,
                    price=price[lines],
                    offsets=own,
                    values=some,
                    rounding=rounding,
                    fraction_numerator=above,
                    fraction_denominator=below,
                )
            else:
                sums = Quantities(mantissa=exact_sums(some.mantissa, own), digits=some.digits)
                out[lines] = rate(
                    tables=tables,
                    price=price[lines],
                    quantity=sums,
                    rounding=rounding,
                    fraction_numerator=above,
                    fraction_denominator=below,
                )
        except AmountOutOfRangeError as error:
            raise AmountOutOfRangeError(int(lines[error.line])) from None
    return out


def _rate_percentages(
    tables: PriceTables, batch: _Batch, values: Quantities, rounding: Rounding
) -> NDArray[np.int64]:
    mantissa, digits = shortest(values.mantissa, values.digits)
    narrow = event_prices(tables, digits, wide=False)
    mantissa = _finer(mantissa, narrow.value_digits - digits)
    run = _Run(
        tables=tables,
        rounding=rounding,
        digits=narrow.value_digits,
        narrow=narrow,
        wide=event_prices(tables, digits, wide=True),
    )
    offsets, out = batch.offsets, np.empty(len(batch.price), dtype=np.int64)
    for begin, end in blocks(offsets):
        lines = _Lines(
            price=batch.price[begin:end].astype(np.intp),
            offsets=offsets[begin : end + 1] - offsets[begin],
            values=mantissa[offsets[begin] : offsets[end]],
        )
        try:
            out[begin:end] = _block(run, lines)
            for line in np.flatnonzero(batch.parted[begin:end]).tolist():
                out[begin + line] = _one(run, lines, line, batch.share(begin + line))
        except OverflowError:
            count = end - begin
            amounts = (_one(run, lines, line, batch.share(begin + line)) for line in range(count))
            raise amount_out_of_range(amounts, begin) from None
    return out


def _finer(mantissa: Integers, digits: int) -> Integers:
    """The same values with so many more digits."""
    if digits and mantissa.dtype != np.object_ and largest(mantissa) * 10**digits >= ROOM:
        mantissa = mantissa.astype(object)
    return mantissa * 10**digits if digits else mantissa


def _block(run: _Run, lines: _Lines) -> NDArray[np.int64]:
    """Amounts of some lines over their whole period."""
    arrays, rows = run.narrow, lines.price
    if largest(lines.values) * max(len(lines.values), 1) >= ROOM:
        return _wide(run, lines)
    lines = msgspec.structs.replace(lines, values=lines.values.astype(np.int64, copy=False))
    paying = _paying(arrays, lines)
    if arrays.bounded.any() and arrays.bounded[rows].any():
        amounts, fits = _bounded(arrays, lines, paying)
    else:
        amounts, fits = _straight(arrays, lines, paying)
    scale = arrays.scale[rows]
    out = rounded(numerator=amounts, denominator=scale, rounding=run.rounding)
    if arrays.limits.any_set:
        np.clip(out, arrays.limits.minimum[rows], arrays.limits.maximum[rows], out=out)
    if fits is not None and not fits.all():
        left = np.flatnonzero(~fits)
        out[left] = _wide(run, lines.only(left))
    return out


def _wide(run: _Run, lines: _Lines) -> NDArray[np.int64]:
    """The same in Python ints; OverflowError beyond int64."""
    arrays, rows, offsets = run.wide, lines.price, lines.offsets
    lines = msgspec.structs.replace(lines, values=lines.values.astype(object))
    paying = _paying(arrays, lines)
    amounts = _event_amounts(arrays, rows[segment_of(offsets)], paying)
    scale = arrays.scale[rows]
    sums = np.maximum(segment_sums(amounts, offsets), 0)
    fine_unit = scale // 10**FINEST_DIGITS
    sums = np.maximum(sums, arrays.limits.minimum[rows] * fine_unit)
    sums = np.minimum(sums, arrays.limits.maximum[rows] * fine_unit)
    return rounded(numerator=sums, denominator=scale, rounding=run.rounding).astype(np.int64)


def _paying(arrays: EventPrices, lines: _Lines) -> _Paying:
    """Free events, and what is beyond the free amount where an event crosses it."""
    rows, offsets, values = lines.price, lines.offsets, lines.values
    if not arrays.any_free:
        return _Paying(base=values, flags=None)
    counts = np.diff(offsets)
    first = np.repeat(offsets[:-1], counts)  # of each element's line
    first_paying = offsets[:-1] + np.minimum(arrays.free_events[rows], counts)
    counted = np.arange(len(values)) >= np.repeat(first_paying, counts)
    if not arrays.any_free_amount:
        return _Paying(base=np.where(counted, values, 0), flags=counted)
    total = np.zeros(len(values) + 1, dtype=values.dtype)
    np.cumsum(values, out=total[1:])
    before = total.take(offsets[:-1]) + arrays.free_amount[rows]
    beyond = total[1:] - np.repeat(before, counts)
    ends = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(counted | (beyond > 0), out=ends[1:])
    so_far = ends[1:] - ends.take(first)
    crosses = (so_far == 1) & (beyond > 0) & ~counted & (ends[1:] > ends[:-1])
    flags = so_far > 0
    base = np.where(crosses, beyond, values)
    return _Paying(base=np.where(flags, base, 0), flags=flags)


def _straight(
    arrays: EventPrices, lines: _Lines, paying: _Paying
) -> tuple[Integers, NDArray[np.bool_] | None]:
    """unit × sum + fixed × count for each line, and which lines fit int64 (None: all)."""
    rows, offsets = lines.price, lines.offsets
    base = segment_sums(paying.base, offsets)
    flags = paying.flags
    count = np.diff(offsets) if flags is None else segment_sums(flags.astype(np.int64), offsets)
    unit, fixed = arrays.unit[rows], arrays.fixed[rows]
    fits = None
    widest = largest(base) * largest(unit) + largest(count) * largest(fixed)
    if widest >= ROOM or not arrays.usable[rows].all():
        half = ROOM // 2
        fits = arrays.usable[rows] & (np.abs(base) < half // np.maximum(unit, 1))
        fits &= count < half // np.maximum(fixed, 1)
        base, count = np.where(fits, base, 0), np.where(fits, count, 0)
    return np.maximum(base * unit + count * fixed, 0), fits


def _bounded(
    arrays: EventPrices, lines: _Lines, paying: _Paying
) -> tuple[Integers, NDArray[np.bool_] | None]:
    """The same with each event's own minimum and maximum."""
    rows, offsets = lines.price, lines.offsets
    room = ROOM // max(longest(offsets), 1)
    widest = largest(paying.base) * largest(arrays.unit[rows]) + largest(arrays.fixed[rows])
    fits = None
    row = rows[segment_of(offsets)]
    least = arrays.least[rows]
    if max(widest, int(least.max(initial=0))) >= room or not arrays.usable[rows].all():
        half = room // 2
        small = np.abs(paying.base) < half // np.maximum(arrays.unit[row], 1)
        fits = arrays.usable[rows] & (arrays.fixed[rows] < half) & (least < half)
        fits &= segment_all(small, offsets)
        base = np.where(fits[segment_of(offsets)], paying.base, 0)
        paying = _Paying(base=base, flags=paying.flags)
    amounts = _event_amounts(arrays, row, paying)
    if fits is not None:
        amounts = np.where(fits[segment_of(offsets)], amounts, 0)
    return np.maximum(segment_sums(amounts, offsets), 0), fits


def _event_amounts(arrays: EventPrices, row: Lines, paying: _Paying) -> Integers:
    """What each event pays; `row` is the price of each."""
    amounts = paying.base * arrays.unit[row] + arrays.fixed[row]
    amounts = np.minimum(np.maximum(amounts, arrays.least[row]), arrays.most[row])
    return amounts if paying.flags is None else np.where(paying.flags, amounts, 0)


def _one(run: _Run, lines: _Lines, line: int, share: Fraction) -> int:
    """The amount of one line by ratios."""
    row, unit = int(lines.price[line]), 10**run.digits
    events = lines.values[lines.offsets[line] : lines.offsets[line + 1]].tolist()
    amount = exact_amount(
        price=run.tables.prices[row],
        events=[Fraction(int(value), unit) for value in events],
        fraction=share,
        currency=run.tables.currencies[row],
    )
    return round_ratio(amount.numerator, amount.denominator, rounding=run.rounding)
