"""What should be charged: the charges that a subscription owes, before any amount is known.

Pure. A charge belongs to one charge key (price interval, billing period, group); its amount is
rated elsewhere, from the quantity it names or the usage in its window.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.period import BillingPeriod, Period, billing_periods, period_holding
from plans.agreement import Agreement, PriceInterval
from plans.model import LastDay, Proration
from plans.prices import Bill, Kind, bill_of
from plans.timeline import calendar_of
from rating.proration import fraction

INSTANT: Final = timedelta(microseconds=1)


class ProrationTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's choice of how parts of a period are measured."""

    proration: Proration
    last_day: LastDay


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One charge key and what decides its amount.

    `period` is the whole billing period, `active` the part of it that the interval covers;
    `numerator`/`denominator` is their ratio by the seller's rule.
    """

    agreement: Agreement
    stretch: PriceInterval
    period: Period
    active: Period
    due_at: datetime
    numerator: int
    denominator: int

    @property
    def key(self) -> tuple[str, datetime]:
        """Price interval and start of the billing period."""
        return self.stretch.id, self.period.start

    @property
    def is_usage(self) -> bool:
        """Whether the quantity is measured rather than agreed."""
        return self.stretch.price.kind is Kind.USAGE


def charges_due(*, agreement: Agreement, through: datetime, terms: ProrationTerms) -> list[Charge]:
    """Every charge to derive at `through`: newly due ones, and those touched since they were.

    A charge is newly due when its due instant lies in (derived_through_at, through]; it is
    touched when it was due before and its active part reaches beyond `dirty_from_at`.
    """
    charges: list[Charge] = []
    derived, dirty = agreement.derived_through_at, agreement.dirty_from_at
    for stretch in agreement.intervals:
        for charge in _charges_of(agreement, stretch, through, terms):
            if charge.due_at > through:
                continue
            new = derived is None or charge.due_at > derived
            touched = dirty is not None and charge.active.end > dirty
            if new or touched:
                charges.append(charge)
    return charges


def _charges_of(
    agreement: Agreement, stretch: PriceInterval, through: datetime, terms: ProrationTerms
) -> Iterator[Charge]:
    end = through + INSTANT
    if stretch.end_at is not None:
        end = min(end, stretch.end_at)
    if stretch.price.kind is Kind.ONE_TIME:
        if stretch.start_at < end:
            yield _one_time(agreement, stretch)
        return
    start = stretch.start_at
    if agreement.derived_through_at is not None:
        changed = agreement.derived_through_at
        if agreement.dirty_from_at is not None:
            changed = min(changed, agreement.dirty_from_at)
        start = max(start, changed)
    calendar = calendar_of(agreement=agreement, interval=stretch.interval)
    for period in billing_periods(calendar=calendar, start=start, end=end):
        yield charge_for(agreement=agreement, stretch=stretch, period=period, terms=terms)


def _one_time(agreement: Agreement, stretch: PriceInterval) -> Charge:
    moment = Period(stretch.start_at, stretch.start_at)
    return Charge(
        agreement=agreement,
        stretch=stretch,
        period=moment,
        active=moment,
        due_at=stretch.start_at,
        numerator=1,
        denominator=1,
    )


def charge_for(
    *,
    agreement: Agreement,
    stretch: PriceInterval,
    period: BillingPeriod | Period,
    terms: ProrationTerms,
) -> Charge:
    """The charge of one price interval for one billing period that it overlaps or touches.

    Where the interval ended before or at the period's start nothing is left to charge, except
    that a cancellation may count its last date.
    """
    whole = Period(period.start, period.end)
    start = max(whole.start, stretch.start_at)
    end = whole.end if stretch.end_at is None else min(whole.end, stretch.end_at)
    if not stretch.credit_unused and _was_raised(agreement, stretch, start):
        end = whole.end
    active = Period(start, max(start, end))
    billed = bill_of(stretch.price)
    numerator, denominator = 1, 1
    if stretch.price.kind is Kind.RECURRING or stretch.price.prorate_tiers:
        measured = active
        if stretch.end_is_cancellation and start == stretch.end_at and _counts_last_day(terms):
            measured = Period(start, start + INSTANT)
        numerator, denominator = fraction(
            proration=terms.proration if stretch.price.prorate else Proration.NONE,
            last_day=terms.last_day,
            period=whole,
            active=measured,
            timezone=agreement.timezone,
            ends_by_cancellation=_ends_by_cancellation(stretch, active),
        )
    return Charge(
        agreement=agreement,
        stretch=stretch,
        period=whole,
        active=active,
        due_at=active.start if billed is Bill.IN_ADVANCE else active.end,
        numerator=numerator,
        denominator=denominator,
    )


def _counts_last_day(terms: ProrationTerms) -> bool:
    return terms.proration is Proration.DAY and terms.last_day is LastDay.INCLUDE


def _was_raised(agreement: Agreement, stretch: PriceInterval, start: datetime) -> bool:
    """Whether an advance charge from `start` was already owed when the cancellation came."""
    if bill_of(stretch.price) is not Bill.IN_ADVANCE or not stretch.end_is_cancellation:
        return False
    return agreement.cancelled_at is not None and start <= agreement.cancelled_at


def _ends_by_cancellation(stretch: PriceInterval, active: Period) -> bool:
    return stretch.end_is_cancellation and active.end == stretch.end_at


def vanished_charge(
    *,
    agreement: Agreement,
    stretch: PriceInterval,
    period_start: datetime,
    terms: ProrationTerms,
) -> Charge | None:
    """The charge of a posted key that the timeline no longer holds; None when it is untouched."""
    dirty = agreement.dirty_from_at
    if dirty is None or stretch.price.kind is Kind.ONE_TIME:
        return None
    calendar = calendar_of(agreement=agreement, interval=stretch.interval)
    period = period_holding(calendar=calendar, at=period_start)
    if period.end <= dirty:
        return None
    return charge_for(agreement=agreement, stretch=stretch, period=period, terms=terms)
