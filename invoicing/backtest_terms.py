"""Subscriptions of the same terms, tried with two price lists at once, in columns. Pure.

What a kind owes is derived once for all its subscriptions, with the prices of now and with the
others; what both ask of the meters is asked once.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import parse_scaled
from invoicing.charges import INSTANT, Charge, ProrationTerms, charges_due
from invoicing.commitments import counts_towards, is_counted
from invoicing.rate_charges import NANO_DIGITS, charge_windows, closes_at_of, feed_of_charge
from invoicing.simulation import ONE_TIME, RECURRING, USAGE, Stretch
from metering.model import Windows
from plans.agreement import Agreement, PriceInterval
from plans.life import plain_quantity
from plans.model import Meter
from plans.prices import Kind as PriceKind
from plans.prices import Price

_Ints = NDArray[np.int64]
NO_WINDOW: Final = -1
"""In the place of a window: the quantity was agreed."""


class Reach(msgspec.Struct, frozen=True, kw_only=True):
    """The posted periods of an interval, by its place, that are looked at: [low, high)."""

    place: int
    low: datetime
    high: datetime


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """m charges of subscriptions that share their terms: the present ones, then the supposed ones.

    `plain` are those that one quantity decides: window[i] is measured, or so many billionths were
    agreed; rows[i] is an index into `prices`. `parts` are the others. `counts` tells which are
    looked at, the rest only decides what a commitment comes to: pledge (charge, those that count
    towards it).
    With `is_touched` False there are no supposed ones: they are the present ones.
    """

    agreement: Agreement
    is_touched: bool
    supposed: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    bucket: NDArray[np.int8]
    plain: _Ints
    window: _Ints
    agreed_nanos: NDArray[np.object_]
    rows: _Ints
    numerator: _Ints
    denominator: _Ints
    prices: tuple[tuple[str, Price], ...]
    windows: Windows | None
    parts: tuple[tuple[int, Charge], ...]
    pledges: tuple[tuple[int, _Ints], ...]
    reaches: tuple[Reach, ...]

    @property
    def present_count(self) -> int:
        """How many of the present charges are looked at."""
        return int((self.counts & ~self.supposed).sum())


def owed_charges(*, agreement: Agreement, through: datetime, terms: ProrationTerms) -> list[Charge]:
    """Every charge due by the instant, as if nothing were posted."""
    fresh = msgspec.structs.replace(agreement, derived_through_at=None, dirty_from_at=None)
    charges = charges_due(agreement=fresh, through=through, terms=terms)
    return [charge for charge in charges if not charge.is_gone]


def told_intervals(intervals: Sequence[PriceInterval]) -> list[PriceInterval]:
    """The intervals in their order, but for how each is named and written."""
    return [
        msgspec.structs.replace(one, id="", number=0, quantity=plain_quantity(one.quantity))
        for one in intervals
    ]


def told_charges(charges: Sequence[Charge]) -> list[tuple[object, ...]]:
    """What decides the amounts of charges, whichever intervals they are of; sorted."""
    found = [
        (
            one.stretch.price_id,
            one.active.start,
            one.active.end,
            one.period.start,
            one.period.end,
            one.numerator,
            one.denominator,
            parse_scaled(one.stretch.quantity, digits=NANO_DIGITS),
        )
        for one in charges
    ]
    return sorted(found)


def kind_of(
    *,
    agreement: Agreement,
    present: Sequence[Charge],
    supposed: Sequence[Charge] | None,
    stretch: Stretch,
    meters: Mapping[str, Meter],
) -> Kind:
    """The kind of a subscription, told by what it owes; `supposed` None where nothing differs."""
    charges: list[Charge] = []
    pledges = _chosen(present, stretch, charges)
    first = len(charges)
    pledges += _chosen(supposed or (), stretch, charges)
    is_part = _by_price(charges, lambda one: feed_of_charge(one) is not None)
    plain = [index for index, part in enumerate(is_part) if not part]
    rated = [charges[index] for index in plain]
    windows, window = _windows(rated, meters)
    prices: dict[str, tuple[int, Price]] = {}
    for one in rated:
        prices.setdefault(one.stretch.price_id, (len(prices), one.stretch.price))
    texts = {one.stretch.quantity for one in rated}
    agreed = {text: parse_scaled(text, digits=NANO_DIGITS) for text in texts}
    return Kind(
        agreement=msgspec.structs.replace(agreement, intervals=()),
        is_touched=supposed is not None,
        supposed=np.arange(len(charges)) >= first,
        counts=np.array([stretch.holds(one) for one in charges], dtype=np.bool_),
        bucket=np.array(_by_price(charges, _bucket), dtype=np.int8),
        plain=np.array(plain, dtype=np.int64),
        window=window,
        agreed_nanos=np.array([agreed[one.stretch.quantity] for one in rated], dtype=object),
        rows=np.array([prices[one.stretch.price_id][0] for one in rated], dtype=np.int64),
        numerator=np.array([one.numerator for one in rated], dtype=np.int64),
        denominator=np.array([one.denominator for one in rated], dtype=np.int64),
        prices=tuple((price_id, price) for price_id, (_, price) in prices.items()),
        windows=windows,
        parts=tuple((index, charges[index]) for index, part in enumerate(is_part) if part),
        pledges=tuple(pledges),
        reaches=_reaches(agreement, present, stretch),
    )


def _by_price(charges: Sequence[Charge], ask: Callable[[Charge], int]) -> list[int]:
    """What is the same for all charges of a price, asked once for each."""
    known: dict[str, int] = {}
    for one in charges:
        if one.stretch.price_id not in known:
            known[one.stretch.price_id] = ask(one)
    return [known[one.stretch.price_id] for one in charges]


def _needed(charges: Sequence[Charge], stretch: Stretch) -> list[Charge]:
    """Those looked at, and those that count towards a commitment that is."""
    pledged = [one for one in charges if one.is_commitment and stretch.holds(one)]
    return [
        one
        for one in charges
        if stretch.holds(one)
        or (
            is_counted(one.stretch)
            and any(counts_towards(start=one.active.start, commitment=each) for each in pledged)
        )
    ]


def _chosen(
    side: Sequence[Charge], stretch: Stretch, charges: list[Charge]
) -> list[tuple[int, _Ints]]:
    """Add what is needed of one side to the charges; give its pledges."""
    begin = len(charges)
    charges += _needed(side, stretch)
    counted = [
        (index, one.active.start)
        for index, one in enumerate(charges[begin:], start=begin)
        if is_counted(one.stretch)
    ]
    return [
        (
            index,
            np.array(
                [
                    place
                    for place, start in counted
                    if counts_towards(start=start, commitment=charges[index])
                ],
                dtype=np.int64,
            ),
        )
        for index in range(begin, len(charges))
        if charges[index].is_commitment
    ]


def _bucket(charge: Charge) -> int:
    match charge.stretch.price.kind:
        case PriceKind.ONE_TIME:
            return ONE_TIME
        case PriceKind.USAGE:
            return USAGE
        case PriceKind.RECURRING | PriceKind.COMMITMENT:
            return RECURRING


def _windows(
    charges: Sequence[Charge], meters: Mapping[str, Meter]
) -> tuple[Windows | None, _Ints]:
    """The windows of usage charges, each once, and which is each charge's."""
    window = np.full(len(charges), NO_WINDOW, dtype=np.int64)
    known: dict[tuple[object, ...], int] = {}
    first: list[Charge] = []
    for index, one in enumerate(charges):
        if not one.is_usage:
            continue
        key = (one.stretch.price.meter, one.active, one.period, closes_at_of(one))
        if key not in known:
            known[key] = len(first)
            first.append(one)
        window[index] = known[key]
    return charge_windows(meters=meters, charges=first) if first else None, window


