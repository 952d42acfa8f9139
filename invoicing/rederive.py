"""Verb: derive every posted charge again, from the facts alone, and compare. Reads only.

What waits to be billed (late usage, a change not yet billed) is a difference by design: keys that
such facts touch are left to the next billing run.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.ids import unix_micros
from engine.money import format_amount
from engine.period import Period
from invoicing.charges import Charge, ProrationTerms, charges_due, vanished_charge
from invoicing.commitments import Counted, counts_towards, is_counted, shortfall
from invoicing.difference import Difference, PostedLine, RatedCharge, differences_of
from invoicing.posted_columns import Late
from invoicing.posted_columns_store import last_of_page, members_between, posted_between
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import rate_charges
from invoicing.rederive_alike import FEW, SharedTerms
from metering.measure import sweep_inbox
from plans.agreement import Agreement
from plans.model import Seller
from plans.prices import Kind
from plans.subscription_store import PriceBook, find_agreements

PAGE: Final = 20_000
FEWER: Final = 2_000
"""So many subscriptions are derived together when each is looked at by itself."""
TOLD: Final = 1_000
FIRST_NUMBER: Final = -1


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A charge key whose posted lines do not sum to what the facts give."""

    subscription: str
    price: str
    period_start_at: datetime
    document: str | None
    posted: str
    derived: str


class Rederived(msgspec.Struct, frozen=True, kw_only=True):
    """How many charges were derived again, how many are waiting to be billed, and what differs."""

    charges: int
    together: int
    """Of the charges, those of subscriptions that were derived at once."""
    pending: int
    differing: int
    mismatches: tuple[Mismatch, ...]
    """Of those that differ the first, up to TOLD."""


async def rederive(
    *,
    connection: AsyncConnection,
    seller: Seller,
    report: Callable[[int], None] | None = None,
    page: int = PAGE,
    few: int = FEW,
) -> Rederived:
    """Derive all posted charges of the seller named in the transaction; memory is bounded.

    Works in any role that may read, in a snapshot transaction. `report` hears how many charges
    are done; `page` is how many customers are looked at together. Subscriptions of the same terms
    are derived and compared at once, unless fewer than `few` share theirs on average; whoever
    differs there, or is out of the ordinary, one by one.
    """
    customers, micros = await sweep_inbox(connection=connection, take=False)
    late, waiting = Late(customer=customers, micros=micros), dict[int, int]()
    shared, book = SharedTerms(seller=seller, few=few), PriceBook()
    charges = pending = together = differing = 0
    mismatches: list[Mismatch] = []
    after = FIRST_NUMBER
    while last := await last_of_page(connection=connection, after=after, customers=page):
        between = {"after": after, "last": last}
        members = await members_between(connection=connection, **between)
        posted = await posted_between(connection=connection, **between)
        found = await shared.compare(
            connection=connection, members=members, late=late, posted=posted
        )
        charges, pending = charges + found.charges, pending + found.pending
        together += found.charges
        if found.one_by_one and len(customers) and not waiting:
            waiting = dict(zip(customers.tolist(), micros.tolist(), strict=True))
        for begin in range(0, len(found.one_by_one), FEWER):
            some = [members[place].id for place in found.one_by_one[begin : begin + FEWER]]
            agreements = await find_agreements(connection=connection, subscriptions=some, book=book)
            done, left, wrong = await _compare(connection, seller, agreements, waiting)
            charges, pending = charges + done, pending + left
            differing += len(wrong)
            mismatches += wrong[: TOLD - len(mismatches)]
            if report is not None:
                report(charges)
        after = last
        if report is not None:
            report(charges)
    return Rederived(
        charges=charges,
        together=together,
        pending=pending,
        differing=differing,
        mismatches=tuple(mismatches),
    )


