"""Running aggregates that need more than one number a line: averages, percentiles, levels. Pure.

Each is made of parts that add up, so that it does not matter in which blocks the events come.
"""

from fractions import Fraction
from typing import Protocol, assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.aggregation import (
    Block,
    Tally,
    concatenated,
    distinct,
    divided,
    round_quantities,
    scale_up,
    tighten,
)
from metering.values import INT64_MAX, Quantities
from plans.expression import is_property
from plans.model import Aggregation, Meter
from plans.prices import QuantityRounding

_Ints = NDArray[np.int64]
_COMPACTED = 1_000_000
_HALF = 32
_HUNDRED = 100
_SPLIT = 21
_EXPRESSION_ROUNDING = QuantityRounding(mode="half_up", digits=9)


class Spans(msgspec.Struct, frozen=True, kw_only=True):
    """n windows [start, end) in microseconds, and how long what a level is weighed against is."""

    start: _Ints
    end: _Ints
    whole: _Ints


class Running(Protocol):
    """The aggregate of lines as their events come, block by block, in any order."""

    def grow(self, *, lines: int) -> None:
        """Have at least so many lines."""
        ...

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        """Count the events at `position` of `block` to the lines and windows beside them."""
        ...

    def quantities(self) -> tuple[Quantities, int]:
        """(mantissa, digits) of every line; what no event came to is zero."""
        ...

    def has_usage(self) -> NDArray[np.bool_]:
        """Whether each line is more than the memory of what is over."""
        ...


class _Plain:
    """Count, sum, maximum, minimum and latest."""

    def __init__(self, aggregation: Aggregation) -> None:
        self._tally = Tally(aggregation=aggregation, lines=0)

    def grow(self, *, lines: int) -> None:
        self._tally.grow(lines=lines)

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        del span
        self._tally.add(line=line, position=position, block=block)

    def quantities(self) -> tuple[Quantities, int]:
        return self._tally.mantissa, self._tally.digits

    def has_usage(self) -> NDArray[np.bool_]:
        return np.ones(len(self._tally.mantissa), dtype=np.bool_)


class _Average:
    """A sum and a count."""

    def __init__(self) -> None:
        self._sum = Tally(aggregation=Aggregation.SUM, lines=0)
        self._count = Tally(aggregation=Aggregation.COUNT, lines=0)

    def grow(self, *, lines: int) -> None:
        self._sum.grow(lines=lines)
        self._count.grow(lines=lines)

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        del span
        self._sum.add(line=line, position=position, block=block)
        self._count.add(line=line, position=position, block=block)

    def quantities(self) -> tuple[Quantities, int]:
        counts = [max(1, count) for count in self._count.mantissa.tolist()]
        return divided(numerators=self._sum.mantissa, digits=self._sum.digits, denominators=counts)

    def has_usage(self) -> NDArray[np.bool_]:
        return np.ones(len(self._sum.mantissa), dtype=np.bool_)


class _Unique:
    """The distinct (line, text) pairs: memory by pairs, not by events."""

    def __init__(self) -> None:
        self._lines = 0
        self._pairs = np.empty(0, dtype=np.int64)
        self._fresh: list[_Ints] = []
        self._waiting = 0

    def grow(self, *, lines: int) -> None:
        self._lines = max(self._lines, lines)

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        del span
        assert block.member is not None
        pairs = distinct((line << _HALF) | block.member[position])
        self._fresh.append(pairs)
        self._waiting += len(pairs)
        if self._waiting > max(_COMPACTED, len(self._pairs)):
            self._compact()

    def _compact(self) -> None:
        self._pairs = distinct(np.concatenate([self._pairs, *self._fresh]))
        self._fresh, self._waiting = [], 0

    def quantities(self) -> tuple[Quantities, int]:
        self._compact()
        return np.bincount(self._pairs >> _HALF, minlength=self._lines), 0

    def has_usage(self) -> NDArray[np.bool_]:
        return np.ones(self._lines, dtype=np.bool_)


def _sorted(line: _Ints, rank: _Ints) -> NDArray[np.intp]:
    """The order by line, then by rank: of one key where 64 bits hold both."""
    if not len(line):
        return np.empty(0, dtype=np.intp)
    low = int(rank.min())
    span = int(rank.max()) - low + 1
    if (int(line.max()) + 1) * span > INT64_MAX:
        return np.lexsort((rank, line))
    return np.argsort(line * span + (rank - low))


