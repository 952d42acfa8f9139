"""Quantities out of columns: exact running aggregates of lines.

Pure and vectorised. Everything stays in int64 while bounds prove that it fits, and moves to Python
ints (dtype object) when they no longer do: never a silent overflow.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding, round_ratio
from metering.values import INT64_MAX, Quantities
from plans.model import Aggregation
from plans.prices import QuantityRounding

_HALF: Final = 32
RATIO_DIGITS: Final = 9
_Ints = NDArray[np.int64]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """m events of one meter with a common number of fractional digits.

    `quantity` is None for a counting meter; `batch` and the order of the events break the ties of
    `latest`. `combination` numbers the values of each event's dimensions, `member` the text that
    a unique count counts, and `received_micros` tells when it came, where they are asked for.
    """

    customer: _Ints
    time_micros: _Ints
    batch: _Ints
    quantity: Quantities | None
    digits: int
    combination: _Ints | None = None
    member: _Ints | None = None
    received_micros: _Ints | None = None


def _largest(values: Quantities) -> int:
    """The greatest absolute value as a Python int; 0 of none."""
    if not len(values):
        return 0
    return max(abs(int(values.max())), abs(int(values.min())))


def scale_up(values: Quantities, *, power: int) -> Quantities:
    """values × 10^power, in int64 while it fits."""
    if power == 0:
        return values
    factor = 10**power
    if values.dtype == np.int64 and _largest(values) * factor <= INT64_MAX:
        return values * np.int64(factor)
    return values.astype(object) * factor


def concatenated(parts: Sequence[Quantities]) -> Quantities:
    """One column after the other: Python ints when one of them holds such, else int64."""
    if any(part.dtype == object for part in parts):
        return np.concatenate([part.astype(object) for part in parts])
    return np.concatenate([np.empty(0, dtype=np.int64), *[part.astype(np.int64) for part in parts]])


def distinct(values: _Ints) -> _Ints:
    """Sorted, each once: np.unique hashes, which takes seventy times as long."""
    ordered = np.sort(values)
    fresh = np.ones(len(ordered), dtype=np.bool_)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


class PairNumbers:
    """Pairs of (line, combination), numbered as they come: memory by pairs, not by events."""

    def __init__(self) -> None:
        """None is known yet."""
        self._pairs = np.empty(0, dtype=np.int64)
        self._numbers = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """How many are known."""
        return len(self._pairs)

    def find(self, *, line: _Ints, combination: _Ints) -> _Ints:
        """The number of each of n pairs; both halves lie below 2^31."""
        distinct, place = np.unique((line << _HALF) | combination, return_inverse=True)
        near = np.searchsorted(self._pairs, distinct)
        fresh = np.ones(len(distinct), dtype=np.bool_)
        inside = np.flatnonzero(near < len(self._pairs))
        fresh[inside] = self._pairs[near[inside]] != distinct[inside]
        if bool(fresh.any()):
            start, more = len(self._pairs), distinct[fresh]
            pairs = np.concatenate((self._pairs, more))
            numbers = np.concatenate((self._numbers, np.arange(start, start + len(more))))
            order = np.argsort(pairs, kind="stable")
            self._pairs, self._numbers = pairs[order], numbers[order]
        return self._numbers[np.searchsorted(self._pairs, distinct)][place]

    def halves(self) -> tuple[_Ints, _Ints]:
        """(lines, combinations) by number."""
        pairs = np.empty(len(self._pairs), dtype=np.int64)
        pairs[self._numbers] = self._pairs
        return pairs >> _HALF, pairs & (2**_HALF - 1)


class Tally:
    """The running aggregate of n lines: mantissa × 10^-digits, exact."""

    def __init__(self, *, aggregation: Aggregation, lines: int) -> None:
        """All lines begin at zero and unseen."""
        self._aggregation = aggregation
        self.digits = 0
        self.mantissa: Quantities = np.zeros(lines, dtype=np.int64)
        self._bound = 0
        self._seen = np.zeros(lines, dtype=np.bool_)
        self._time = np.zeros(lines, dtype=np.int64)
        self._batch = np.zeros(lines, dtype=np.int64)

    def grow(self, *, lines: int) -> None:
        """Have at least so many lines; new ones begin at zero and unseen."""
        more = lines - len(self.mantissa)
        if more > 0:
            zeros = np.zeros(more, dtype=np.int64)
            self.mantissa = concatenated([self.mantissa, zeros])
            self._seen = np.concatenate((self._seen, zeros.astype(np.bool_)))
            self._time = np.concatenate((self._time, zeros))
            self._batch = np.concatenate((self._batch, zeros))

    def add(self, *, line: _Ints, position: _Ints, block: Block) -> None:
        """Count the events at `position` of `block` to the lines beside them."""
        if self._aggregation is Aggregation.COUNT or block.quantity is None:
            self.mantissa += np.bincount(line, minlength=len(self.mantissa))
            return
        if self._aggregation is Aggregation.LATEST:
            quantity = self._align(block.quantity[position], block.digits)
            self._add_latest(line, quantity, block.time_micros[position], block.batch[position])
            return
        self.add_values(line=line, values=block.quantity[position], digits=block.digits)

    def add_values(self, *, line: _Ints, values: Quantities, digits: int) -> None:
        """Sum, maximum or minimum: count n values × 10^-digits to the lines beside them."""
        quantity = self._align(values, digits)
        if self._aggregation is Aggregation.SUM:
            self._add_sum(line, quantity)
        else:
            self._add_extreme(line, quantity, largest=self._aggregation is Aggregation.MAX)

    def _align(self, quantity: Quantities, digits: int) -> Quantities:
        """Bring the tally and the newcomers to the same digits and the same kind of integer."""
        if digits > self.digits:
            self.mantissa = scale_up(self.mantissa, power=digits - self.digits)
            self._bound *= 10 ** (digits - self.digits)
            self.digits = digits
        quantity = scale_up(quantity, power=self.digits - digits)
        if quantity.dtype == object and self.mantissa.dtype != object:
            self.mantissa = self.mantissa.astype(object)
        if self.mantissa.dtype == object and quantity.dtype != object:
            quantity = quantity.astype(object)
        return quantity

    def _add_sum(self, line: _Ints, quantity: Quantities) -> None:
        if self.mantissa.dtype != object:
            largest = _largest(quantity)
            grown = self._bound + largest * len(line)
            if grown > INT64_MAX:
                busiest = int(np.bincount(line).max(initial=0))
                grown = _largest(self.mantissa) + largest * busiest
            if grown > INT64_MAX:
                self.mantissa, quantity = self.mantissa.astype(object), quantity.astype(object)
            self._bound = grown
        np.add.at(self.mantissa, line, quantity)

    def _add_extreme(self, line: _Ints, quantity: Quantities, *, largest: bool) -> None:
        fresh = ~self._seen[line]
        self.mantissa[line[fresh]] = quantity[fresh]
        self._seen[line] = True
        (np.maximum if largest else np.minimum).at(self.mantissa, line, quantity)

    def _add_latest(
        self, line: _Ints, quantity: Quantities, time_micros: _Ints, batch: _Ints
    ) -> None:
        order = np.lexsort((np.arange(len(line)), batch, time_micros, line))
        last = order[np.append(line[order[1:]] != line[order[:-1]], [True])]
        mine, at, number = line[last], time_micros[last], batch[last]
        newer = (
            ~self._seen[mine]
            | (at > self._time[mine])
            | ((at == self._time[mine]) & (number > self._batch[mine]))
        )
        chosen, target = last[newer], mine[newer]
        self.mantissa[target] = quantity[chosen]
        self._time[target], self._batch[target] = time_micros[chosen], batch[chosen]
        self._seen[target] = True


def tighten(values: Quantities) -> Quantities:
    """int64 when every value fits, else as they are."""
    if values.dtype == object and _largest(values) <= INT64_MAX:
        return values.astype(np.int64)
    return values


def divided(
    *, numerators: Quantities, digits: int, denominators: Sequence[int]
) -> tuple[Quantities, int]:
    """n ratios of numerator × 10^-digits over an integer: (mantissa, digits).

    They have nine digits, half away from zero. Denominators are above zero.
    """
    unit, scale = 10**RATIO_DIGITS, 10**digits
    found = [
        round_ratio(int(numerator) * unit, denominator * scale, rounding=Rounding.HALF_UP)
        if numerator
        else 0
        for numerator, denominator in zip(numerators.tolist(), denominators, strict=True)
    ]
    return tighten(np.array(found, dtype=object)), RATIO_DIGITS


def round_quantities(
    *, values: Quantities, digits: int, rounding: QuantityRounding
) -> tuple[Quantities, int]:
    """n quantities × 10^-digits as the meter rounds them: (mantissa, digits).

    By their distance from zero: `up` away from it, `down` towards it, `half_up` to the nearest,
    ties away from it.
    """
    lost = digits - rounding.digits
    if lost <= 0:
        return values, digits
    unit = 10**lost
    if values.dtype != object and _largest(values) + unit > INT64_MAX:
        values = values.astype(object)
    added = {"up": unit - 1, "down": 0, "half_up": unit // 2}[rounding.mode]
    size = (abs(values) + added) // unit
    whole = np.where(values < 0, -size, size)
    return scale_up(whole, power=max(0, -rounding.digits)), max(0, rounding.digits)
