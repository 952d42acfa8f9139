"""What another price list would have made of a past stretch: asked, summed up, answered. Pure.

Amounts are those of charges: before coupons, credit and tax. Currencies are never summed together.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Annotated, Final

import msgspec

from engine.money import Rounding, format_amount, round_ratio
from engine.period import Alignment, Calendar, IntervalUnit, period_holding
from invoicing.charges import Charge
from invoicing.export_table import Cell, format_row
from invoicing.monthly_revenue import Monthly, MonthlyRevenue
from plans.price_lists import PriceListDraft
from plans.prices import Kind
from plans.shape import Body, Record, ShortText

TOLD: Final = 20
"""Customers named for paying more, and for paying less; subscriptions named as not simulated."""

BINS: Final = 10
"""Classes of a histogram on either side of zero."""

_MICROSECOND: Final = timedelta(microseconds=1)
COLUMNS: Final[Mapping[str, Cell]] = {
    "customer": Cell.TEXT,
    "currency": Cell.PLAIN,
    "charges": Cell.PLAIN,
    "billed": Cell.AMOUNT,
    "waiting": Cell.AMOUNT,
    "present": Cell.AMOUNT,
    "simulated": Cell.AMOUNT,
    "difference": Cell.AMOUNT,
    "percent": Cell.PLAIN,
}
"""A row of the CSV: one for each customer and currency."""


ONE_TIME, RECURRING, USAGE = range(3)
BUCKETS: Final = 3
"""What is summed apart: one-time prices, recurring ones (commitments too), usage."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """(start, end]: charges whose part of a period ended in it; one-time ones in [start, end).

    Its months are those of the timezone.
    """

    start: datetime
    end: datetime
    timezone: str = "UTC"

    @property
    def months(self) -> Fraction:
        """How many months it has from its start on, the last one in part perhaps."""
        calendar = Calendar(
            unit=IntervalUnit.MONTH,
            count=1,
            alignment=Alignment.ANNIVERSARY,
            anchor_at=self.start,
            anchor_day=None,
            timezone=self.timezone,
        )
        last = period_holding(calendar=calendar, at=self.end)
        part = Fraction((self.end - last.start) // _MICROSECOND)
        return last.index + part / ((last.end - last.start) // _MICROSECOND)

    def holds(self, charge: Charge) -> bool:
        """Whether the charge is looked at."""
        if charge.stretch.price.kind is Kind.ONE_TIME:
            return self.start <= charge.active.start < self.end
        return self.start < charge.active.end <= self.end


class SimulationDraft(Body, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """`POST /v1/simulations`: other prices over billing periods that ended in (from, to].

    A day is one of the seller's calendar; `to` is now when it is left out. Prices that customers
    have of their own hold unless `replace_overrides`. `customers` (key or id) leaves out others.
    """

    start: ShortText
    end: ShortText | None = None
    price_lists: Annotated[tuple[PriceListDraft, ...], msgspec.Meta(min_length=1, max_length=100)]
    replace_overrides: bool = False
    customers: Annotated[tuple[ShortText, ...], msgspec.Meta(max_length=1_000)] | None = None


class CustomerEffect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Minor units of who gets the documents, in one currency.

    `present` and `simulated` are by kind of price, in the order of BUCKETS; `billed_minor` is what
    is posted of the present ones.
    """

    customer: str
    currency: str
    charges: int
    billed_minor: int
    present: tuple[int, ...]
    simulated: tuple[int, ...]

    @property
    def difference_minor(self) -> int:
        """How much more is paid with the other prices; below zero, less."""
        return sum(self.simulated) - sum(self.present)


class Bin(Record, frozen=True, kw_only=True):
    """Customers whose difference lies between the two; None where there is no bound.

    The bound further from zero belongs to it, the one nearer to zero does not.
    """

    low: str | None
    high: str | None
    customers: int


class CustomerDifference(Record, frozen=True, kw_only=True):
    """One customer's totals, in major units."""

    customer: str
    present: str
    simulated: str
    difference: str


