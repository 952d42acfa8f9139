"""Prices: how a quantity, or events with a value, become an amount. One struct for each model."""

from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from engine.money import UnsignedText
from engine.period import IntervalUnit
from plans.shape import Body, Key, Name, PositiveCount


class Bill(StrEnum):
    """When a charge falls due: at its period's start or end."""

    IN_ADVANCE = "in_advance"
    IN_ARREARS = "in_arrears"


class Kind(StrEnum):
    """Recurring prices rate a quantity of seats, usage prices what a meter measured.

    A one-time price is charged once and never prorated.
    """

    RECURRING = "recurring"
    USAGE = "usage"
    ONE_TIME = "one_time"


class Interval(Body, frozen=True, kw_only=True):
    """A billing interval: `count` units."""

    unit: IntervalUnit
    count: PositiveCount = 1


class QuantityRounding(Body, frozen=True, kw_only=True):
    """Rounding of a quantity before it is rated; `digits` may be negative."""

    mode: Literal["up", "down", "half_up"]
    digits: Annotated[int, msgspec.Meta(ge=-15, le=9)] = 0


class Tier(Body, frozen=True, kw_only=True):
    """One step of a price list; `up_to` is inclusive, the last one is open."""

    up_to: UnsignedText | None = None
    unit_amount: UnsignedText | None = None
    flat_amount: UnsignedText | None = None


class PriceBase(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="model"
):
    """What every price has, whatever its model."""

    key: Key
    kind: Kind
    name: Name | None = None
    meter: Key | None = None
    bill: Bill | None = None
    interval: Interval | None = None
    quantity: UnsignedText | None = None
    prorate: bool = True
    prorate_tiers: bool = False
    included_quantity: UnsignedText | None = None
    quantity_rounding: QuantityRounding | None = None
    minimum_amount: UnsignedText | None = None
    maximum_amount: UnsignedText | None = None


class FlatPrice(PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="flat"):
    """One amount a period, whatever the quantity."""

    flat_amount: UnsignedText


class PerUnitPrice(
    PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="per_unit"
):
    """An amount for each unit."""

    unit_amount: UnsignedText


class PackagePrice(PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="package"):
    """An amount for each package, begun (`up`) or full (`down`)."""

    unit_amount: UnsignedText
    package_size: UnsignedText
    package_rounding: Literal["up", "down"] = "up"


class GraduatedPrice(
    PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="graduated"
):
    """Each tier's units at its own price, plus the flat amount of every tier reached."""

    tiers: tuple[Tier, ...]
    flat_at_zero: bool = True


class VolumePrice(PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="volume"):
    """All units at the price of the tier that holds the quantity, plus its flat amount."""

    tiers: tuple[Tier, ...]
    flat_at_zero: bool = True


Price = FlatPrice | PerUnitPrice | PackagePrice | GraduatedPrice | VolumePrice

DEFAULT_BILL: Final = {
    Kind.RECURRING: Bill.IN_ADVANCE,
    Kind.USAGE: Bill.IN_ARREARS,
    Kind.ONE_TIME: Bill.IN_ADVANCE,
}


def bill_of(price: Price) -> Bill:
    """When the price falls due: as stated, else recurring in advance and usage in arrears."""
    return price.bill or DEFAULT_BILL[price.kind]
