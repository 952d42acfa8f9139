"""Sums of usage that will be asked for later, kept while what they were read from holds. Pure."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from metering.aggregation import tighten
from metering.model import Windows
from metering.values import INT64_MAX, Quantities
from plans.model import Aggregation, LateUsage, Meter

MOST_SUMS: Final = 8_000_000
"""Of all meters: eight bytes each."""
_KEPT: Final = frozenset(
    {
        Aggregation.COUNT,
        Aggregation.SUM,
        Aggregation.MAX,
        Aggregation.MIN,
        Aggregation.LATEST,
    }
)
_Ints = NDArray[np.int64]
_NONE: Final = np.empty(0, dtype=np.int64)


def room_for(*, meters: int) -> int:
    """Of how many customers the sums of so many meters may be kept."""
    return MOST_SUMS // max(meters, 1)


def may_keep(meter: Meter) -> bool:
    """Whether customer, start and end decide a quantity, and one number of each line measures it.

    A level also asks since when, and who ignores late usage when it closes.
    """
    return meter.aggregation in _KEPT and meter.late_usage is LateUsage.ADJUST


class KeptUsage:
    """What is expected to be asked for, and of each meter that was read since the sums of it.

    One customer is expected once. What was not, or otherwise, is simply not found.
    """

    def __init__(self) -> None:
        """Nothing is expected."""
        self.forget()

    def forget(self) -> None:
        """Neither expect nor know anything."""
        self.customer = self.start_micros = self.end_micros = _NONE
        self._sums: dict[int, tuple[_Ints, int, NDArray[np.bool_] | None]] = {}

    def expect(self, *, customer: _Ints, start_micros: _Ints, end_micros: _Ints) -> None:
        """Expect n windows in place of those before, whose sums are forgotten.

        Of several of one customer the first that is not empty.
        """
        real = np.flatnonzero(start_micros < end_micros)
        order = real[np.argsort(customer[real], kind="stable")]
        sorted_customer = customer[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = sorted_customer[1:] != sorted_customer[:-1]
        order = order[first]
        self.customer = customer[order]
        self.start_micros, self.end_micros = start_micros[order], end_micros[order]
        self._sums = {}

    def foresaw(self, *, customer: _Ints, end_micros: _Ints) -> NDArray[np.bool_]:
        """Whether something of each customer was expected that ends then."""
        near, found = self._near(customer)
        return found & (self.end_micros[near] == end_micros) if len(self.customer) else found

    def places(self, *, windows: Windows, lines: _Ints) -> _Ints:
        """Where among the expected each line is; -1 where it is not."""
        near, found = self._near(windows.customer[lines])
        if not len(self.customer):
            return near
        found &= self.start_micros[near] == windows.start_micros[lines]
        found &= self.end_micros[near] == windows.end_micros[lines]
        return np.where(found, near, -1)

    def _near(self, customer: _Ints) -> tuple[_Ints, NDArray[np.bool_]]:
        """The place where each customer would be, and whether he is there."""
        if not len(self.customer):
            none = np.full(len(customer), -1, dtype=np.int64)
            return none, np.zeros(len(customer), dtype=np.bool_)
        near = np.minimum(np.searchsorted(self.customer, customer), len(self.customer) - 1)
        return near, self.customer[near] == customer

    def is_known(self, meter: int) -> bool:
        """Whether the meter (number) was read since these were expected."""
        return meter in self._sums

    def has_room(self) -> bool:
        """Whether one more meter's sums may be kept."""
        return len(self.customer) <= room_for(meters=len(self._sums) + 1)

    def keep(self, *, meter: int, mantissa: Quantities, digits: int) -> None:
        """The quantities of all that is expected; those beyond 64 bits are left out."""
        values, fits = tighten(mantissa), None
        if values.dtype == object:
            fits = np.abs(values) <= INT64_MAX
            values = np.where(fits, values, 0)
        self._sums[meter] = (values.astype(np.int64), digits, fits)

    def find(self, *, meter: int, places: _Ints) -> tuple[NDArray[np.bool_], Quantities, int]:
        """(which of the places are known, the quantities of those, their digits)."""
        values, digits, fits = self._sums[meter]
        known = places >= 0
        if fits is not None:
            known &= fits[places]
        return known, *shortened(values[places[known]], digits=digits)


def shortened(values: Quantities, *, digits: int) -> tuple[Quantities, int]:
    """The same quantities with no more digits than one of them needs.

    Others that were read with them may have had more, and that leaves less room in 64 bits.
    """
    values = tighten(values)
    while digits and values.dtype != object and not bool(np.any(values % 10)):
        values, digits = values // 10, digits - 1
    return values, digits
