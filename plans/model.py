"""What is sold and to whom: meters, plans, customers, sellers. Prices are in `plans.prices`.

Each struct is the domain value, the JSON and the row. Bodies that a caller sends end in `Draft`;
what the store returns has the id and the facts added by us.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

import msgspec

from engine.money import CurrencyCode, Rounding, UnsignedText
from engine.period import Alignment
from plans.letterhead import Branding, LanguageTag, PaymentTerms
from plans.mailing import Mailing
from plans.prices import Dimension, Interval, Price, QuantityRounding, commitment_price
from plans.shape import Body, DaysText, Key, Name, Record, ShortText
from plans.tax_providers import TaxProviderTerms


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


class TaxRounding(StrEnum):
    """Whether tax is rounded on each line, or once on the whole document and then split."""

    LINE = "line"
    INVOICE = "invoice"


class TaxExempt(StrEnum):
    """Why a customer pays no tax, if it does not."""

    NONE = "none"
    EXEMPT = "exempt"
    REVERSE = "reverse"


GraceHours = Annotated[int, msgspec.Meta(ge=0, le=744)]


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
    locale: str | None = None
    branding: Branding | None = None
    payment_details: PaymentTerms | None = None


class Aggregation(StrEnum):
    """How a meter turns events into a quantity."""

    COUNT = "count"
    SUM = "sum"
    MAX = "max"
    MIN = "min"
    LATEST = "latest"
    UNIQUE_COUNT = "unique_count"
    AVERAGE = "average"
    PERCENTILE = "percentile"
    WEIGHTED_SUM = "weighted_sum"


Percent = Annotated[int, msgspec.Meta(ge=1, le=100)] | UnsignedText
FilterText = Annotated[str, msgspec.Meta(max_length=500)]


class MeterFilter(Body, frozen=True, kw_only=True, rename={"one_of": "in"}):
    """Lets an event pass whose `property`, read as text, is one of these, case included.

    Numbers read as they are written in JSON, booleans as `true` and `false`, and a property that
    is missing as the empty text.
    """

    property: Dimension
    one_of: Annotated[tuple[FilterText, ...], msgspec.Meta(min_length=1, max_length=1000)]


class LateUsage(StrEnum):
    """What becomes of usage that comes after its billing period was closed."""

    ADJUST = "adjust"
    IGNORE = "ignore"


class MeterDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/meters`. `value` is the property of `data` that is measured, or an expression.

    `unique_by` names the property whose texts a `unique_count` counts, `percentile` is the per
    cent of a percentile, and with `carry_over` the level of a `weighted_sum` lives on. Events
    pass that pass every filter. `group_by` names the properties by whose values usage is kept
    apart. `rounding` is of the quantity. `late_usage` says whether usage for a closed period
    adjusts it or is ignored.
    """

    key: Key
    event_type: ShortText
    aggregation: Aggregation
    name: Name | None = None
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    unique_by: Dimension | None = None
    percentile: Percent | None = None
    carry_over: bool = False
    filters: Annotated[tuple[MeterFilter, ...], msgspec.Meta(max_length=20)] = ()
    group_by: Annotated[tuple[Dimension, ...], msgspec.Meta(max_length=8)] = ()
    rounding: QuantityRounding | None = None
    late_usage: LateUsage = LateUsage.ADJUST


class MeterAnswer(Record, frozen=True, kw_only=True):
    """A published meter as it is answered."""

    id: str
    key: str
    name: str | None
    event_type: str
    aggregation: Aggregation
    value: str | None
    unique_by: str | None = None
    percentile: str | None = None
    carry_over: bool = False
    filters: tuple[MeterFilter, ...] = ()
    group_by: tuple[str, ...] = ()
    rounding: QuantityRounding | None = None
    late_usage: LateUsage = LateUsage.ADJUST
    created_at: datetime


class Meter(MeterAnswer, frozen=True, kw_only=True):
    """A published meter; `number`, never answered, is its short name inside the event store."""

    number: int


Entitlements = dict[Key, bool | Decimal]
"""What a plan entitles to, by feature: whether, or how much, as a number or its text."""


class PlanDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/plans`; a new version has the same body.

    `minimum_commitment` is what usage and recurring charges come to at least in each interval.
    """

    key: Key
    name: Name | None = None
    currency: CurrencyCode
    interval: Interval
    alignment: Alignment = Alignment.ANNIVERSARY
    trial_days: DaysText = 0
    minimum_commitment: UnsignedText | None = None
    prices: tuple[Price, ...]
    entitlements: Annotated[Entitlements, msgspec.Meta(max_length=200)] = msgspec.field(
        default_factory=dict
    )


class Plan(Record, frozen=True, kw_only=True):
    """One published version of a plan; it never changes."""

    id: str
    key: str
    version: int
    name: str | None
    currency: str
    interval: Interval
    alignment: Alignment
    trial_days: int = 0
    minimum_commitment: str | None = None
    prices: tuple[Price, ...]
    entitlements: dict[str, bool | str] = msgspec.field(default_factory=dict)
    created_at: datetime


def charged_prices(plan: PlanDraft | Plan) -> tuple[Price, ...]:
    """The prices as stated, and the plan's minimum commitment as one more."""
    minimum = plan.minimum_commitment
    return plan.prices if minimum is None else (*plan.prices, commitment_price(minimum))


class CustomerDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/customers`. `parent` (key or id) is the customer whose documents hold its charges.

    `invoice_group` is that of its subscriptions that name none. `locale` (BCP 47) is the language
    of its documents, the seller's `default_locale` when there is none, else English.
    """

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
    tax_rates: Annotated[tuple[Key, ...], msgspec.Meta(max_length=20)] = ()
    tax_exempt: TaxExempt = TaxExempt.NONE
    parent: ShortText | None = None
    invoice_group: Key | None = None
    locale: LanguageTag | None = None


class CustomerAnswer(Record, frozen=True, kw_only=True):
    """Who is billed, as it is answered.

    `balances` is what the next invoices use, by currency; `balance` that in the customer's own
    currency, else in the only one there is, else in the seller's. `credit_balance` is likewise what
    is left on active credit grants. `bounced_emails` are addresses that a mail came back from, with
    the reasons: none goes there until somebody names them again.
    """

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
    tax_rates: tuple[str, ...]
    tax_exempt: TaxExempt
    parent: str | None
    invoice_group: str | None
    locale: str | None
    bounced_emails: dict[str, str] = msgspec.field(default_factory=dict)
    balance: str
    balances: dict[str, str]
    credit_balance: str
    credit_balances: dict[str, str]
    created_at: datetime


class Customer(CustomerAnswer, frozen=True, kw_only=True):
    """Who is billed; `number` and `payer` are never answered.

    `number` is its short name inside the event store, `payer` the id of the customer whose
    documents hold its charges, if that is another one.
    """

    number: int
    payer: str | None = None

    @property
    def bill_to(self) -> str:
        """The id of the customer that gets the documents."""
        return self.payer or self.id


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
    tax_rounding: TaxRounding
    branding: Branding | None = None
    payment_details: PaymentTerms | None = None
    default_locale: str | None = None
    tax_provider: TaxProviderTerms | None = None
    emails: Mailing | None = None
    grace_hours: int = 0
    run_approval: bool = False
    created_at: datetime
    clock_at: datetime | None

    @property
    def grace(self) -> timedelta:
        """For how long what falls due is a draft before it is posted."""
        return timedelta(hours=self.grace_hours)


class SellerPatch(Body, frozen=True, kw_only=True):
    """`PATCH /v1/seller`: only what is named changes.

    `default_locale` (BCP 47) is the language of documents for customers that have none. With
    `run_approval` nothing that falls due is posted before somebody approved the billing run.
    """

    legal_name: Name | msgspec.UnsetType = msgspec.UNSET
    country: Annotated[str, msgspec.Meta(pattern=r"^[A-Z]{2}\Z")] | None | msgspec.UnsetType = (
        msgspec.UNSET
    )
    currency: CurrencyCode | msgspec.UnsetType = msgspec.UNSET
    timezone: ShortText | msgspec.UnsetType = msgspec.UNSET
    address: Address | None | msgspec.UnsetType = msgspec.UNSET
    tax_ids: tuple[TaxId, ...] | msgspec.UnsetType = msgspec.UNSET
    # -CN ends the series of credit notes, which must not share their numbers with invoices
    series: (
        Annotated[str, msgspec.Meta(pattern=r"^(?!.*-CN\Z)[A-Z0-9][A-Z0-9-]{0,19}\Z")]
        | msgspec.UnsetType
    ) = msgspec.UNSET
    rounding: Rounding | msgspec.UnsetType = msgspec.UNSET
    proration: Proration | msgspec.UnsetType = msgspec.UNSET
    last_day: LastDay | msgspec.UnsetType = msgspec.UNSET
    net_terms_days: DaysText | msgspec.UnsetType = msgspec.UNSET
    grace_hours: GraceHours | msgspec.UnsetType = msgspec.UNSET
    run_approval: bool | msgspec.UnsetType = msgspec.UNSET
    tax_rounding: TaxRounding | msgspec.UnsetType = msgspec.UNSET
    branding: Branding | None | msgspec.UnsetType = msgspec.UNSET
    payment_details: PaymentTerms | None | msgspec.UnsetType = msgspec.UNSET
    default_locale: LanguageTag | None | msgspec.UnsetType = msgspec.UNSET
    tax_provider: TaxProviderTerms | None | msgspec.UnsetType = msgspec.UNSET
    emails: Mailing | None | msgspec.UnsetType = msgspec.UNSET
