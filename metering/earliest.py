"""Each customer's earliest event, of events that come by the page. Pure and vectorised."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_AT_ONCE: Final = 2_000_000
_SPARSE: Final = 8
"""So many times the room of the numbers is taken for an array over all of them."""
_DENSE: Final = 4_000_000
"""An array over so many numbers is kept however few of them are customers."""
_ROOM: Final = 2
"""So many numbers a customer, at most, if there are more."""
_NONE: Final = np.iinfo(np.int64).max
_EVER: Final = np.iinfo(np.int64).min
_Ints = NDArray[np.int64]


class Instants:
    """An instant in microseconds for each of n customers, the latest if one comes several times.

    Takes 8 to 16 bytes a customer, or up to 32 MB.
    """

    def __init__(self, *, customers: _Ints, micros: _Ints) -> None:
        """Numbers of customers and instants, side by side, in any order."""
        low, high = (int(customers.min()), int(customers.max())) if len(customers) else (1, 0)
        self._before = low - 1
        self._table = None
        if high - low < max(_DENSE, _ROOM * len(customers)):
            # With a place at either end for all the customers beyond.
            self._table = np.full(high - low + 3, _EVER, dtype=np.int64)
            np.maximum.at(self._table, customers - self._before, micros)
            return
        order = np.argsort(customers)
        numbers = customers[order]
        first = np.flatnonzero(np.append(True, numbers[1:] != numbers[:-1]))
        self._customers = numbers[first]
        self._micros = np.maximum.reduceat(micros[order], first)

    @property
    def is_dense(self) -> bool:
        """Whether a customer is looked up at once, not searched for."""
        return self._table is not None

    def earlier(self, *, customers: _Ints, times: _Ints) -> tuple[_Ints, _Ints]:
        """(customers, times) of the events that came before their own customer's instant.

        Of a customer without an instant there is none.
        """
        if self._table is not None:
            early = self._table.take(customers - self._before, mode="clip") > times
        else:
            place = np.searchsorted(self._customers, customers)
            place = np.minimum(place, len(self._customers) - 1)
            early = (self._customers[place] == customers) & (self._micros[place] > times)
        kept = np.flatnonzero(early)
        return customers[kept], times[kept]


class Earliest:
    """The earliest event of each customer so far: memory by customers, not by events."""

    def __init__(self) -> None:
        """None came yet."""
        self.added = 0
        self._parts: list[tuple[_Ints, _Ints]] = []
        self._waiting = 0
        self._until: Instants | None = None

    def add(self, *, customers: _Ints, times: _Ints) -> None:
        """Look at events more: customer numbers above zero, and microseconds."""
        self.added += len(customers)
        if self._until is not None and self._until.is_dense:
            customers, times = self._until.earlier(customers=customers, times=times)
        if not len(customers):
            return
        self._parts.append((customers, times))
        self._waiting += len(customers)
        if self._waiting >= _AT_ONCE:
            self._gather()

    def bound(self, until: Instants) -> None:
        """Leave out, from the first to the last, what is not before its customer's instant."""
        self._until = until
        self._gather()

    def found(self) -> tuple[_Ints, _Ints]:
        """(customers, times): each customer once, in order, with the earliest of its times."""
        self._gather()
        return self._parts[0]

    def _gather(self) -> None:
        # Who has an event before an instant has its earliest before it: searched once for each.
        customers, times = earliest_of(self._parts)
        if self._until is not None:
            customers, times = self._until.earlier(customers=customers, times=times)
        self._parts, self._waiting = [(customers, times)], 0


def earliest_of(parts: Sequence[tuple[_Ints, _Ints]]) -> tuple[_Ints, _Ints]:
    """(customers, times): each customer once, in order, with the earliest of its times.

    Numbers of customers are above zero.
    """
    filled = [part for part in parts if len(part[0])]
    if not filled:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    allowed = _SPARSE * sum(len(customers) for customers, _ in filled)
    high = max(int(customers.max()) for customers, _ in filled)
    before = 0
    if high >= allowed:
        before = min(int(customers.min()) for customers, _ in filled) - 1
    if high - before > allowed:
        return _searched(filled)
    earliest = np.full(high - before + 1, _NONE, dtype=np.int64)
    for customers, times in filled:
        np.minimum.at(earliest, customers - before if before else customers, times)
    found = np.flatnonzero(earliest != _NONE)
    return found + before, earliest[found]


def _searched(parts: Sequence[tuple[_Ints, _Ints]]) -> tuple[_Ints, _Ints]:
    """The same where the numbers lie too far apart for an array over all of them."""
    customers = np.concatenate([customer for customer, _ in parts])
    order = np.argsort(customers)
    customers = customers[order]
    first = np.flatnonzero(np.append(True, customers[1:] != customers[:-1]))
    times = np.concatenate([time for _, time in parts])[order]
    return customers[first], np.minimum.reduceat(times, first)


class Narrowing(msgspec.Struct, frozen=True, kw_only=True):
    """Until when usage counts for each customer, to be read once more than `events` were found."""

    events: int
    read: Callable[[], Awaitable[Instants]]