class CurrencyEffect(Record, frozen=True, kw_only=True):
    """What the other prices come to in one currency, in major units.

    `present` is what the present prices give with the facts known now: `billed` of it is posted,
    `waiting` the next billing run would post. Winners pay less, losers more.
    """

    currency: str
    customers: int
    charges: int
    billed: str
    waiting: str
    present: str
    simulated: str
    difference: str
    percent: str | None
    recurring: MonthlyRevenue
    usage: MonthlyRevenue
    mrr: MonthlyRevenue
    winners: int
    losers: int
    unchanged: int
    largest_decreases: tuple[CustomerDifference, ...]
    largest_increases: tuple[CustomerDifference, ...]
    histogram: tuple[Bin, ...]


class NotSimulated(Record, frozen=True, kw_only=True):
    """A customer left out of all sums, and why."""

    customer: str
    code: str
    detail: str


class Simulation(Record, frozen=True, kw_only=True, rename={"start": "from", "end": "to"}):
    """The answer; nothing of it is kept."""

    start: datetime
    end: datetime
    replace_overrides: bool
    totals: tuple[CurrencyEffect, ...]
    not_simulated_count: int
    not_simulated: tuple[NotSimulated, ...]


class Tally:
    """The effects on customers summed up as they come; a number of each is kept."""

    def __init__(self, *, stretch: Stretch) -> None:
        """Before the first customer."""
        self.stretch = stretch
        self._sums: dict[str, _Sums] = {}
        self._left_out: list[NotSimulated] = []
        self._left_out_count = 0

    def add(self, effects: Iterable[CustomerEffect]) -> None:
        """Take customers, each once for each currency."""
        for effect in effects:
            sums = self._sums.get(effect.currency)
            if sums is None:
                sums = self._sums[effect.currency] = _Sums()
            sums.add(effect)

    def leave_out(self, one: NotSimulated) -> None:
        """Take one of whom nothing could be said."""
        self._left_out_count += 1
        if len(self._left_out) < TOLD:
            self._left_out.append(one)

    def answer(self, *, replace_overrides: bool) -> Simulation:
        """What it all came to."""
        return Simulation(
            start=self.stretch.start,
            end=self.stretch.end,
            replace_overrides=replace_overrides,
            totals=tuple(
                sums.answer(currency=currency, stretch=self.stretch)
                for currency, sums in sorted(self._sums.items())
            ),
            not_simulated_count=self._left_out_count,
            not_simulated=tuple(self._left_out),
        )


class _Sums:
    """Of one currency."""

    def __init__(self) -> None:
        self.charges = self.billed = self.winners = self.losers = 0
        self.present = [0] * BUCKETS
        self.simulated = [0] * BUCKETS
        self.differences: list[int] = []
        self._increases: list[tuple[int, str, CustomerEffect]] = []
        self._decreases: list[tuple[int, str, CustomerEffect]] = []

    def add(self, effect: CustomerEffect) -> None:
        self.charges += effect.charges
        self.billed += effect.billed_minor
        for bucket in range(BUCKETS):
            self.present[bucket] += effect.present[bucket]
            self.simulated[bucket] += effect.simulated[bucket]
        difference = effect.difference_minor
        self.differences.append(difference)
        self.winners += difference < 0
        self.losers += difference > 0
        if difference > 0:
            _keep(self._increases, (difference, effect.customer, effect))
        elif difference < 0:
            _keep(self._decreases, (-difference, effect.customer, effect))

    def answer(self, *, currency: str, stretch: Stretch) -> CurrencyEffect:
        present, simulated = sum(self.present), sum(self.simulated)
        months = stretch.months
        recurring, usage = (
            Monthly.of(self.present[bucket], self.simulated[bucket], months=months)
            for bucket in (RECURRING, USAGE)
        )
        count = len(self.differences)
        return CurrencyEffect(
            currency=currency,
            customers=count,
            charges=self.charges,
            billed=format_amount(self.billed, currency=currency),
            waiting=format_amount(present - self.billed, currency=currency),
            present=format_amount(present, currency=currency),
            simulated=format_amount(simulated, currency=currency),
            difference=format_amount(simulated - present, currency=currency),
            percent=percent_of(difference=simulated - present, present=present),
            recurring=recurring.told(currency),
            usage=usage.told(currency),
            mrr=recurring.plus(usage).told(currency),
            winners=self.winners,
            losers=self.losers,
            unchanged=count - self.winners - self.losers,
            largest_decreases=_told(self._decreases, currency),
            largest_increases=_told(self._increases, currency),
            histogram=histogram(differences=self.differences, currency=currency),
        )


