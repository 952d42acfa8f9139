"""Percentage prices as arrays, at a scale of each price's own and, wide, at one for all."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import currency_digits
from plans.prices import PercentagePrice
from rating.adjustments import LimitArrays, at_digits, limit_arrays
from rating.exact import FINEST_DIGITS, INT64_MAX, WIDE_DIGITS, Integers, int_array
from rating.lanes import blank_row, digits_needed, has_whole_limits
from rating.segments import ROOM
from rating.tables import PriceTables, fine, rate_unit

_NO_LIMIT: Final = 2**62
_NONE_FREE: Final = -1


class _Price(msgspec.Struct, frozen=True, kw_only=True):
    """One price exactly, in 10^-14 minor units (free_amount: 10^-14 major units)."""

    unit: int = 0
    fixed: int = 0
    free_events: int = _NONE_FREE
    free_amount: int | None = None
    least: int | None = None
    most: int | None = None

    def digits(self) -> int:
        """Fractional digits of minor units that hold fixed, least and most."""
        amounts = (self.fixed, self.least or 0, self.most or 0)
        return max(digits_needed(amount, digits=FINEST_DIGITS) for amount in amounts)


class EventPrices(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n prices for values × 10^value_digits; amounts of row i are whole at 1 / scale[i].

    A row that is not `usable` needs the wide arrays. `least` and `most` are ±2^62 where absent.
    """

    value_digits: int
    usable: NDArray[np.bool_]
    free_events: NDArray[np.int64]
    free_amount: Integers
    any_free: bool
    any_free_amount: bool
    bounded: NDArray[np.bool_]
    unit: Integers
    fixed: Integers
    least: Integers
    most: Integers
    scale: Integers
    limits: LimitArrays


def event_prices(tables: PriceTables, digits: int, *, wide: bool) -> EventPrices:
    """The arrays for values of so many digits, made once for each table."""
    name = "events, wide" if wide else "events"
    known = tables.lanes.get((name, digits))
    if isinstance(known, EventPrices):
        return known
    arrays = _build(tables, digits, wide=wide)
    tables.lanes[name, digits] = arrays
    return arrays


def _build(tables: PriceTables, digits: int, *, wide: bool) -> EventPrices:
    prices = [_exact(*item) for item in zip(tables.prices, tables.currencies, strict=True)]
    free = [price.free_amount for price in prices]
    value_digits = max(
        [digits, *(digits_needed(x, digits=FINEST_DIGITS) for x in free if x is not None)]
    )
    price_digits = [
        FINEST_DIGITS
        if wide
        else max(digits_needed(x.unit, digits=FINEST_DIGITS), x.digits() - value_digits)
        for x in prices
    ]
    usable = [
        wide or (_fits(price, value_digits, cut) and has_whole_limits(row))
        for price, cut, row in zip(prices, price_digits, tables.rows, strict=True)
    ]
    fitting = list(zip(tables.rows, usable, strict=True))
    rows = [row if fits else blank_row(row) for row, fits in fitting]
    kept = [price if fits else _Price() for price, fits in zip(prices, usable, strict=True)]
    cuts = [cut if fits else 0 for cut, fits in zip(price_digits, usable, strict=True)]
    scales = [value_digits + cut for cut in cuts]

    def amounts(values: Sequence[int | None], absent: int) -> Integers:
        pairs = zip(values, scales, strict=True)
        scaled = [absent if x is None else at_digits(x, digits) for x, digits in pairs]
        return int_array(scaled, wide=wide)

    no_limit = 10**80 if wide else _NO_LIMIT
    return EventPrices(
        value_digits=value_digits,
        usable=np.array(usable, dtype=np.bool_),
        free_events=np.array([price.free_events for price in prices], dtype=np.int64),
        free_amount=int_array(
            [no_limit if x is None else min(at_digits(x, value_digits), no_limit) for x in free],
            wide=wide,
        ),
        any_free=any(price.free_events != _NONE_FREE for price in prices),
        any_free_amount=any(x is not None for x in free),
        bounded=np.array([x.least is not None or x.most is not None for x in prices], dtype=bool),
        unit=int_array(
            [at_digits(x.unit, cut) for x, cut in zip(kept, cuts, strict=True)], wide=wide
        ),
        fixed=amounts([price.fixed for price in kept], 0),
        least=amounts([price.least for price in kept], -no_limit),
        most=amounts([price.most for price in kept], no_limit),
        scale=int_array([10**digits for digits in scales], wide=wide),
        limits=limit_arrays(rows=rows, wide=wide),
    )


def _exact(price: object, currency: str) -> _Price:
    if not isinstance(price, PercentagePrice):
        return _Price()
    scale = 10 ** currency_digits(currency)
    free_events = _NONE_FREE if price.free_amount is None else INT64_MAX
    return _Price(
        unit=rate_unit(price.rate, scale),
        fixed=fine(price.fixed_amount) * scale,
        free_events=free_events if price.free_events is None else price.free_events,
        free_amount=None if price.free_amount is None else fine(price.free_amount),
        least=None if price.event_minimum is None else fine(price.event_minimum) * scale,
        most=None if price.event_maximum is None else fine(price.event_maximum) * scale,
    )


def _fits(price: _Price, value_digits: int, price_digits: int) -> bool:
    """Whether int64 holds every number of the price at this scale."""
    digits = value_digits + price_digits
    if digits >= WIDE_DIGITS:
        return False
    amounts = (price.fixed, price.least or 0, price.most or 0)
    widest = max(at_digits(amount, digits) for amount in amounts)
    free = at_digits(price.free_amount or 0, value_digits)
    return max(widest, free, at_digits(price.unit, price_digits)) < ROOM
