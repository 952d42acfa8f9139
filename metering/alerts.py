"""Usage alerts: what is watched for, and when a quantity has come to it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from typing import Annotated, Final

import msgspec

from engine.errors import FieldError
from engine.money import UnsignedText, format_plain, parse_scaled
from plans.entitlements import QUANTITY_DIGITS
from plans.model import FilterText, Meter
from plans.shape import Body, Key, Record, ShortText

MOST_STEPS: Final = 10
_DIGITS: Final = 12
Steps = Annotated[tuple[UnsignedText, ...], msgspec.Meta(max_length=MOST_STEPS)]
Group = Annotated[dict[str, FilterText], msgspec.Meta(max_length=8)]


class AlertWindow(StrEnum):
    """The stretch of time whose usage is compared, after which the alert begins anew."""

    BILLING_PERIOD = "billing_period"
    MONTH = "month"
    DAY = "day"


class UsageAlertDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/usage_alerts`.

    Without `customer` every customer is watched, with `group` only the usage of these values of
    the meter's dimensions. `thresholds` are quantities, `percents` parts of what the customer may
    use in a billing period.
    """

    key: Key
    meter: ShortText
    customer: ShortText | None = None
    group: Group = msgspec.field(default_factory=dict)
    thresholds: Steps = ()
    percents: Steps = ()
    window: AlertWindow = AlertWindow.BILLING_PERIOD


class UsageAlertPatch(Body, frozen=True, kw_only=True):
    """`PATCH /v1/usage_alerts/{alert}`: what is named replaces what there was."""

    thresholds: Steps | msgspec.UnsetType = msgspec.UNSET
    percents: Steps | msgspec.UnsetType = msgspec.UNSET


class UsageAlert(Record, frozen=True, kw_only=True):
    """An alert as it is answered; customer and meter by their keys."""

    id: str
    key: str
    meter: str
    customer: str | None
    group: dict[str, str]
    thresholds: tuple[str, ...]
    percents: tuple[str, ...]
    window: AlertWindow
    created_at: datetime


class WatchedAlert(msgspec.Struct, frozen=True, kw_only=True):
    """An alert as comparing needs it; customer and meter by their ids."""

    id: str
    key: str
    meter: str
    customer: str | None
    group: Mapping[str, str]
    thresholds: tuple[str, ...]
    percents: tuple[str, ...]
    window: AlertWindow
    since_at: datetime


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity that is watched for; `percent` where it is a part of what may be used."""

    threshold: str
    percent: str | None = None

    @property
    def label(self) -> str:
        """What is told once in a window: a percent whatever it comes to, else the quantity."""
        return self.threshold if self.percent is None else f"{self.percent}%"


def plain_steps(steps: Iterable[str]) -> tuple[str, ...]:
    """As they are kept: rising, each in its shortest form."""
    return tuple(format_plain(each, digits=_DIGITS) for each in sorted(map(_scaled, steps)))


def alert_faults(
    *,
    thresholds: Sequence[str],
    percents: Sequence[str],
    window: AlertWindow,
    group: Mapping[str, str],
    meter: Meter,
) -> list[FieldError]:
    """Everything that is wrong with an alert on the meter."""
    errors: list[FieldError] = []
    if not thresholds and not percents:
        detail = "say with thresholds or percents what is to be told"
        errors.append(FieldError(pointer="/thresholds", code="required", detail=detail))
    for name, steps in (("thresholds", thresholds), ("percents", percents)):
        for index, text in enumerate(steps):
            where = f"/{name}/{index}"
            if not _scaled(text):
                detail = "what is to be reached lies above zero"
                errors.append(FieldError(pointer=where, code="not_positive", detail=detail))
            elif _scaled(text) in map(_scaled, steps[:index]):
                detail = f"{text} is named twice"
                errors.append(FieldError(pointer=where, code="duplicate", detail=detail))
    if percents and window is not AlertWindow.BILLING_PERIOD:
        detail = "what a customer may use is said for a billing period"
        errors.append(FieldError(pointer="/percents", code="contradictory", detail=detail))
    if percents and group:
        detail = "what a customer may use is said for all groups together"
        errors.append(FieldError(pointer="/percents", code="contradictory", detail=detail))
    for name in group:
        if name not in meter.group_by:
            detail = f"the meter {meter.key!r} does not keep {name[:100]!r}"
            errors.append(FieldError(pointer="/group", code="unknown_dimension", detail=detail))
    return errors


def steps_of(*, alert: WatchedAlert, limit_nanos: int | None) -> tuple[Step, ...]:
    """What the alert watches for; `limit_nanos` is what may be used, None without a limit."""
    wanted = [Step(threshold=each) for each in alert.thresholds]
    if limit_nanos is not None:
        digits = QUANTITY_DIGITS + _DIGITS + 2
        wanted += [
            Step(threshold=format_plain(limit_nanos * _scaled(each), digits=digits), percent=each)
            for each in alert.percents
        ]
    return tuple(wanted)


def reached(*, steps: Iterable[Step], mantissa: int, digits: int) -> list[Step]:
    """The steps that mantissa × 10^-digits has come to, the lowest first; zero comes to none."""
    if mantissa <= 0:
        return []
    quantity = Fraction(mantissa, 10**digits)
    found = [(Fraction(each.threshold), each) for each in steps]
    return [
        step
        for value, step in sorted(found, key=lambda pair: (pair[0], pair[1].label))
        if value <= quantity
    ]


def _scaled(text: str) -> int:
    return parse_scaled(text, digits=_DIGITS)