async def _compare(
    connection: AsyncConnection,
    seller: Seller,
    agreements: Sequence[Agreement],
    late: dict[int, int],
) -> tuple[int, int, list[Mismatch]]:
    terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    intervals = [stretch.id for agreement in agreements for stretch in agreement.intervals]
    posted = await posted_lines(connection=connection, intervals=intervals)
    starts: dict[str, list[datetime]] = {}
    for interval, start in posted:
        starts.setdefault(interval, []).append(start)
    settled: list[Charge] = []
    pending = 0
    for agreement in agreements:
        done, waiting = _settled(agreement, _all_charges(agreement, starts, terms), late)
        settled += done
        pending += waiting
    by_charge: dict[tuple[str, datetime], list[RatedCharge]] = {}
    counted: dict[str, list[Counted]] = {}
    rated_lines = await rate_charges(connection=connection, seller=seller, charges=settled)
    for line in rated_lines:
        by_charge.setdefault(line.charge.key, []).append(line)
        if is_counted(line.charge.stretch):
            of_agreement = counted.setdefault(line.charge.agreement.id, [])
            of_agreement.append((line.charge.active.start, line.amount_minor))
    for line in rated_lines:
        if line.charge.is_commitment:
            reached = counted.get(line.charge.agreement.id, ())
            by_charge[line.charge.key] = [shortfall(rated=line, counted=reached)]
    wrong: list[Mismatch] = []
    for charge in settled:
        lines = posted.get(charge.key, ())
        rated = by_charge.get(charge.key, ())
        for difference in differences_of(rated=rated, charge=charge, posted=lines):
            mine = [line for line in lines if line.group == difference.group]
            wrong.append(_mismatch(difference, mine))
    return len(settled), pending, wrong


def _settled(
    agreement: Agreement, charges: Sequence[Charge], late: dict[int, int]
) -> tuple[list[Charge], int]:
    """The charges that no unbilled fact touches, and the count of the others.

    A commitment waits with what counts towards it.
    """
    waiting = [each for each in charges if _is_pending(each, agreement.dirty_from_at, late)]
    starts = {each.active.start for each in waiting if is_counted(each.stretch)}
    held = {each.key for each in waiting}
    held |= {
        each.key
        for each in charges
        if each.is_commitment
        and any(counts_towards(start=start, commitment=each) for start in starts)
    }
    return [each for each in charges if each.key not in held], len(held)


def _mismatch(difference: Difference, lines: Sequence[PostedLine]) -> Mismatch:
    charge = difference.charge
    currency = charge.agreement.currency
    already = sum(line.amount_minor for line in lines if line.counts)
    return Mismatch(
        subscription=charge.agreement.key,
        price=charge.stretch.price.key,
        period_start_at=charge.period.start,
        document=lines[-1].document if lines else None,
        posted=format_amount(already, currency=currency),
        derived=format_amount(already + difference.amount_minor, currency=currency),
    )


def _all_charges(
    agreement: Agreement, starts: dict[str, list[datetime]], terms: ProrationTerms
) -> list[Charge]:
    """Every charge due up to where the subscription is derived, and every other key posted."""
    through = agreement.derived_through_at
    if through is None:
        return _never_due(agreement, starts)
    fresh = msgspec.structs.replace(agreement, derived_through_at=None, dirty_from_at=None)
    charges = charges_due(agreement=fresh, through=through, terms=terms)
    if agreement.dirty_from_at is not None:
        charges = [msgspec.structs.replace(charge, agreement=agreement) for charge in charges]
    known = {charge.key for charge in charges}
    everything = msgspec.structs.replace(agreement, dirty_from_at=agreement.starts_at)
    for stretch in agreement.intervals:
        for start in starts.get(stretch.id, ()):
            if (stretch.id, start) in known:
                continue
            gone = vanished_charge(
                agreement=everything,
                stretch=stretch,
                period_start=start,
                terms=terms,
                through=through,
            )
            if gone is not None:
                charges.append(msgspec.structs.replace(gone, agreement=agreement))
    return charges


def _never_due(agreement: Agreement, starts: dict[str, list[datetime]]) -> list[Charge]:
    """Posted keys of a subscription of which nothing was ever derived: nothing is owed of them.

    Only spending thresholds bill usage before it falls due.
    """
    return [
        Charge(
            agreement=agreement,
            stretch=stretch,
            period=Period(start, start),
            active=Period(start, start),
            due_at=start,
            numerator=0,
            denominator=1,
        )
        for stretch in agreement.intervals
        for start in starts.get(stretch.id, ())
        if not (agreement.spend_thresholds and stretch.price.kind is Kind.USAGE)
    ]


def _is_pending(charge: Charge, dirty: datetime | None, late: dict[int, int]) -> bool:
    """Whether a fact that no run has billed yet touches the charge."""
    if dirty is not None and charge.period.end > dirty:
        return True
    earliest = late.get(charge.agreement.customer_number)
    return charge.is_usage and earliest is not None and unix_micros(charge.active.end) > earliest