class _Percentile:
    """How often each line met each value: memory by distinct values."""

    def __init__(self, percent: Fraction) -> None:
        self._percent = percent
        self._lines = 0
        self._digits = 0
        self._line = np.empty(0, dtype=np.int64)
        self._value: Quantities = np.empty(0, dtype=np.int64)
        self._count = np.empty(0, dtype=np.int64)
        self._fresh: list[tuple[_Ints, Quantities, int]] = []
        self._waiting = 0

    def grow(self, *, lines: int) -> None:
        self._lines = max(self._lines, lines)

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        del span
        assert block.quantity is not None
        self._fresh.append((line, block.quantity[position], block.digits))
        self._waiting += len(line)
        if self._waiting > max(_COMPACTED, len(self._line)):
            self._compact()

    def _compact(self) -> None:
        parts = [(self._line, self._value, self._digits), *self._fresh]
        digits = max(each for _, _, each in parts)
        line = np.concatenate([lines for lines, _, _ in parts])
        ones = np.ones(len(line) - len(self._line), dtype=np.int64)
        count = np.concatenate((self._count, ones))
        value = concatenated([scale_up(each, power=digits - its) for _, each, its in parts])
        wide = value.dtype == object
        rank = np.unique(value, return_inverse=True)[1] if wide else value.astype(np.int64)
        order = _sorted(line, rank)
        line, rank, value, count = line[order], rank[order], value[order], count[order]
        fresh = np.ones(len(line), dtype=np.bool_)
        fresh[1:] = (line[1:] != line[:-1]) | (rank[1:] != rank[:-1])
        first = np.flatnonzero(fresh)
        self._line, self._value, self._digits = line[first], tighten(value[first]), digits
        self._count = np.add.reduceat(count, first) if len(first) else count
        self._fresh, self._waiting = [], 0

    def quantities(self) -> tuple[Quantities, int]:
        """By nearest rank: of n values in order the one at ⌈percent × n / 100⌉, from 1."""
        self._compact()
        totals = np.zeros(self._lines, dtype=np.int64)
        np.add.at(totals, self._line, self._count)
        found = np.flatnonzero(totals)
        share = self._percent / _HUNDRED
        ranks = [
            -(-share.numerator * total // share.denominator) for total in totals[found].tolist()
        ]
        before = np.cumsum(totals) - totals
        target = before[found] + np.array(ranks, dtype=np.int64)
        chosen = np.searchsorted(np.cumsum(self._count), target, side="left")
        quantity = np.zeros(self._lines, dtype=np.int64)
        wide: Quantities = quantity if self._value.dtype != object else quantity.astype(object)
        wide[found] = self._value[chosen]
        return wide, self._digits

    def has_usage(self) -> NDArray[np.bool_]:
        return np.ones(self._lines, dtype=np.bool_)


class _Level:
    """Changes of a level, each weighed by the time left to its window's end after it.

    A change before the start, which is part of the level from the start on, weighs the whole
    window. So the sum of value × time is level × time. Times are split into halves, so that the
    sums of either stay in 64 bits for long.
    """

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._high = Tally(aggregation=Aggregation.SUM, lines=0)
        self._low = Tally(aggregation=Aggregation.SUM, lines=0)
        self._level = Tally(aggregation=Aggregation.SUM, lines=0)
        self._span = np.empty(0, dtype=np.int64)
        self._inside = np.empty(0, dtype=np.bool_)

    def grow(self, *, lines: int) -> None:
        more = lines - len(self._span)
        if more > 0:
            self._high.grow(lines=lines)
            self._low.grow(lines=lines)
            self._level.grow(lines=lines)
            self._span = np.concatenate((self._span, np.zeros(more, dtype=np.int64)))
            self._inside = np.concatenate((self._inside, np.zeros(more, dtype=np.bool_)))

    def add(self, *, line: _Ints, span: _Ints, position: _Ints, block: Block) -> None:
        assert block.quantity is not None
        start, at = self._spans.start[span], block.time_micros[position]
        left = self._spans.end[span] - np.maximum(at, start)
        values = block.quantity[position]
        for tally, micros in ((self._high, left >> _SPLIT), (self._low, left & (2**_SPLIT - 1))):
            tally.add_values(line=line, values=_products(values, micros), digits=block.digits)
        self._level.add_values(line=line, values=values, digits=block.digits)
        self._span[line] = span
        self._inside[line[at >= start]] = True

    def quantities(self) -> tuple[Quantities, int]:
        whole = self._spans.whole[self._span].tolist() if len(self._span) else []
        high, low = self._high.mantissa.astype(object), self._low.mantissa.astype(object)
        weighed = high * 2**_SPLIT + low
        return divided(numerators=weighed, digits=self._high.digits, denominators=whole)

    def has_usage(self) -> NDArray[np.bool_]:
        return self._inside | (self._level.mantissa != 0)


def _products(values: Quantities, micros: _Ints) -> Quantities:
    """values × micros, in int64 while it fits."""
    if values.dtype != object and len(values):
        largest = max(abs(int(values.max())), abs(int(values.min())))
        if largest * int(micros.max()) <= INT64_MAX:
            return values * micros
    return values.astype(object) * micros.astype(object)


def running_aggregate(*, meter: Meter, spans: Spans) -> Running:
    """The aggregate of a meter over some windows, before any event."""
    match meter.aggregation:
        case Aggregation.AVERAGE:
            return _Average()
        case Aggregation.UNIQUE_COUNT:
            return _Unique()
        case Aggregation.PERCENTILE:
            assert meter.percentile is not None
            return _Percentile(Fraction(meter.percentile))
        case Aggregation.WEIGHTED_SUM:
            return _Level(spans)
        case (
            Aggregation.COUNT
            | Aggregation.SUM
            | Aggregation.MAX
            | Aggregation.MIN
            | Aggregation.LATEST
        ):
            return _Plain(meter.aggregation)
        case _:
            assert_never(meter.aggregation)


def finished(*, meter: Meter, aggregate: Running) -> tuple[Quantities, int]:
    """(mantissa, digits) of the quantities, rounded as the meter says.

    Those of an expression have nine digits before, so that thirds add up.
    """
    values, digits = aggregate.quantities()
    if meter.value is not None and not is_property(meter.value):
        values, digits = round_quantities(
            values=values, digits=digits, rounding=_EXPRESSION_ROUNDING
        )
    if meter.rounding is not None:
        values, digits = round_quantities(values=values, digits=digits, rounding=meter.rounding)
    return values, digits
