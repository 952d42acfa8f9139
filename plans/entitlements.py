"""What a customer's running subscriptions entitle to, and how much of it is used. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

import msgspec

from engine.money import format_plain, parse_scaled
from engine.period import Calendar, Period, period_holding
from plans.agreement import Agreement, PriceInterval
from plans.prices import Interval
from plans.shape import Record
from plans.timeline import calendar_of

QUANTITY_DIGITS: Final = 9


class FeatureType(StrEnum):
    """Whether a feature is had or not, so many, or so much in a period."""

    BOOLEAN = "boolean"
    NUMBER = "number"
    METERED = "metered"


class Entitlement(Record, frozen=True, kw_only=True):
    """One feature and what the running `subscriptions` (keys) give of it together.

    `limit` is null where nothing limits it; `usage`, `remaining` and `period` are those of a
    metered feature.
    """

    feature: str
    type: FeatureType
    has_access: bool
    limit: str | None
    usage: str | None
    remaining: str | None
    period: tuple[datetime, datetime] | None
    subscriptions: tuple[str, ...]


class EntitlementsAnswer(Record, frozen=True, kw_only=True):
    """`GET /v1/customers/{customer}/entitlements`: every feature, by name."""

    customer: str
    data: tuple[Entitlement, ...]


class Grants(msgspec.Struct, frozen=True, kw_only=True):
    """A running subscription with what its plan gives, and how often the plan recurs."""

    agreement: Agreement
    interval: Interval
    features: Mapping[str, bool | str]


def plain_entitlements(stated: Mapping[str, bool | Decimal]) -> dict[str, bool | str]:
    """As they are kept: numbers as text in their shortest form. A published plan's are in range."""
    return {
        feature: value if isinstance(value, bool) else _plain(_nanos(f"{value:f}"))
        for feature, value in stated.items()
    }


def metered_periods(
    *, grants: Sequence[Grants], meters: Sequence[str], now: datetime
) -> dict[str, Period]:
    """For each granted feature that is a meter's key: the period in which its usage counts.

    It is that of the price which bills the meter, else that of the plan; of several, from the
    earliest start to the earliest end.
    """
    found: dict[str, Period] = {}
    for grant in grants:
        for feature in grant.features:
            if feature not in meters:
                continue
            running = _running_period(grant, feature, now)
            other = found.get(feature, running)
            found[feature] = Period(min(running.start, other.start), min(running.end, other.end))
    return found


def usage_period(*, grants: Sequence[Grants], meter: str, at: datetime) -> Period | None:
    """The billing period at an instant of the subscriptions that bill a meter or name it.

    Where none does, that of all subscriptions given; of several, from the earliest start to the
    earliest end. None without a subscription.
    """
    concerned = [grant for grant in grants if meter in grant.features or _billing(grant, meter, at)]
    periods = [_running_period(grant, meter, at) for grant in concerned or grants]
    if not periods:
        return None
    return Period(min(each.start for each in periods), min(each.end for each in periods))


def usage_limit_nanos(*, grants: Sequence[Grants], meter: str, at: datetime) -> int | None:
    """How much may be used of a meter in a billing period, in 10^-9 units; None: no limit.

    It is what the feature named like the meter gives; where no plan names it, what the prices that
    bill the meter include.
    """
    named = [grant.features[meter] for grant in grants if meter in grant.features]
    if named:
        giving = [value for value in named if value is not False]
        numbers = [_nanos(value) for value in giving if not isinstance(value, bool)]
        return sum(numbers) if giving and len(numbers) == len(giving) else None
    included = [
        _nanos(stretch.price.included_quantity)
        for grant in grants
        for stretch in _billing(grant, meter, at)
        if stretch.price.included_quantity is not None
    ]
    return sum(included) if included else None


def _running(grant: Grants, at: datetime) -> list[PriceInterval]:
    return [
        stretch
        for stretch in grant.agreement.intervals
        if stretch.start_at <= at and (stretch.end_at is None or at < stretch.end_at)
    ]


def _billing(grant: Grants, meter: str, at: datetime) -> list[PriceInterval]:
    return [stretch for stretch in _running(grant, at) if stretch.price.meter == meter]


def _running_period(grant: Grants, meter: str, now: datetime) -> Period:
    agreement = grant.agreement
    running = _running(grant, now)
    billing = _billing(grant, meter, now)
    alike = [stretch for stretch in running if stretch.interval == grant.interval]
    period = period_holding(calendar=_calendar(grant, [*billing, *alike]), at=now)
    return Period(max(period.start, agreement.starts_at), period.end)


def _calendar(grant: Grants, candidates: Sequence[PriceInterval]) -> Calendar:
    agreement = grant.agreement
    if candidates:
        return calendar_of(agreement=agreement, stretch=candidates[0])
    return Calendar(
        unit=grant.interval.unit,
        count=grant.interval.count,
        alignment=agreement.alignment,
        anchor_at=agreement.anchor_at,
        anchor_day=agreement.anchor_day,
        timezone=agreement.timezone,
    )


def entitlements_of(
    *, grants: Sequence[Grants], periods: Mapping[str, Period], used_nanos: Mapping[str, int]
) -> tuple[Entitlement, ...]:
    """Every feature of the grants by name; usage (10^-9 units) is that of the metered ones.

    Numbers add up; `true` gives without limit, beside a number too, and `false` gives nothing.
    """
    names = sorted({feature for grant in grants for feature in grant.features})
    return tuple(
        _entitlement(
            feature,
            {g.agreement.key: g.features[feature] for g in grants if feature in g.features},
            periods.get(feature),
            max(used_nanos.get(feature, 0), 0),
        )
        for feature in names
    )


def _entitlement(
    feature: str, given: Mapping[str, bool | str], period: Period | None, used: int
) -> Entitlement:
    giving = {key: value for key, value in given.items() if value is not False}
    numbers = [_nanos(value) for value in giving.values() if not isinstance(value, bool)]
    unlimited = len(numbers) < len(giving)
    limit = None if unlimited or not giving else sum(numbers)
    metered = period is not None
    kind = FeatureType.NUMBER if numbers else FeatureType.BOOLEAN
    left = None if limit is None else max(limit - used, 0)
    return Entitlement(
        feature=feature,
        type=FeatureType.METERED if metered else kind,
        has_access=unlimited or (left is not None and left > 0),
        limit=None if limit is None else _plain(limit),
        usage=_plain(used) if metered else None,
        remaining=_plain(left) if metered and left is not None else None,
        period=None if period is None else (period.start, period.end),
        subscriptions=tuple(sorted(giving)),
    )


def _nanos(text: str) -> int:
    return parse_scaled(text, digits=QUANTITY_DIGITS)


def _plain(nanos: int) -> str:
    return format_plain(nanos, digits=QUANTITY_DIGITS)