def _keep(
    heap: list[tuple[int, str, CustomerEffect]], one: tuple[int, str, CustomerEffect]
) -> None:
    """The largest TOLD; customers are named once, so effects are never compared."""
    if len(heap) < TOLD:
        heapq.heappush(heap, one)
    else:
        heapq.heappushpop(heap, one)


def _told(
    heap: Sequence[tuple[int, str, CustomerEffect]], currency: str
) -> tuple[CustomerDifference, ...]:
    ordered = sorted(heap, key=lambda one: (-one[0], one[1]))
    return tuple(
        CustomerDifference(
            customer=effect.customer,
            present=format_amount(sum(effect.present), currency=currency),
            simulated=format_amount(sum(effect.simulated), currency=currency),
            difference=format_amount(effect.difference_minor, currency=currency),
        )
        for _, _, effect in ordered
    )


def percent_of(*, difference: int, present: int) -> str | None:
    """The difference in per cent of what is paid now, with two digits; None where that is none."""
    if present <= 0:
        return None
    hundredths = round_ratio(difference * 10_000, present, rounding=Rounding.HALF_UP)
    return f"{'-' if hundredths < 0 else ''}{abs(hundredths) // 100}.{abs(hundredths) % 100:02}"


def histogram(*, differences: Sequence[int], currency: str) -> tuple[Bin, ...]:
    """Customers by their difference in minor units, in classes of one round width.

    Nine tenths of those who pay something else lie in classes with two bounds at least; whoever
    lies beyond is in an open one. Those who pay the same are in none.
    """
    sizes = sorted(abs(one) for one in differences if one)
    if not sizes:
        return ()
    width = round_width(least=-(-sizes[(len(sizes) - 1) * 9 // 10] // BINS))
    counts: dict[int, int] = {}
    for one in differences:
        if one:
            place = min(-(-abs(one) // width), BINS + 1)
            place = place if one > 0 else -place
            counts[place] = counts.get(place, 0) + 1
    # From zero on without a gap, so that the picture shows where it lies.
    return tuple(
        _bin(place, counts.get(place, 0), width, currency)
        for place in range(min(*counts, 1), max(*counts, -1) + 1)
        if place
    )


def _bin(place: int, customers: int, width: int, currency: str) -> Bin:
    near, far = (abs(place) - 1) * width, abs(place) * width
    sign = 1 if place > 0 else -1
    bounds = [sign * near, sign * far]
    inner = format_amount(bounds[0], currency=currency)
    outer = None if abs(place) > BINS else format_amount(bounds[1], currency=currency)
    low, high = (inner, outer) if place > 0 else (outer, inner)
    return Bin(low=low, high=high, customers=customers)


def round_width(*, least: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50 … that is no smaller."""
    width = 1
    while True:
        for factor in (1, 2, 5):
            if factor * width >= least:
                return factor * width
        width *= 10


def csv_row(effect: CustomerEffect) -> list[str]:
    """The cells of COLUMNS."""
    present = sum(effect.present)
    row = {
        "customer": effect.customer,
        "currency": effect.currency,
        "charges": effect.charges,
        "billed": effect.billed_minor,
        "waiting": present - effect.billed_minor,
        "present": present,
        "simulated": sum(effect.simulated),
        "difference": effect.difference_minor,
        "percent": percent_of(difference=effect.difference_minor, present=present),
    }
    return format_row(row, columns=COLUMNS)
