"""Verb: derive what customers owe and what of it is not posted yet. Reads only."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.charges import Charge, ProrationTerms, charges_due, touched_from, vanished_charge
from invoicing.difference import Difference, RatedCharge, differences_of
from invoicing.rate_charges import rate_charges
from invoicing.store import DueCustomer, posted_lines
from plans.agreement import Agreement
from plans.model import Seller
from plans.subscription_store import PriceBook, agreements_of
from plans.timeline import next_change_at, next_due_at

Progress = tuple[str, int, datetime | None, datetime, datetime | None]


class Derived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one customer owes at one due instant beyond what is posted, and where that leaves it.

    `progress` names (subscription id, revision read, next due instant, derived through, next
    change).
    """

    due: DueCustomer
    differences: tuple[Difference, ...]
    progress: tuple[Progress, ...]


class Work(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One customer's subscriptions that a document is made of."""

    due: DueCustomer
    agreements: tuple[Agreement, ...]


async def load_work(
    *, connection: AsyncConnection, due: Sequence[DueCustomer], book: PriceBook
) -> list[Work]:
    """The subscriptions of each customer that are due at its instant, or touched since billed."""
    customers = [item.customer.id for item in due]
    by_customer: dict[str, list[Agreement]] = {}
    for agreement in await agreements_of(connection=connection, customers=customers, book=book):
        by_customer.setdefault(agreement.customer, []).append(agreement)
    work: list[Work] = []
    for item in due:
        chosen = [
            agreement
            for agreement in by_customer.get(item.customer.id, ())
            if _is_due(agreement, item.due_at)
        ]
        chosen.sort(key=lambda agreement: agreement.key)
        work.append(Work(due=item, agreements=tuple(chosen)))
    return work


def _is_due(agreement: Agreement, due_at: datetime) -> bool:
    if agreement.next_due_at is not None and agreement.next_due_at <= due_at:
        return True
    if _has_changed(agreement, due_at):
        return True
    return agreement.dirty_from_at is not None and agreement.derived_through_at is not None


def _has_changed(agreement: Agreement, due_at: datetime) -> bool:
    return agreement.next_change_at is not None and agreement.next_change_at <= due_at


def following_due(*, work: Sequence[Work]) -> datetime | None:
    """The earliest due instant that any of the customers has after the one being billed."""
    found: datetime | None = None
    for item in work:
        for agreement in item.agreements:
            due = next_due_at(agreement=agreement, after=item.due.due_at)
            if due is not None and (found is None or due < found):
                found = due
    return found


async def derive(
    *, connection: AsyncConnection, seller: Seller, work: Sequence[Work]
) -> list[Derived]:
    """Derive each unit of work: charges, quantities, amounts, the difference to what is posted.

    Raises BillingError where a charge cannot be derived; nothing is derived partially.
    """
    terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    touched = [
        stretch.id
        for item in work
        for agreement in item.agreements
        if touched_from(agreement, through=_through(agreement, item)) is not None
        for stretch in agreement.intervals
    ]
    posted = await posted_lines(connection=connection, intervals=touched)
    starts: dict[str, list[datetime]] = {}
    for interval, start in posted:
        starts.setdefault(interval, []).append(start)
    charges = [_charges_of(item, starts, terms) for item in work]
    flat = [charge for group in charges for charge in group]
    rated = await rate_charges(connection=connection, seller=seller, charges=flat)
    by_charge: dict[tuple[str, datetime], list[RatedCharge]] = {}
    for line in rated:
        by_charge.setdefault(line.charge.key, []).append(line)
    results: list[Derived] = []
    for item, group in zip(work, charges, strict=True):
        differences: list[Difference] = []
        for charge in group:
            key = charge.key
            differences += differences_of(
                rated=by_charge.get(key, ()), charge=charge, posted=posted.get(key, ())
            )
        results.append(
            Derived(due=item.due, differences=tuple(differences), progress=_progress(item))
        )
    return results


def _charges_of(
    item: Work, starts: Mapping[str, Sequence[datetime]], terms: ProrationTerms
) -> list[Charge]:
    charges: list[Charge] = []
    for agreement in item.agreements:
        through = _through(agreement, item)
        found = charges_due(agreement=agreement, through=through, terms=terms)
        charges.extend(found)
        if touched_from(agreement, through=through) is None:
            continue
        known = {charge.key for charge in found}
        for stretch in agreement.intervals:
            for start in starts.get(stretch.id, ()):
                if (stretch.id, start) in known:
                    continue
                vanished = vanished_charge(
                    agreement=agreement,
                    stretch=stretch,
                    period_start=start,
                    terms=terms,
                    through=through,
                )
                if vanished is not None:
                    charges.append(vanished)
    return charges


def _through(agreement: Agreement, item: Work) -> datetime:
    """Up to when a subscription is derived for the document of an instant.

    That instant, unless the subscription is derived beyond it: then what was touched since is taken
    up as of there, because posting says that nothing of it is left.
    """
    derived, due_at = agreement.derived_through_at, item.due.due_at
    return due_at if derived is None else max(derived, due_at)


def _progress(item: Work) -> tuple[Progress, ...]:
    due_at = item.due.due_at
    progress: list[Progress] = []
    for agreement in item.agreements:
        derived, through = agreement.derived_through_at, _through(agreement, item)
        due = agreement.next_due_at
        upcoming = due
        if due is None or due <= due_at:
            upcoming = next_due_at(agreement=agreement, after=through)
        elif not _has_changed(agreement, due_at):
            through = derived if derived is not None else due_at
        change = next_change_at(agreement=agreement, after=through)
        progress.append((agreement.id, agreement.revision, upcoming, through, change))
    return tuple(progress)
