"""Minimum commitments: what other charges come to, against the least that was agreed. Pure.

A commitment counts the usage and recurring charges of its subscription that begin while it runs,
at their own amounts. It is derived after them, and again whenever one of them is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

import msgspec

from engine.period import period_holding
from invoicing.charges import Charge, ProrationTerms, charge_for
from invoicing.difference import PostedLine, RatedCharge, credits_of
from plans.agreement import Agreement, PriceInterval
from plans.prices import Kind
from plans.timeline import calendar_of

Counted = tuple[datetime, int]
"""Where a counted charge begins, and minor units of it."""
ChargeKey = tuple[str, datetime]
"""A price interval and the begin of a period."""


def has_commitment(agreement: Agreement) -> bool:
    """Whether any of its price intervals is a minimum commitment."""
    return any(stretch.price.kind is Kind.COMMITMENT for stretch in agreement.intervals)


def is_counted(stretch: PriceInterval) -> bool:
    """Whether charges of the interval count towards a minimum."""
    return stretch.price.kind in {Kind.RECURRING, Kind.USAGE}


def counts_towards(*, start: datetime, commitment: Charge) -> bool:
    """Whether a charge that begins at `start` belongs to the commitment's stretch."""
    active = commitment.active
    return active.start <= start < active.end or start == active.start


def commitments_touched(
    *,
    agreement: Agreement,
    charges: Sequence[Charge],
    terms: ProrationTerms,
    through: datetime,
) -> list[Charge]:
    """The commitments due by `through` that the charges count towards, without those among them."""
    pledged = [each for each in agreement.intervals if each.price.kind is Kind.COMMITMENT]
    if not pledged:
        return []
    known = {charge.key for charge in charges}
    found: list[Charge] = []
    for start in sorted({one.active.start for one in charges if is_counted(one.stretch)}):
        for stretch in pledged:
            if start < stretch.start_at or (stretch.end_at is not None and start >= stretch.end_at):
                continue
            calendar = calendar_of(agreement=agreement, stretch=stretch)
            charge = charge_for(
                agreement=agreement,
                stretch=stretch,
                period=period_holding(calendar=calendar, at=start),
                terms=terms,
                through=through,
            )
            if charge.due_at <= through and charge.key not in known:
                known.add(charge.key)
                found.append(charge)
    return found


def counted_in_all(
    *,
    agreement: Agreement,
    posted: Mapping[ChargeKey, Sequence[PostedLine]],
    starts: Mapping[str, Sequence[datetime]],
    derived: Mapping[ChargeKey, Counted],
) -> Iterator[Counted]:
    """What each counted charge comes to: as it was derived just now, else what is posted of it.

    The two differ where less than the difference is posted, because of a credit by hand: a minimum
    does not see that.
    """
    for stretch in agreement.intervals:
        if not is_counted(stretch):
            continue
        for start in starts.get(stretch.id, ()):
            if (stretch.id, start) not in derived:
                lines = posted[stretch.id, start]
                amount = sum(line.amount_minor for line in lines if line.counts)
                yield max(start, stretch.start_at), amount
    yield from derived.values()


def credited_charges(
    *,
    agreement: Agreement,
    charges: Sequence[Charge],
    posted: Mapping[ChargeKey, Sequence[PostedLine]],
    starts: Mapping[str, Sequence[datetime]],
    terms: ProrationTerms,
    through: datetime,
) -> list[Charge]:
    """Charges beside those given that a minimum among them counts, credited in part by hand.

    What is posted of these may be more than they come to: they are derived to tell.
    """
    pledged = [charge for charge in charges if charge.is_commitment]
    known = {charge.key for charge in charges}
    found: list[Charge] = []
    for stretch in agreement.intervals if pledged else ():
        for start in starts.get(stretch.id, ()):
            key = stretch.id, start
            begins = max(start, stretch.start_at)
            if (
                key in known
                or not is_counted(stretch)
                or not credits_of(posted[key])
                or not any(counts_towards(start=begins, commitment=each) for each in pledged)
            ):
                continue
            calendar = calendar_of(agreement=agreement, stretch=stretch)
            charge = charge_for(
                agreement=agreement,
                stretch=stretch,
                period=period_holding(calendar=calendar, at=start),
                terms=terms,
                through=through,
            )
            if charge.due_at <= through:
                found.append(charge)
    return found


def shortfall(*, rated: RatedCharge, counted: Iterable[Counted]) -> RatedCharge:
    """The commitment's own charge: its minimum for the stretch less what counts, never below zero.

    `rated` has the minimum, prorated and rounded, as its amount.
    """
    reached = sum(
        amount for start, amount in counted if counts_towards(start=start, commitment=rated.charge)
    )
    return msgspec.structs.replace(rated, amount_minor=max(rated.amount_minor - reached, 0))
