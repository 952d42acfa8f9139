"""The rating kernel: price rows and quantities in, minor units out."""

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding
from rating.tables import PriceTables


class Quantities(msgspec.Struct, frozen=True, kw_only=True):
    """n quantities, each `mantissa` × 10^-digits.

    `mantissa` is an int64 array, or an object array of Python ints where int64 is too small.
    """

    mantissa: NDArray[np.int64] | NDArray[np.object_]
    digits: int


def rate(
    *,
    tables: PriceTables,
    price: NDArray[np.int32],
    quantity: Quantities,
    fraction_numerator: NDArray[np.int64],
    fraction_denominator: NDArray[np.int64],
    rounding: Rounding,
) -> NDArray[np.int64]:
    """Minor units of n lines; `price` is the row in `tables` of each line.

    The fraction is the active part of the period; pass 1/1 for a whole period. It prorates the
    amount of a recurring price, and the bounds and allowance of a usage price with
    `prorate_tiers`; a one-time price, usage otherwise, and `prorate: false` ignore it.
    `amount_out_of_range` names the first line whose amount does not fit int64.
    """
    raise NotImplementedError
