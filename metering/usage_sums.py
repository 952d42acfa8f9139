"""Sums over events by which two ways of reading them are compared, range by range of batches. Pure.

Each event that counts gives one number of 64 bits, mixed out of its customer, time, value and the
texts of its dimensions. The sums of these do not depend on the order; what is missing, twice or
otherwise changes them.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.dimensions import Combinations
from metering.values import Quantities

RANGES: Final = 65_536
_DIGITS: Final = 18
_WORD: Final = 1 << 64
_FACTORS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_MIX: Final = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_Ints = NDArray[np.int64]
_Words = NDArray[np.uint64]


class Texts(Combinations):
    """Tells each event's texts as a hash of them, instead of numbering what was met."""

    def __init__(self, *, kept: Sequence[str]) -> None:
        """`kept` are the dimensions that the meter keeps."""
        super().__init__(kept=kept, wanted=kept)

    def number(self, *, groups: bytes, codes: bytes, events: int) -> _Ints:
        """The hash of the texts of each of a batch's events."""
        if not groups:
            return np.zeros(events, dtype=np.int64)
        found = msgspec.json.decode(groups, type=list[tuple[str, ...]])
        hashes = [blake2b(msgspec.json.encode(each), digest_size=8).digest() for each in found]
        table = np.frombuffer(b"".join(hashes), dtype="<i8").astype(np.int64)
        return table[np.frombuffer(codes, dtype="<i4")]


class UsageSums:
    """What is summed of one meter, for each of at most RANGES ranges of batches."""

    def __init__(self, *, first: int, last: int) -> None:
        """Batches go from `first` to `last`, both included."""
        self.first = first
        self.width = (last - first) // RANGES + 1
        ranges = (last - first) // self.width + 1
        self.sums = np.zeros(ranges, dtype=np.uint64)
        self.events = np.zeros(ranges, dtype=np.int64)

    def add(
        self,
        *,
        batch: _Ints,
        customer: _Ints,
        time_micros: _Ints,
        quantity: Quantities | None,
        digits: int,
        texts: _Ints | None,
    ) -> None:
        """Count n events."""
        if not len(batch):
            return
        # What is measured of a batch that is none of the span makes the nearest range differ.
        place = np.clip((batch - self.first) // self.width, 0, len(self.events) - 1)
        mixed = customer.astype(np.uint64) * np.uint64(_FACTORS[0])
        mixed += time_micros.astype(np.uint64) * np.uint64(_FACTORS[1])
        if quantity is not None:
            mixed += _word(quantity, digits=digits) * np.uint64(_FACTORS[2])
        if texts is not None:
            mixed += texts.astype(np.uint64) * np.uint64(_FACTORS[3])
        np.add.at(self.sums, place, _mixed(mixed))
        self.events += np.bincount(place, minlength=len(self.events))

    def differences(self, other: "UsageSums") -> list[tuple[int, int, int, int]]:
        """(first batch, last batch, events here, events there) of each range that differs."""
        unlike = (self.sums != other.sums) | (self.events != other.events)
        return [
            (
                self.first + each * self.width,
                self.first + (each + 1) * self.width - 1,
                int(self.events[each]),
                int(other.events[each]),
            )
            for each in np.flatnonzero(unlike).tolist()
        ]


def _word(quantity: Quantities, *, digits: int) -> _Words:
    """Values of any number of digits at one, in the arithmetic of 64 bits."""
    assert digits <= _DIGITS, "no value has so many digits"
    factor = 10 ** (_DIGITS - digits)
    if quantity.dtype != object:
        return quantity.astype(np.int64).astype(np.uint64) * np.uint64(factor % _WORD)
    words = [int(each) * factor % _WORD for each in quantity.tolist()]
    return np.array(words, dtype=np.uint64)


def _mixed(words: _Words) -> _Words:
    """Every bit of each word depends on all of its bits."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(_MIX[0])
    words = (words ^ (words >> np.uint64(27))) * np.uint64(_MIX[1])
    return words ^ (words >> np.uint64(31))
