"""A customer's agreement over time: subscriptions and their price intervals. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec

from engine.money import DecimalText, UnsignedText
from engine.period import Alignment
from plans.prices import Interval, Price
from plans.shape import Body, DaysText, Key, Record, ShortText


class AnchorAt(Body, frozen=True, kw_only=True):
    """An explicit anchor: an instant, or a day of the month (29–31 are clipped in short months)."""

    at: datetime | None = None
    day: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None


Overrides = dict[Key, dict[str, Any]]
"""Fields of a price, by its key, that hold for one subscription instead of the plan's."""


class PhaseDraft(Body, frozen=True, kw_only=True):
    """What a subscription becomes at an instant known in advance."""

    starts_at: datetime
    plan: Key | None = None
    quantities: dict[str, UnsignedText] = msgspec.field(default_factory=dict)
    overrides: Overrides = msgspec.field(default_factory=dict)


class SubscriptionDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions`. `quantities` and `overrides` are by price key.

    When the usage of the period running comes to one of the `spend_thresholds`, all that is not
    billed of it is billed at once. A trial frees recurring prices for so many days; without
    `trial_days` it is as long as the plan's. Subscriptions of different `invoice_group` come on
    documents apart; without one it is the customer's.
    """

    key: Key
    customer: str
    plan: Key
    plan_version: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)] | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    anchor: AnchorAt | None = None
    alignment: Alignment | None = None
    quantities: dict[str, UnsignedText] = msgspec.field(default_factory=dict)
    overrides: Overrides = msgspec.field(default_factory=dict)
    trial_days: DaysText | None = None
    phases: Annotated[tuple[PhaseDraft, ...], msgspec.Meta(max_length=100)] = ()
    coupons: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=20)] = ()
    spend_thresholds: Annotated[tuple[UnsignedText, ...], msgspec.Meta(max_length=20)] = ()
    net_terms_days: DaysText | None = None
    invoice_group: Key | None = None


class ChangeDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions/{id}/change`. `effective`: now, period_end or an instant.

    What is not named stays. `invoice_now` settles at once instead of on the next document;
    `prorate: false` lets the old price keep its period.
    """

    plan: Key | None = None
    plan_version: int | None = None
    quantities: dict[str, UnsignedText] = msgspec.field(default_factory=dict)
    overrides: Overrides = msgspec.field(default_factory=dict)
    effective: str = "now"
    invoice_now: bool = False
    prorate: bool | None = None


class PauseDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions/{id}/pause` and `/resume`: now, at period_end or at an instant."""

    effective: str = "now"


class SubscriptionStatus(StrEnum):
    """Where a subscription is in its life at a given instant."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    ENDED = "ended"


class Refund(StrEnum):
    """What happens with the unused part of advance charges at a cancellation."""

    CREDIT = "credit"
    REFUND = "refund"
    NONE = "none"


class CancelDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions/{id}/cancel`. `effective`: now, period_end or an instant."""

    effective: str = "now"
    refund: Refund = Refund.CREDIT


class Anchor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """From where periods are counted: an instant, or the day of its month, or the calendar."""

    at: datetime
    day: int | None = None
    alignment: Alignment = Alignment.ANNIVERSARY


class PriceInterval(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One price, quantity and terms over [start, end) inside a subscription: the only truth.

    `number` orders the intervals of a subscription. `end_is_cancellation` tells a cancellation
    from an agreed end; `credit_unused` is False when a cancellation keeps the money.
    `agreed_end_at` is the end that the cancellation or change brought forward. A change that
    closes an interval leaves in `closed_at` when it was recorded; one that opens an interval
    inside a period leaves `start_is_due` False. `anchor` is the interval's own, if it has one.
    """

    id: str
    number: int
    price_id: str
    price: Price
    interval: Interval
    quantity: DecimalText
    start_at: datetime
    end_at: datetime | None = None
    end_is_cancellation: bool = False
    credit_unused: bool = True
    agreed_end_at: datetime | None = None
    closed_at: datetime | None = None
    start_is_due: bool = True
    anchor: Anchor | None = None


class Agreement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A subscription as billing sees it: its terms, its price intervals and its place in the work.

    `customer` and `id` are ids, `customer_number` is the customer's in the event store. Everything
    due up to `derived_through_at` is posted; facts from `dirty_from_at` on have changed since.
    `next_change_at` is the earliest change beyond what is posted. With `refund_unused` what a
    cancellation gives back is owed as a refund rather than as balance. `spend_thresholds` are minor
    units; with `interim_at` the usage running is billed with the next document. Its charges come on
    documents of `bill_to`, apart for each `invoice_group`.
    """

    id: str
    key: str
    customer: str
    customer_number: int
    currency: str
    timezone: str
    starts_at: datetime
    ends_at: datetime | None
    anchor_at: datetime
    anchor_day: int | None
    alignment: Alignment
    cancelled_at: datetime | None
    net_terms_days: int | None
    next_due_at: datetime | None
    derived_through_at: datetime | None
    dirty_from_at: datetime | None
    revision: int
    next_change_at: datetime | None = None
    refund_unused: bool = False
    bill_to: str = ""
    invoice_group: str = ""
    spend_thresholds: tuple[int, ...] = ()
    interim_at: datetime | None = None
    intervals: tuple[PriceInterval, ...]


class Subscription(Record, frozen=True, kw_only=True):
    """A customer's running agreement, as it is answered."""

    id: str
    key: str
    customer: str
    plan: str
    plan_version: int
    status: SubscriptionStatus
    currency: str
    timezone: str
    starts_at: datetime
    ends_at: datetime | None
    anchor_at: datetime
    anchor_day: int | None
    alignment: Alignment
    quantities: dict[str, str]
    spend_thresholds: tuple[str, ...] = ()
    net_terms_days: int | None
    invoice_group: str | None
    cancelled_at: datetime | None
    trial_ends_at: datetime | None
    paused_at: datetime | None
    next_due_at: datetime | None
    created_at: datetime


class ScheduledChange(Record, frozen=True, kw_only=True):
    """A change that has not taken effect yet."""

    id: str
    subscription: str
    kind: str
    effective_at: datetime
    plan: str | None
    quantities: dict[str, str]
    overrides: dict[str, dict[str, Any]]
    created_at: datetime
