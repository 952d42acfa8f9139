"""What happens to a quantity before it is priced and to an amount after: arrays of one scale.

Before: allowance, rounding to steps, packages. After: minimum and maximum.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rating.exact import FINEST_DIGITS, INT64_MAX, Integers, int_array
from rating.tables import UNBOUNDED, Row


class QuantityArrays(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n rows, quantities × 10^digits: q := max(q - included, 0), cut to `step`, then counted.

    Something is added before each cut so that it goes up, down or to the nearest. A row without
    steps or packages cuts to 1; `counted` is what one package stands for in the result.
    """

    touched: NDArray[np.bool_]
    any_touched: bool
    included: Integers
    has_steps: bool
    step: Integers
    step_add: Integers
    has_packages: bool
    package: Integers
    package_add: Integers
    counted: Integers


class LimitArrays(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """n rows: whole minor units in int64, or 10^-14 minor units as Python ints."""

    any_set: bool
    minimum: Integers
    maximum: Integers


def quantity_arrays(*, rows: Sequence[Row], digits: int, wide: bool) -> QuantityArrays:
    """The rows at 10^-digits; they must fit exactly, see `rating.lanes`."""
    steps = [at_digits(row.step, digits) or 1 for row in rows]
    packages = [at_digits(row.package, digits) or 1 for row in rows]
    touched = [row.included > 0 or row.step > 0 or row.package > 0 for row in rows]
    return QuantityArrays(
        touched=np.array(touched, dtype=np.bool_),
        any_touched=any(touched),
        included=int_array([at_digits(row.included, digits) for row in rows], wide=wide),
        has_steps=any(row.step for row in rows),
        step=int_array(steps, wide=wide),
        step_add=int_array(
            [_step_add(row.rounding_mode, step) for row, step in zip(rows, steps, strict=True)],
            wide=wide,
        ),
        has_packages=any(row.package for row in rows),
        package=int_array(packages, wide=wide),
        package_add=int_array(
            [size - 1 if row.package_up else 0 for row, size in zip(rows, packages, strict=True)],
            wide=wide,
        ),
        counted=int_array([10**digits if row.package else 1 for row in rows], wide=wide),
    )


def _step_add(mode: str, step: int) -> int:
    """What makes a cut to steps go up, to the nearest (steps are even, or 1) or down."""
    return {"up": step - 1, "half_up": step // 2}.get(mode, 0)


def limit_arrays(*, rows: Sequence[Row], wide: bool) -> LimitArrays:
    """Minimum and maximum of the rows; in int64 the absent maximum is the largest int64."""
    cut = 1 if wide else 10**FINEST_DIGITS
    largest = UNBOUNDED if wide else INT64_MAX
    return LimitArrays(
        any_set=any(row.minimum > 0 or row.maximum < UNBOUNDED for row in rows),
        minimum=int_array([row.minimum // cut for row in rows], wide=wide),
        maximum=int_array([min(row.maximum // cut, largest) for row in rows], wide=wide),
    )


def at_digits(value: int, digits: int) -> int:
    """A value in 10^-14 as 10^-digits, towards zero."""
    if digits >= FINEST_DIGITS:
        return value * 10 ** (digits - FINEST_DIGITS)
    return value // 10 ** (FINEST_DIGITS - digits)


def adjusted(
    *,
    arrays: QuantityArrays,
    price: NDArray[np.integer[Any]],
    quantity: Integers,
    limit: int | None,
) -> tuple[Integers, NDArray[np.bool_] | None]:
    """Quantities (n, not negative, below 10^18 in int64) as they are priced.

    Also which packages stayed below `limit`, None when all did; the others hold nonsense.
    """
    if not arrays.any_touched:
        return quantity, None
    touched = np.flatnonzero(arrays.touched[price])
    if touched.size == 0:
        return quantity, None
    everything = touched.size == quantity.size
    row = price if everything else price[touched]
    part = quantity if everything else quantity[touched]
    part = np.maximum(part - arrays.included[row], 0)
    if arrays.has_steps:
        step = arrays.step[row]
        part = (part + arrays.step_add[row]) // step * step
    inside = None
    if arrays.has_packages:
        part = (part + arrays.package_add[row]) // arrays.package[row]
        counted = arrays.counted[row]
        if limit is not None and int(part.max()) * int(counted.max()) >= limit:
            fits = part < limit // counted
            inside = np.ones(quantity.shape, dtype=np.bool_)
            inside[touched] = fits
            part = np.where(fits, part, 0)
        part = part * counted
    if everything:
        return part, inside
    result = quantity.copy()
    result[touched] = part
    return result, inside


def limited(*, arrays: LimitArrays, price: NDArray[np.integer[Any]], amount: Integers) -> Integers:
    """Amounts inside the minimum and maximum of their rows.

    Whole limits may be taken after rounding: rounding never carries an amount across an integer.
    """
    if not arrays.any_set:
        return amount
    return np.minimum(np.maximum(amount, arrays.minimum[price]), arrays.maximum[price])
