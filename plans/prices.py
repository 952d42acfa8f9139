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

    A one-time price is charged once and never prorated. `commitment` is what a plan's minimum is
    kept as, never a price that somebody states.
    """

    RECURRING = "recurring"
    USAGE = "usage"
    ONE_TIME = "one_time"
    COMMITMENT = "commitment"


class Interval(Body, frozen=True, kw_only=True):
    """A billing interval: `count` units."""

    unit: IntervalUnit
    count: PositiveCount = 1


class QuantityRounding(Body, frozen=True, kw_only=True):
    """Rounding of a quantity before it is rated; `digits` may be negative."""

    mode: Literal["up", "down", "half_up"]
    digits: Annotated[int, msgspec.Meta(ge=-15, le=9)] = 0


Dimension = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,99}\Z")]
EventCount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
RateText = UnsignedText
"""Per cent: "2.9" of 100 is 2.90."""


class Tier(Body, frozen=True, kw_only=True):
    """One step of a price list; `up_to` is inclusive, the last one is open."""

    up_to: UnsignedText | None = None
    unit_amount: UnsignedText | None = None
    flat_amount: UnsignedText | None = None


class FlatTier(Body, frozen=True, kw_only=True):
    """One stair: an amount for every quantity up to `up_to`; the last one is open."""

    up_to: UnsignedText | None = None
    flat_amount: UnsignedText | None = None


class RateTier(Body, frozen=True, kw_only=True):
    """One step of rates; `up_to` is an amount, inclusive, and the last one is open."""

    up_to: UnsignedText | None = None
    rate: RateText | None = None
    flat_amount: UnsignedText | None = None


class MatrixRow(Body, frozen=True, kw_only=True):
    """The price of a unit whose dimensions have these values, as exact text."""

    match: dict[Dimension, str]
    unit_amount: UnsignedText


class PriceBase(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="model"
):
    """What every price has, whatever its model.

    With `group_by` each group of usage is rated apart; `included_quantity` and tiers hold for each
    group, minimum and maximum for all of them together.
    """

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
    group_by: tuple[Dimension, ...] = ()


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


class StairstepPrice(
    PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="stairstep"
):
    """The flat amount of the tier that holds the quantity, and nothing else."""

    tiers: tuple[FlatTier, ...]
    flat_at_zero: bool = True


class PercentagePrice(
    PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="percentage"
):
    """A share of every event's value, the first ones free.

    An event is free while fewer than `free_events` came before it and the values up to and with
    it sum to at most `free_amount`. The event whose value goes beyond pays on what is beyond.
    """

    rate: RateText
    fixed_amount: UnsignedText | None = None
    free_events: EventCount | None = None
    free_amount: UnsignedText | None = None
    event_minimum: UnsignedText | None = None
    event_maximum: UnsignedText | None = None


class GraduatedPercentagePrice(
    PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="graduated_percentage"
):
    """A share of the summed value, tier by tier, plus the flat amount of every tier reached."""

    tiers: tuple[RateTier, ...]
    flat_at_zero: bool = True


class MatrixPrice(PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="matrix"):
    """The unit amount of the first row that matches the dimensions, else the price's own."""

    matrix: tuple[MatrixRow, ...]
    unit_amount: UnsignedText


class DynamicPrice(PriceBase, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="dynamic"):
    """What the events themselves say they cost, in major units."""


TieredPrice = GraduatedPrice | VolumePrice | StairstepPrice | GraduatedPercentagePrice

Price = (
    FlatPrice
    | PerUnitPrice
    | PackagePrice
    | GraduatedPrice
    | VolumePrice
    | StairstepPrice
    | PercentagePrice
    | GraduatedPercentagePrice
    | MatrixPrice
    | DynamicPrice
)

DEFAULT_BILL: Final = {
    Kind.RECURRING: Bill.IN_ADVANCE,
    Kind.USAGE: Bill.IN_ARREARS,
    Kind.ONE_TIME: Bill.IN_ADVANCE,
    Kind.COMMITMENT: Bill.IN_ARREARS,
}
COMMITMENT_KEY: Final = "minimum_commitment"
"""The price key of the lines that a minimum commitment adds; no other price has it."""


def bill_of(price: Price) -> Bill:
    """When the price falls due: as stated, else recurring in advance and usage in arrears."""
    return price.bill or DEFAULT_BILL[price.kind]


def recurs(price: Price) -> bool:
    """Whether the price is agreed for each period: it begins after a trial and is prorated."""
    return price.kind in {Kind.RECURRING, Kind.COMMITMENT}


def commitment_price(minimum: str) -> FlatPrice:
    """A plan's minimum as a price of its own, which runs, pauses and ends as recurring ones do."""
    return FlatPrice(
        key=COMMITMENT_KEY,
        kind=Kind.COMMITMENT,
        name="Minimum commitment",
        bill=Bill.IN_ARREARS,
        flat_amount=minimum,
    )
