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
from invoicing.blame import is_of_what_is_stored, reason_of
from invoicing.charges import Charge, ProrationTerms, charges_due, vanished_charge
from invoicing.commitments import Counted, counts_towards, is_counted, shortfall
from invoicing.difference import Difference, PostedLine, RatedCharge, differences_of
from invoicing.posted_columns import Late
from invoicing.posted_columns_store import (
    keys_between,
    last_of_page,
    members_between,
    posted_between,
)
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import rate_charges
from invoicing.rederive_alike import FEW, SharedTerms, overlooked_at
from invoicing.rederive_quantity import Told, not_what_they_charge, otherwise_told
from metering.measure import sweep_inbox
from plans.agreement import Agreement
from plans.model import Seller
from plans.prices import Kind
from plans.subscription_store import PriceBook, find_agreements

PAGE: Final = 20_000
FEWER: Final = 2_000
"""So many subscriptions are derived together when each is looked at by itself."""
TOLD: Final = 1_000
FAILURES: Final = 20
"""So many who cannot be derived are looked for one by one."""
NAMED: Final = 5
FIRST_NUMBER: Final = -1


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """A charge key whose posted lines do not sum to what the facts give."""

    subscription: str
    price: str
    period_start_at: datetime
    document: str | None
    posted: str
    derived: str


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """Anything else that is not as it must be: of whom, and what."""

    object: str
    detail: str


class OneByOne(msgspec.Struct, kw_only=True):
    """Subscriptions looked at one by one: how many charges are settled and wait, what differs."""

    charges: int
    pending: int = 0
    wrong: list[Mismatch | Doubt] = msgspec.field(default_factory=list)


class Rederived(msgspec.Struct, frozen=True, kw_only=True):
    """How many charges were derived again, how many are waiting to be billed, and what differs."""

    charges: int
    together: int
    """Of the charges, those of subscriptions that were derived at once."""
    pending: int
    differing: int
    mismatches: tuple[Mismatch | Doubt, ...]
    """Of what differs the first, up to TOLD: also who cannot be derived, or found in time."""


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
    work = _Rederiving(
        connection=connection,
        seller=seller,
        late=Late(customer=customers, micros=micros),
        few=few,
        report=report,
    )
    after = FIRST_NUMBER
    while last := await last_of_page(connection=connection, after=after, customers=page):
        await work.take(after=after, last=last)
        after = last
    return work.answer()


class _Rederiving:
    """What is derived again so far."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        seller: Seller,
        late: Late,
        few: int,
        report: Callable[[int], None] | None,
    ) -> None:
        self._connection, self._seller, self._late = connection, seller, late
        self._report = report
        self._shared, self._book = SharedTerms(seller=seller, few=few), PriceBook()
        self._waiting: dict[int, int] = dict(
            zip(late.customer.tolist(), late.micros.tolist(), strict=True)
        )
        self._done = OneByOne(charges=0)
        self._together = self._differing = 0
        self._mismatches: list[Mismatch | Doubt] = []
        self._failures = 0

    def answer(self) -> Rederived:
        """All of it."""
        return Rederived(
            charges=self._done.charges,
            together=self._together,
            pending=self._done.pending,
            differing=self._differing,
            mismatches=tuple(self._mismatches),
        )

    async def take(self, *, after: int, last: int) -> None:
        """The customers with numbers in (after, last]; who cannot be derived is told apart.

        What fails is halved, so that the others are derived all the same, until so many customers
        have failed that something of all of them must be wrong.
        """
        try:
            async with self._connection.begin_nested():
                await self._page(after=after, last=last)
        except Exception as error:
            if not is_of_what_is_stored(error):
                raise
            failure = error
        else:
            return
        if last - after > 1 and self._failures < FAILURES:
            middle = (after + last) // 2
            await self.take(after=after, last=middle)
            await self.take(after=middle, last=last)
            return
        keys = await keys_between(connection=self._connection, after=after, last=last)
        told = ", ".join(keys[:NAMED]) + (" …" if len(keys) > NAMED else "")
        code, detail = reason_of(failure)
        self._failures += 1
        self._note([Doubt(object=told, detail=f"cannot be derived: {code}: {detail}")])

    async def _page(self, *, after: int, last: int) -> None:
        between = {"after": after, "last": last}
        members = await members_between(connection=self._connection, **between)
        posted = await posted_between(connection=self._connection, **between)
        found = await self._shared.compare(
            connection=self._connection, members=members, late=self._late, posted=posted
        )
        charges, pending = found.charges, found.pending
        wrong: list[Mismatch | Doubt] = []
        for begin in range(0, len(found.one_by_one), FEWER):
            some = [members[place].id for place in found.one_by_one[begin : begin + FEWER]]
            agreements = await find_agreements(
                connection=self._connection, subscriptions=some, book=self._book
            )
            alone = await _compare(self._connection, self._seller, agreements, self._waiting)
            charges, pending = charges + alone.charges, pending + alone.pending
            wrong += alone.wrong
            self._tell(self._done.charges + charges)
        self._done.charges += charges
        self._done.pending += pending
        self._together += found.charges
        self._note(wrong)
        self._tell(self._done.charges)

    def _note(self, wrong: Sequence[Mismatch | Doubt]) -> None:
        self._differing += len(wrong)
        self._mismatches += wrong[: TOLD - len(self._mismatches)]

    def _tell(self, charges: int) -> None:
        if self._report is not None:
            self._report(charges)


async def _compare(
    connection: AsyncConnection,
    seller: Seller,
    agreements: Sequence[Agreement],
    late: dict[int, int],
) -> OneByOne:
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
    found = [_found_late(agreement) for agreement in agreements]
    wrong: list[Mismatch | Doubt] = [each for each in found if each is not None]
    stale: list[Told] = []
    for charge in settled:
        lines = posted.get(charge.key, ())
        rated = by_charge.get(charge.key, ())
        differences = differences_of(rated=rated, charge=charge, posted=lines)
        for difference in differences:
            mine = [line for line in lines if line.group == difference.group]
            wrong.append(_mismatch(difference, mine))
        if not differences and lines:
            told, maybe = otherwise_told(rated=rated, posted=lines)
            wrong += [_told_wrong(each) for each in told]
            stale += maybe
    untrue = not_what_they_charge(stale=stale, rounding=seller.rounding)
    wrong += [_told_wrong(each) for each in untrue]
    return OneByOne(charges=len(settled), pending=pending, wrong=wrong)


def _found_late(agreement: Agreement) -> Doubt | None:
    """What no run would find when it falls due."""
    due_at = overlooked_at(agreement)
    if due_at is None:
        return None
    stored = agreement.next_due_at
    kept = "never" if stored is None else f"{stored:%Y-%m-%d %H:%M:%S}"
    detail = f"falls due {due_at:%Y-%m-%d %H:%M:%S}, is looked at {kept}"
    return Doubt(object=agreement.key, detail=detail)


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


def _told_wrong(told: Told) -> Doubt:
    charge = told.charge
    key = f"{charge.agreement.key} {charge.stretch.price.key} {charge.period.start:%Y-%m-%d}"
    return Doubt(object=key, detail=told.detail)


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
