"""Which line an event belongs to: windows of customers, found by customer and time. Pure."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

_DENSE_MINIMUM: Final = 4_000_000
_CLOSE: Final = 2
"""So many numbers a customer, at most, lie side by side."""
_Ints = NDArray[np.int64]


class _Side:
    """Windows of customers whose numbers lie close together, one each: looked up by the number.

    With a place at either end for all the customers beyond, into whose windows nothing falls.
    """

    def __init__(self, line: _Ints, who: _Ints, start: _Ints, end: _Ints) -> None:
        """Some lines and whose they are, in the order of customers; instants are of all lines."""
        self._before = int(who[0]) - 1
        size = int(who[-1]) - self._before + 2
        place = who - self._before
        self._start = np.full(size, np.iinfo(np.int64).max)
        self._start[place] = start[line]
        self._end = np.full(size, np.iinfo(np.int64).min)
        self._end[place] = end[line]
        self._line = np.zeros(size, dtype=np.int64)
        self._line[place] = line

    def find(self, *, customer: _Ints, time_micros: _Ints) -> tuple[_Ints, _Ints]:
        """(lines, positions) of the events that fall into a window."""
        place = customer - self._before
        begun = self._start.take(place, mode="clip") <= time_micros
        positions = np.flatnonzero(begun & (time_micros < self._end.take(place, mode="clip")))
        return self._line.take(place.take(positions)), positions


class _Layer:
    """Windows that do not overlap within a customer, sorted by customer and start.

    After the last comes one into which nothing falls: that of the customers who have none.
    """

    def __init__(self, line: _Ints, who: _Ints, start: _Ints, end: _Ints) -> None:
        """Some lines and whose they are, in that order; instants are of all lines."""
        self._line = line
        self._start = np.append(start[line], np.iinfo(np.int64).max)
        self._end = np.append(end[line], np.iinfo(np.int64).min)
        fresh = np.ones(len(line), dtype=np.bool_)
        fresh[1:] = who[1:] != who[:-1]
        first = np.flatnonzero(fresh)
        count = np.diff(np.append(first, len(line)))
        most = int(count.max())
        self._steps = [1 << bit for bit in range(most.bit_length() - 1, -1, -1)]
        self._stop = np.append(np.repeat(first + count, count), 0) if most > 1 else None
        low, high = int(who[0]), int(who[-1])
        self._before = low - 1
        self._table = None
        if high - low < max(_DENSE_MINIMUM, 16 * len(first)):
            # With a place at either end for all the customers beyond.
            self._table = np.full(high - low + 3, len(line), dtype=np.intp)
            self._table[who[first] - self._before] = first
        else:
            self._customers, self._first = who[first], first

    def _places(self, customer: _Ints) -> NDArray[np.intp]:
        """The first window of each event's customer."""
        if self._table is not None:
            return self._table.take(customer - self._before, mode="clip")
        found = np.minimum(np.searchsorted(self._customers, customer), len(self._customers) - 1)
        return np.where(self._customers[found] == customer, self._first[found], len(self._line))

    def find(self, *, customer: _Ints, time_micros: _Ints) -> tuple[_Ints, _Ints]:
        """(lines, positions) of the events that fall into a window."""
        place = self._places(customer)
        if self._stop is None:
            positions = self._hit(place, time_micros)
            return self._line[place[positions]], positions
        known = np.flatnonzero(place < len(self._line))
        place, at = place[known], time_micros[known]
        stop = self._stop[place]
        for step in self._steps:
            ahead = place + step
            safe = np.minimum(ahead, len(self._line))
            place = np.where((ahead < stop) & (self._start[safe] <= at), ahead, place)
        positions = self._hit(place, at)
        return self._line[place[positions]], known[positions]

    def _hit(self, place: NDArray[np.intp], at: _Ints) -> NDArray[np.intp]:
        """Which of the instants lie in the windows beside them."""
        return np.flatnonzero((self._start.take(place) <= at) & (at < self._end.take(place)))


def _layer_numbers(customer: _Ints, start: _Ints, end: _Ints) -> _Ints:
    """A layer for each window (sorted by customer, start) so that no layer overlaps itself."""
    layer = np.zeros(len(customer), dtype=np.int64)
    same = customer[1:] == customer[:-1]
    overlap = same & (start[1:] < end[:-1])
    if not bool(np.any(overlap)):
        return layer
    ends: list[int] = []
    current: int | None = None
    # All windows of the customers of whom some overlap; of many that is seldom anybody.
    crowded = np.flatnonzero(np.isin(customer, customer[1:][overlap]))
    for index, who, opens, closes in zip(
        crowded.tolist(),
        customer[crowded].tolist(),
        start[crowded].tolist(),
        end[crowded].tolist(),
        strict=True,
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


def _come_once(customer: _Ints) -> bool:
    """Whether each of these (sorted) comes once."""
    return bool(np.all(customer[1:] != customer[:-1]))


def _layer_of(lines: _Ints, who: _Ints, start: _Ints, end: _Ints) -> _Layer | _Side:
    near = int(who[-1]) - int(who[0]) < _CLOSE * len(who)
    return (_Side if near and _come_once(who) else _Layer)(lines, who, start, end)


def _layers_of(lines: _Ints, who: _Ints, start: _Ints, end: _Ints) -> Iterator[_Layer | _Side]:
    """The layers of some lines and whose they are, in the order of customers.

    Of many lines each is mostly another customer's, and then little is copied.
    """
    if _come_once(who):
        yield _layer_of(lines, who, start, end)
        return
    order = np.lexsort((end[lines], start[lines], who))
    lines, who = lines[order], who[order]
    number = _layer_numbers(who, start[lines], end[lines])
    for each in range(int(number.max()) + 1):
        mine = np.flatnonzero(number == each)
        yield _layer_of(lines[mine], who[mine], start, end)


class WindowIndex:
    """The windows of one meter, found by customer and time. Windows may overlap."""

    def __init__(self, *, customer: _Ints, start_micros: _Ints, end_micros: _Ints) -> None:
        """Line i is (customer[i], [start_micros[i], end_micros[i])); empty ones match nothing."""
        lines = np.flatnonzero(start_micros < end_micros)
        lines = lines[np.argsort(customer[lines], kind="stable")]
        layers = _layers_of(lines, customer[lines], start_micros, end_micros)
        self._layers = list(layers) if len(lines) else []

    def find(self, *, customer: _Ints, time_micros: _Ints) -> Iterator[tuple[_Ints, _Ints]]:
        """(lines, positions of events) once per layer of windows."""
        for layer in self._layers:
            lines, positions = layer.find(customer=customer, time_micros=time_micros)
            if len(lines):
                yield lines, positions
