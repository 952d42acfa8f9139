"""What is sold and to whom: meters, prices, plans, customers, subscriptions, price intervals.

Each struct is the domain value, the JSON and the row. Bodies that a caller sends end in `Draft`;
what the store returns has the id and the facts added by us.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from engine.money import CurrencyCode, Rounding, UnsignedText
from engine.period import Alignment, IntervalUnit

Key = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]{0,127}\Z")]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
ShortText = Annotated[str, msgspec.Meta(max_length=500)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1, le=366)]
DaysText = Annotated[int, msgspec.Meta(ge=0, le=3650)]


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body: unknown fields are an error."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A stored object as it is answered."""


class Mode(StrEnum):
    """Whether a seller's money is real; a test seller has its own movable clock."""

    LIVE = "live"
    TEST = "test"


class Proration(StrEnum):
    """How a part of a period is measured."""

    SECOND = "second"
    DAY = "day"
    THIRTY_360 = "thirty_360"
    NONE = "none"


class LastDay(StrEnum):
    """Whether the final date of a cancellation is counted when days are prorated."""

    EXCLUDE = "exclude"
    INCLUDE = "include"


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


class Address(Body, frozen=True, kw_only=True):
    """A postal address."""

    line1: ShortText | None = None
    line2: ShortText | None = None
    city: ShortText | None = None
    region: ShortText | None = None
    postal_code: ShortText | None = None
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")] | None = None


class TaxId(Body, frozen=True, kw_only=True):
    """A tax identity, printed on documents."""

    type: ShortText
    value: ShortText


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """What a document prints of a seller or a customer."""

    name: str
    address: Address | None = None
    country: str | None = None
    tax_ids: tuple[TaxId, ...] = ()
    emails: tuple[str, ...] = ()


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


class Aggregation(StrEnum):
    """How a meter turns events into a quantity."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LATEST = "latest"


class MeterDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/meters`. `value` names the property of `data` that is measured."""

    key: Key
    event_type: ShortText
    aggregation: Aggregation
    name: Name | None = None
    value: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z")] | None = None


class MeterAnswer(Record, frozen=True, kw_only=True):
    """A published meter as it is answered."""

    id: str
    key: str
    name: str | None
    event_type: str
    aggregation: Aggregation
    value: str | None
    created_at: datetime


class Meter(MeterAnswer, frozen=True, kw_only=True):
    """A published meter; `number`, never answered, is its short name inside the event store."""

    number: int


class PlanDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/plans`; a new version has the same body."""

    key: Key
    name: Name | None = None
    currency: CurrencyCode
    interval: Interval
    alignment: Alignment = Alignment.ANNIVERSARY
    prices: tuple[Price, ...]


class Plan(Record, frozen=True, kw_only=True):
    """One published version of a plan; it never changes."""

    id: str
    key: str
    version: int
    name: str | None
    currency: str
    interval: Interval
    alignment: Alignment
    prices: tuple[Price, ...]
    created_at: datetime


class CustomerDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/customers`."""

    key: Key
    name: Name
    emails: tuple[ShortText, ...] = ()
    currency: CurrencyCode | None = None
    timezone: ShortText | None = None
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")] | None = None
    address: Address | None = None
    tax_ids: tuple[TaxId, ...] = ()
    net_terms_days: DaysText | None = None
    po_number: ShortText | None = None


class CustomerAnswer(Record, frozen=True, kw_only=True):
    """Who is billed, as it is answered."""

    id: str
    key: str
    name: str
    emails: tuple[str, ...]
    currency: str | None
    timezone: str | None
    country: str | None
    address: Address | None
    tax_ids: tuple[TaxId, ...]
    net_terms_days: int | None
    po_number: str | None
    balance: str
    created_at: datetime


class Customer(CustomerAnswer, frozen=True, kw_only=True):
    """Who is billed; `number`, never answered, is its short name inside the event store."""

    number: int


class Seller(Record, frozen=True, kw_only=True):
    """The business that bills, with the choices that its billing rules leave open."""

    id: str
    legal_name: str
    mode: Mode
    country: str | None
    currency: str
    timezone: str
    address: Address | None
    tax_ids: tuple[TaxId, ...]
    series: str
    rounding: Rounding
    proration: Proration
    last_day: LastDay
    net_terms_days: int
    created_at: datetime
    clock_at: datetime | None


class SellerPatch(Body, frozen=True, kw_only=True):
    """`PATCH /v1/seller`: only what is named changes."""

    legal_name: Name | msgspec.UnsetType = msgspec.UNSET
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")] | None | msgspec.UnsetType = (
        msgspec.UNSET
    )
    currency: CurrencyCode | msgspec.UnsetType = msgspec.UNSET
    timezone: ShortText | msgspec.UnsetType = msgspec.UNSET
    address: Address | None | msgspec.UnsetType = msgspec.UNSET
    tax_ids: tuple[TaxId, ...] | msgspec.UnsetType = msgspec.UNSET
    series: Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9-]{0,20}\Z")] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    rounding: Rounding | msgspec.UnsetType = msgspec.UNSET
    proration: Proration | msgspec.UnsetType = msgspec.UNSET
    last_day: LastDay | msgspec.UnsetType = msgspec.UNSET
    net_terms_days: DaysText | msgspec.UnsetType = msgspec.UNSET
