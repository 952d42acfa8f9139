"""What should be charged: the charges that a subscription owes, before any amount is known.

Pure. A charge belongs to one charge key (price interval, billing period, group); its amount is
rated elsewhere, from the quantity it names or the usage in its window.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from engine.period import BillingPeriod, Period, billing_periods, period_holding
from plans.agreement import Agreement, PriceInterval
from plans.model import LastDay, Proration
from plans.prices import Bill, Kind, bill_of, recurs
from plans.timeline import calendar_of
from rating.proration import fraction

INSTANT: Final = timedelta(microseconds=1)


class ProrationTerms(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's choice of how parts of a period are measured."""

    proration: Proration
    last_day: LastDay


class Charge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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

    @property
    def is_commitment(self) -> bool:
        """Whether it brings other charges up to a minimum."""
        return self.stretch.price.kind is Kind.COMMITMENT

    @property
    def is_gone(self) -> bool:
        """Whether nothing of the period is left, so that not even a minimum is owed."""
        empty = self.active.start >= self.active.end
        return empty and self.stretch.price.kind is not Kind.ONE_TIME and not self._counts_a_day

    @property
    def _counts_a_day(self) -> bool:
        return not self.is_usage and self.numerator > 0


def charges_due(*, agreement: Agreement, through: datetime, terms: ProrationTerms) -> list[Charge]:
    """Every charge to derive at `through`: newly due ones, and those touched since they were.

    A charge is newly due when its due instant lies in (derived_through_at, through]; it is
    touched when it was due before and its period reaches beyond `touched_from`.
    """
    charges: list[Charge] = []
    derived, dirty = agreement.derived_through_at, touched_from(agreement, through=through)
    for stretch in agreement.intervals:
        for period in _periods_of(agreement, stretch, through, dirty):
            active = _active_part(agreement, stretch, period, through)
            due_at = _due_at(stretch, active)
            if due_at > through:
                continue
            new = derived is None or due_at > derived
            touched = dirty is not None and _reaches(period, dirty)
            if new or touched:
                charges.append(_charge(agreement, stretch, period, active, terms))
    return charges


def _periods_of(
    agreement: Agreement, stretch: PriceInterval, through: datetime, dirty: datetime | None
) -> Sequence[Period]:
    """The billing periods that may hold a charge to derive; a one-time price has its moment."""
    end = through + INSTANT
    if stretch.end_at is not None:
        end = min(end, stretch.end_at)
    if stretch.price.kind is Kind.ONE_TIME:
        return [Period(stretch.start_at, stretch.start_at)] if stretch.start_at < end else []
    if stretch.start_at >= end:
        return []
    start = stretch.start_at
    if agreement.derived_through_at is not None:
        derived = agreement.derived_through_at
        changed = derived if dirty is None else min(derived, dirty)
        # A cancellation in the past may have cut a period that is not charged yet.
        start = max(start, min(changed, end - INSTANT))
    calendar = calendar_of(agreement=agreement, stretch=stretch)
    found = billing_periods(calendar=calendar, start=start, end=end)
    return [Period(period.start, period.end) for period in found]


def _reaches(period: Period, dirty: datetime) -> bool:
    """Whether the period goes on beyond the instant, or is the moment of a one-time price."""
    return period.end > dirty or (period.start == period.end == dirty)


def touched_from(agreement: Agreement, *, through: datetime) -> datetime | None:
    """From which instant on posted charges must be derived again; None when none need it.

    Besides marks, a cancellation or a change touches what was billed beyond it once it takes
    effect.
    """
    derived, found = agreement.derived_through_at, agreement.dirty_from_at
    for stretch in agreement.intervals:
        end = stretch.end_at
        if derived is None or end is None:
            continue
        if not stretch.end_is_cancellation and stretch.closed_at is None:
            continue
        if derived < end <= through and (found is None or end < found):
            found = end
    return found


def running_usage(*, agreement: Agreement, at: datetime, terms: ProrationTerms) -> list[Charge]:
    """Usage charges of the periods running at the instant, which fall due later."""
    charges: list[Charge] = []
    for stretch in agreement.intervals:
        over = stretch.end_at is not None and stretch.end_at <= at
        if stretch.price.kind is not Kind.USAGE or over or stretch.start_at > at:
            continue
        calendar = calendar_of(agreement=agreement, stretch=stretch)
        charge = charge_for(
            agreement=agreement,
            stretch=stretch,
            period=period_holding(calendar=calendar, at=at),
            terms=terms,
            through=at,
        )
        charges += [charge] if charge.due_at > at else []
    return charges


