"""What meters measure, the obvious way: loops over single events in fractions, slow and exact."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

from plans.model import Aggregation, Meter

NANO = 10**9


def half_away(value: Fraction, *, digits: int) -> Fraction:
    """To so many fractional digits, ties away from zero."""
    unit = Fraction(1, 1) / Fraction(10) ** digits
    size = math.floor(abs(value) / unit + Fraction(1, 2)) * unit
    return size if value >= 0 else -size


def rounded(value: Fraction, *, mode: str, digits: int) -> Fraction:
    """As a meter rounds a quantity: by its distance from zero."""
    if mode == "half_up":
        return half_away(value, digits=digits)
    unit = Fraction(1, 1) / Fraction(10) ** digits
    size = (math.ceil if mode == "up" else math.floor)(abs(value) / unit) * unit
    return size if value >= 0 else -size


def level_time(changes: Sequence[tuple[int, Fraction]], *, start: int, end: int) -> Fraction:
    """Level × time over [start, end), instant by instant at which the level changes."""
    edges = sorted({start, end, *(at for at, _ in changes if start < at < end)})
    total = Fraction(0)
    for opens, closes in itertools.pairwise(edges):
        level = sum((value for at, value in changes if at <= opens), Fraction(0))
        total += level * (closes - opens)
    return total


def quantity(
    meter: Meter,
    events: Sequence[tuple[int, int, Fraction, str]],
    *,
    start: int,
    end: int,
    since: int | None = None,
    whole: int | None = None,
) -> Fraction:
    """What the meter gives for (time, place, value, text) events over [start, end)."""
    mine = sorted(each for each in events if start <= each[0] < end)
    values = [each[2] for each in mine]
    match meter.aggregation:
        case Aggregation.COUNT:
            found = Fraction(len(mine))
        case Aggregation.SUM:
            found = sum(values, Fraction(0))
        case Aggregation.MAX:
            found = max(values, default=Fraction(0))
        case Aggregation.MIN:
            found = min(values, default=Fraction(0))
        case Aggregation.LATEST:
            found = values[-1] if values else Fraction(0)
        case Aggregation.UNIQUE_COUNT:
            found = Fraction(len({each[3] for each in mine}))
        case Aggregation.AVERAGE:
            average = sum(values, Fraction(0)) / max(len(values), 1)
            found = half_away(average, digits=9)
        case Aggregation.PERCENTILE:
            rank = math.ceil(Fraction(meter.percentile or "0") / 100 * len(values))
            found = sorted(values)[rank - 1] if values else Fraction(0)
        case Aggregation.WEIGHTED_SUM:
            first = start if since is None else since
            changes = [(at, value) for at, _, value, _ in events if meter.carry_over or at >= first]
            found = level_time(changes, start=start, end=end) if start < end else Fraction(0)
            found = half_away(found / (whole or max(end - start, 1)), digits=9)
    if meter.rounding is not None:
        found = rounded(found, mode=meter.rounding.mode, digits=meter.rounding.digits)
    return found
