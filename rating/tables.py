"""Price lists as arrays."""

from collections.abc import Sequence

import msgspec

from plans.model import Price


class PriceTables(msgspec.Struct, frozen=True):
    """n price rows in compressed sparse rows of tiers."""

    count: int


def compile_prices(*, prices: Sequence[Price], currencies: Sequence[str]) -> PriceTables:
    """Rows in the order of `prices`; amounts in minor units of the currency beside each."""
    raise NotImplementedError