def may_be_posted(agreement: Agreement) -> bool:
    """Whether charges that are not due yet may have lines: of an end that came and was undone."""
    derived = agreement.derived_through_at
    return any(
        stretch.closed_at is not None
        and (stretch.end_at is None or derived is None or stretch.end_at > derived)
        for stretch in agreement.intervals
    )


def charge_for(
    *,
    agreement: Agreement,
    stretch: PriceInterval,
    period: BillingPeriod | Period,
    terms: ProrationTerms,
    through: datetime,
) -> Charge:
    """The charge of one price interval for one billing period, as it is owed at `through`.

    Where the interval ended before or at the period's start nothing is left to charge, except
    that a cancellation may count its last date. What was charged in advance before anyone asked
    for the cancellation or change stays whole until it takes effect, and for good with
    `refund: none`.
    """
    whole = Period(period.start, period.end)
    active = _active_part(agreement, stretch, whole, through)
    return _charge(agreement, stretch, whole, active, terms)


def _active_part(
    agreement: Agreement, stretch: PriceInterval, period: Period, through: datetime
) -> Period:
    covered = stretch.end_at is None and stretch.start_at <= period.start
    if covered or stretch.price.kind is Kind.ONE_TIME:
        return period
    start = max(period.start, stretch.start_at)
    end = period.end if stretch.end_at is None else min(period.end, stretch.end_at)
    if _was_raised(agreement, stretch, start) and (
        not stretch.credit_unused or (stretch.end_at is not None and stretch.end_at > through)
    ):
        agreed = stretch.agreed_end_at
        end = period.end if agreed is None else min(period.end, agreed)
    return Period(start, max(start, end))


def _due_at(stretch: PriceInterval, active: Period) -> datetime:
    return active.start if bill_of(stretch.price) is Bill.IN_ADVANCE else active.end


def _charge(
    agreement: Agreement,
    stretch: PriceInterval,
    whole: Period,
    active: Period,
    terms: ProrationTerms,
) -> Charge:
    numerator, denominator = 1, 1
    price = stretch.price
    if recurs(price) or (price.kind is Kind.USAGE and price.prorate_tiers):
        numerator, denominator = _share(agreement, stretch, whole, active, terms)
    return Charge(
        agreement=agreement,
        stretch=stretch,
        period=whole,
        active=active,
        due_at=_due_at(stretch, active),
        numerator=numerator,
        denominator=denominator,
    )


def _share(
    agreement: Agreement,
    stretch: PriceInterval,
    whole: Period,
    active: Period,
    terms: ProrationTerms,
) -> tuple[int, int]:
    measured = active
    if stretch.end_is_cancellation and active.start == stretch.end_at and _counts_last_day(terms):
        measured = Period(active.start, active.start + INSTANT)
    return fraction(
        proration=terms.proration if stretch.price.prorate else Proration.NONE,
        last_day=terms.last_day,
        period=whole,
        active=measured,
        timezone=agreement.timezone,
        ends_by_cancellation=_ends_by_cancellation(stretch, active),
    )


def _counts_last_day(terms: ProrationTerms) -> bool:
    return terms.proration is Proration.DAY and terms.last_day is LastDay.INCLUDE


def _was_raised(agreement: Agreement, stretch: PriceInterval, start: datetime) -> bool:
    """Whether an advance charge from `start` was already owed when its end was recorded."""
    if bill_of(stretch.price) is not Bill.IN_ADVANCE:
        return False
    asked_at = agreement.cancelled_at if stretch.end_is_cancellation else stretch.closed_at
    return asked_at is not None and start <= asked_at


def _ends_by_cancellation(stretch: PriceInterval, active: Period) -> bool:
    return stretch.end_is_cancellation and active.end == stretch.end_at


def vanished_charge(
    *,
    agreement: Agreement,
    stretch: PriceInterval,
    period_start: datetime,
    terms: ProrationTerms,
    through: datetime,
) -> Charge | None:
    """The charge of a posted key that the timeline no longer holds; None when it is untouched."""
    dirty = touched_from(agreement, through=through)
    if dirty is None or stretch.price.kind is Kind.ONE_TIME:
        return None
    calendar = calendar_of(agreement=agreement, stretch=stretch)
    period = period_holding(calendar=calendar, at=period_start)
    if period.end <= dirty:
        return None
    charge = charge_for(
        agreement=agreement, stretch=stretch, period=period, terms=terms, through=through
    )
    if charge.due_at <= through:
        return charge
    if charge.is_usage and agreement.spend_thresholds:
        return None  # billed at once when a threshold was reached: the rest falls due later
    # An end that was taken back: what it made due falls due at the period's end again.
    none = Period(charge.active.start, charge.active.start)
    return msgspec.structs.replace(charge, active=none, numerator=0, denominator=1)
