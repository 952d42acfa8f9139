"""Quantities out of columns: which line an event belongs to, and exact running aggregates.

Pure and vectorised. Everything stays in int64 while bounds prove that it fits, and moves to Python
ints (dtype object) when they no longer do: never a silent overflow.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.columns import Quantities
from plans.model import Aggregation

_INT64_MAX: Final = 2**63 - 1
_DENSE_MINIMUM: Final = 4_000_000
_HALF: Final = 32
_Ints = NDArray[np.int64]


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """m events of one meter with a common number of fractional digits.

    `quantity` is None for a counting meter; `batch` and the order of the events break the ties of
    `latest`. `combination` numbers the values of each event's dimensions, and
    `received_micros` tells when it came, where they are asked for.
    """

    customer: _Ints
    time_micros: _Ints
    batch: _Ints
    quantity: Quantities | None
    digits: int
    combination: _Ints | None = None
    received_micros: _Ints | None = None


class _Layer:
    """Windows that do not overlap within a customer, sorted by customer and start."""

    def __init__(self, *, line: _Ints, customer: _Ints, start: _Ints, end: _Ints) -> None:
        self._line, self._start, self._end = line, start, end
        self._customers, self._first, count = np.unique(
            customer, return_index=True, return_counts=True
        )
        self._stop = self._first + count
        self._steps = [1 << bit for bit in range(int(count.max()).bit_length() - 1, -1, -1)]
        low, high = int(self._customers[0]), int(self._customers[-1])
        self._low, self._span = low, high - low + 1
        self._rank = None
        if self._span <= max(_DENSE_MINIMUM, 16 * len(self._customers)):
            self._rank = np.full(self._span, -1, dtype=np.int32)
            self._rank[self._customers - low] = np.arange(len(self._customers), dtype=np.int32)

    def _ranks(self, customer: _Ints) -> tuple[_Ints, _Ints]:
        """(positions, ranks) of the events whose customer has a window here."""
        offset = customer - self._low
        if self._rank is not None:
            inside = np.flatnonzero((offset >= 0) & (offset < self._span))
            ranks = self._rank[offset[inside]]
            kept = ranks >= 0
            return inside[kept], ranks[kept].astype(np.int64)
        found = np.minimum(np.searchsorted(self._customers, customer), len(self._customers) - 1)
        positions = np.flatnonzero(self._customers[found] == customer)
        return positions, found[positions]

    def find(self, *, customer: _Ints, time_micros: _Ints) -> tuple[_Ints, _Ints]:
        """(lines, positions) of the events that fall into a window."""
        positions, ranks = self._ranks(customer)
        at = time_micros[positions]
        place = self._first[ranks]
        if len(self._steps) > 1:
            stop = self._stop[ranks]
            for step in self._steps:
                ahead = place + step
                safe = np.minimum(ahead, len(self._start) - 1)
                place = np.where((ahead < stop) & (self._start[safe] <= at), ahead, place)
        hit = (self._start[place] <= at) & (at < self._end[place])
        return self._line[place[hit]], positions[hit]


def _layer_numbers(customer: _Ints, start: _Ints, end: _Ints) -> _Ints:
    """A layer for each window (sorted by customer, start) so that no layer overlaps itself."""
    layer = np.zeros(len(customer), dtype=np.int64)
    same = customer[1:] == customer[:-1]
    if not bool(np.any(same & (start[1:] < end[:-1]))):
        return layer
    ends: list[int] = []
    current: int | None = None
    for index, (who, opens, closes) in enumerate(
        zip(customer.tolist(), start.tolist(), end.tolist(), strict=True)
    ):
        if who != current:
            current, ends = who, []
        chosen = next((number for number, last in enumerate(ends) if last <= opens), len(ends))
        if chosen == len(ends):
            ends.append(closes)
        else:
            ends[chosen] = closes
        layer[index] = chosen
    return layer


class WindowIndex:
    """The windows of one meter, found by customer and time. Windows may overlap."""

    def __init__(self, *, customer: _Ints, start_micros: _Ints, end_micros: _Ints) -> None:
        """Line i is (customer[i], [start_micros[i], end_micros[i])); empty ones match nothing."""
        real = np.flatnonzero(start_micros < end_micros)
        order = real[np.lexsort((end_micros[real], start_micros[real], customer[real]))]
        who, opens, closes = customer[order], start_micros[order], end_micros[order]
        number = _layer_numbers(who, opens, closes)
        self._layers = [
            _Layer(line=order[mine], customer=who[mine], start=opens[mine], end=closes[mine])
            for each in range(int(number.max(initial=-1)) + 1)
            for mine in [np.flatnonzero(number == each)]
        ]

    def find(self, *, customer: _Ints, time_micros: _Ints) -> Iterator[tuple[_Ints, _Ints]]:
        """(lines, positions of events) once per layer of windows."""
        for layer in self._layers:
            lines, positions = layer.find(customer=customer, time_micros=time_micros)
            if len(lines):
                yield lines, positions


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
    if values.dtype == np.int64 and _largest(values) * factor <= _INT64_MAX:
        return values * np.int64(factor)
    return values.astype(object) * factor


def concatenated(parts: Sequence[Quantities]) -> Quantities:
    """One column after the other: Python ints when one of them holds such, else int64."""
    if any(part.dtype == object for part in parts):
        return np.concatenate([part.astype(object) for part in parts])
    return np.concatenate([np.empty(0, dtype=np.int64), *[part.astype(np.int64) for part in parts]])


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
        quantity = self._align(block.quantity[position], block.digits)
        match self._aggregation:
            case Aggregation.SUM:
                self._add_sum(line, quantity)
            case Aggregation.MAX:
                self._add_extreme(line, quantity, largest=True)
            case Aggregation.MIN:
                self._add_extreme(line, quantity, largest=False)
            case Aggregation.LATEST:
                self._add_latest(line, quantity, block.time_micros[position], block.batch[position])

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
            if grown > _INT64_MAX:
                busiest = int(np.bincount(line).max(initial=0))
                grown = _largest(self.mantissa) + largest * busiest
            if grown > _INT64_MAX:
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
    if values.dtype == object and _largest(values) <= _INT64_MAX:
        return values.astype(np.int64)
    return values
