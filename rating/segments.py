"""Compressed sparse rows of events or cells: segment i is elements[offsets[i]:offsets[i + 1]]."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rating.exact import LIMB, Integers, Pairs

BLOCK: Final = 32_768
ROOM: Final = 2**60  # three times this fits int64

Offsets = NDArray[np.int64]


def blocks(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Runs of whole segments of about BLOCK elements, which stay in the processor's cache."""
    count, begin = len(offsets) - 1, 0
    while begin < count:
        reach = int(np.searchsorted(offsets, offsets[begin] + BLOCK, side="right")) - 1
        end = min(max(reach, begin + 1), begin + BLOCK, count)
        yield begin, end
        begin = end


def segment_of(offsets: Offsets) -> NDArray[np.intp]:
    """The segment of each element."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def elements_of(offsets: Offsets, chosen: NDArray[np.intp]) -> tuple[NDArray[np.int64], Offsets]:
    """The elements of some segments, in order, and the offsets of these alone."""
    counts = np.diff(offsets)[chosen]
    own = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(counts, out=own[1:])
    return np.arange(own[-1]) + np.repeat(offsets[chosen] - own[:-1], counts), own


def segment_sums(values: NDArray[Any], offsets: Offsets) -> NDArray[Any]:
    """Sums of n segments in the type of `values`, which must hold them; an empty one is zero.

    The running sum may pass the bounds of int64 and wrap: differences of it come back exact.
    """
    running = np.empty(int(offsets[-1]) + 1, dtype=values.dtype)
    running[0] = 0
    np.cumsum(values[: offsets[-1]], out=running[1:])
    ends = running.take(offsets)
    return ends[1:] - ends[:-1]


def segment_all(flags: NDArray[np.bool_], offsets: Offsets) -> NDArray[np.bool_]:
    """Whether all elements of each segment are flagged; those of an empty one are."""
    return segment_sums((~flags).astype(np.int64), offsets) == 0


def segment_pair_sums(pairs: Pairs, offsets: Offsets) -> Pairs:
    """Sums of n segments; the sum of their high parts must fit int64."""
    upper = pairs.low // LIMB
    lower = segment_sums(pairs.low - upper * LIMB, offsets)
    carry = lower // LIMB
    upper = segment_sums(upper, offsets) + carry
    lower -= carry * LIMB
    carry = upper // LIMB
    upper -= carry * LIMB
    return Pairs(high=segment_sums(pairs.high, offsets) + carry, low=upper * LIMB + lower)


def largest(values: Integers) -> int:
    """The largest magnitude, 0 of nothing."""
    return max(int(values.max()), -int(values.min())) if values.size else 0


def highest(values: Integers) -> int:
    """The largest of values that are not negative, 0 of nothing."""
    return int(values.max()) if values.size else 0


def longest(offsets: Offsets) -> int:
    """The elements of the longest segment."""
    return int(np.diff(offsets).max()) if len(offsets) > 1 else 0


def exact_sums(values: Integers, offsets: Offsets) -> Integers:
    """Sums of n segments, as Python ints where int64 might be too small."""
    if values.dtype != np.object_ and largest(values) * longest(offsets) >= ROOM:
        values = values.astype(object)
    return segment_sums(values, offsets)