def _reaches(
    agreement: Agreement, present: Sequence[Charge], stretch: Stretch
) -> tuple[Reach, ...]:
    starts: dict[str, list[datetime]] = {}
    before: dict[str, list[datetime]] = {}
    after: dict[str, list[datetime]] = {}
    for charge in present:
        kept = starts
        if not stretch.holds(charge):
            kept = after if charge.active.end > stretch.end else before
        kept.setdefault(charge.stretch.id, []).append(charge.period.start)
    found: list[Reach] = []
    for place, interval in enumerate(agreement.intervals):
        mine = starts.get(interval.id, [])
        over = _ends_within(interval, stretch)
        if mine or over:
            low = min(mine, default=_following(before.get(interval.id), interval.start_at))
            # A period that is owed whole although its interval ended ends in another stretch.
            high = max(mine) + INSTANT if mine else low
            if over:
                high = min([stretch.end, *after.get(interval.id, [])])
            found.append(Reach(place=place, low=low, high=max(high, low)))
    return tuple(found)


def _following(starts: Sequence[datetime] | None, otherwise: datetime) -> datetime:
    return max(starts) + INSTANT if starts else otherwise


def _ends_within(interval: PriceInterval, stretch: Stretch) -> bool:
    """Whether whatever was posted beyond its end, before that was known, is looked at too."""
    if interval.price.kind is PriceKind.ONE_TIME or interval.end_at is None:
        return False
    return stretch.start < interval.end_at <= stretch.end
