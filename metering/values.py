"""What counts as a number in an event's data: plain decimals, exactly. Pure."""

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.money import DECIMAL_PATTERN

LIMIT: Final = 10**18
VALUE_DIGITS: Final = 12
INT64_MAX: Final = 2**63 - 1
_PLAIN: Final = re.compile(DECIMAL_PATTERN, re.ASCII)

Quantities = NDArray[np.int64] | NDArray[np.object_]


def parse_value(value: object) -> tuple[int, int] | None:
    """A measured property as (mantissa, fractional digits); None when it is no plain decimal.

    Numbers arrive as int, or as the text of what was no integer; decimal strings count too.
    """
    if type(value) is int:
        return (value, 0) if -LIMIT < value < LIMIT else None
    if type(value) is str and _PLAIN.match(value) is not None:
        whole, _, fraction = value.partition(".")
        fraction = fraction.rstrip("0")
        return int(whole + fraction), len(fraction)
    return None


def plain_integers(values: Sequence[object]) -> NDArray[np.int64] | None:
    """The fast lane: all are integers within bounds."""
    if set(map(type, values)) != {int}:
        return None
    try:
        column = np.array(values, dtype=np.int64)
    except OverflowError:
        return None
    if int(column.max()) >= LIMIT or int(column.min()) <= -LIMIT:
        return None
    return column
