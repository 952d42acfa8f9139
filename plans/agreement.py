"""A customer's agreement over time: subscriptions and their price intervals. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from engine.money import DecimalText, UnsignedText
from engine.period import Alignment
from plans.prices import Interval, Price
from plans.shape import Body, DaysText, Key, Record


class AnchorAt(Body, frozen=True, kw_only=True):
    """An explicit anchor: an instant, or a day of the month (29–31 are clipped in short months)."""

    at: datetime | None = None
    day: Annotated[int, msgspec.Meta(ge=1, le=31)] | None = None


class SubscriptionDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions`. `quantities` are by price key."""

    key: Key
    customer: str
    plan: Key
    plan_version: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)] | None = None
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    anchor: AnchorAt | None = None
    alignment: Alignment | None = None
    quantities: dict[str, UnsignedText] = msgspec.field(default_factory=dict)
    net_terms_days: DaysText | None = None


class SubscriptionStatus(StrEnum):
    """Where a subscription is in its life at a given instant."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    CANCELLED = "cancelled"
    ENDED = "ended"


class Refund(StrEnum):
    """What happens with the unused part of advance charges at a cancellation."""

    CREDIT = "credit"
    NONE = "none"


class CancelDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/subscriptions/{id}/cancel`. `effective`: now, period_end or an instant."""

    effective: str = "now"
    refund: Refund = Refund.CREDIT


class PriceInterval(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One price, quantity and terms over [start, end) inside a subscription: the only truth.

    `number` orders the intervals of a subscription. `end_is_cancellation` tells a cancellation
    from an agreed end; `credit_unused` is False when a cancellation keeps the money.
    `agreed_end_at` is the end that the cancellation brought forward.
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


class Agreement(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A subscription as billing sees it: its terms, its price intervals and its place in the work.

    `customer` and `id` are ids, `customer_number` is the customer's in the event store. Everything
    due up to `derived_through_at` is posted; facts from `dirty_from_at` on have changed since.
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
    net_terms_days: int | None
    cancelled_at: datetime | None
    next_due_at: datetime | None
    created_at: datetime
