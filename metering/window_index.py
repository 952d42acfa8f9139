"""Which line an event belongs to: windows of customers, found by customer and time. Pure."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DENSE_MINIMUM: Final = 4_000_000
_Ints = NDArray[np.int64]


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
