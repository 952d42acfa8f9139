"""Verb: derive what customers owe and what of it is not posted yet. Reads only."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.charges import (
    Charge,
    ProrationTerms,
    charges_due,
    may_be_posted,
    running_usage,
    touched_from,
    vanished_charge,
)
from invoicing.commitments import (
    ChargeKey,
    Counted,
    commitments_touched,
    counted_in_all,
    credited_charges,
    has_commitment,
    is_counted,
    shortfall,
)
from invoicing.difference import Difference, PostedLine, RatedCharge, differences_of
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import rate_charges
from invoicing.work_store import DueCustomer
from metering.measure import sweep_inbox
from plans.agreement import Agreement
from plans.model import Seller
from plans.subscription_store import PriceBook, agreements_billed_to
from plans.timeline import next_change_at, next_due_at

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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
    """One customer's subscriptions that a document is made of, and when others of it fall due."""

    due: DueCustomer
    agreements: tuple[Agreement, ...]
    others_due_at: datetime | None


async def load_work(
    *, connection: AsyncConnection, due: Sequence[DueCustomer], book: PriceBook
) -> list[Work]:
    """The subscriptions billed to each customer that are due at its instant, or were touched."""
    customers = [item.customer.id for item in due]
    by_customer: dict[str, list[Agreement]] = {}
    agreements = await agreements_billed_to(connection=connection, customers=customers, book=book)
    for agreement in agreements:
        by_customer.setdefault(agreement.bill_to, []).append(agreement)
    work: list[Work] = []
    for item in due:
        chosen: list[Agreement] = []
        others: list[datetime] = []
        for agreement in by_customer.get(item.customer.id, ()):
            if _is_due(agreement, item.due_at):
                chosen.append(agreement)
            elif agreement.next_due_at is not None:
                others.append(agreement.next_due_at)
        chosen.sort(key=lambda agreement: agreement.key)
        first = min(others, default=None)
        work.append(Work(due=item, agreements=tuple(chosen), others_due_at=first))
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
        upcoming = [
            next_due_at(agreement=agreement, after=item.due.due_at) for agreement in item.agreements
        ]
        for due in (item.others_due_at, *upcoming):
            if due is not None and (found is None or due < found):
                found = due
    return found


def up_to_following(*, work: Sequence[Work]) -> list[Work]:
    """The work before any customer's next due instant: documents are numbered in due order."""
    following = following_due(work=work)
    if following is None:
        return list(work)
    return [item for item in work if item.due.due_at < following]


async def derive(
    *, connection: AsyncConnection, seller: Seller, work: Sequence[Work]
) -> list[Derived]:
    """Derive each unit of work: charges, quantities, amounts, the difference to what is posted.

    Raises BillingError where a charge cannot be derived; nothing is derived partially.
    """
    reaches = [
        (agreement, _through(agreement, item)) for item in work for agreement in item.agreements
    ]
    found = iter(await derive_each(connection=connection, seller=seller, reaches=reaches))
    return [
        Derived(
            due=item.due,
            differences=tuple(line for _ in item.agreements for line in next(found)),
            progress=_progress(item),
        )
        for item in work
    ]


async def derive_each(
    *, connection: AsyncConnection, seller: Seller, reaches: Sequence[tuple[Agreement, datetime]]
) -> list[list[Difference]]:
    """What each subscription owes through its instant beyond what is posted.

    The subscriptions are taken as they are given, whether that is how they are recorded or not;
    none may be given twice.
    """
    terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    touched = [
        stretch.id
        for agreement, through in reaches
        if touched_from(agreement, through=through) is not None
        or may_be_posted(agreement)
        or has_commitment(agreement)
        or agreement.spend_thresholds
        for stretch in agreement.intervals
    ]
    posted = await posted_lines(connection=connection, intervals=touched)
    starts: dict[str, list[datetime]] = {}
    for interval, start in posted:
        starts.setdefault(interval, []).append(start)
    charges = [
        _charges_of(agreement, through, posted, starts, terms) for agreement, through in reaches
    ]
    flat = [charge for group in charges for charge in group]
    rated = await rate_charges(connection=connection, seller=seller, charges=flat)
    by_charge: dict[ChargeKey, list[RatedCharge]] = {}
    for line in rated:
        by_charge.setdefault(line.charge.key, []).append(line)
    found = [_differences(group, by_charge, posted) for group in charges]
    for place, group in enumerate(charges):
        if not any(charge.is_commitment for charge in group):
            continue
        counted = list(
            counted_in_all(
                agreement=reaches[place][0],
                posted=posted,
                starts=starts,
                derived=_counted(group, by_charge),
            )
        )
        pledged = {
            charge.key: [shortfall(rated=line, counted=counted) for line in by_charge[charge.key]]
            for charge in group
            if charge.is_commitment and charge.key in by_charge
        }
        found[place] += _differences(group, pledged, posted, commitments=True)
    return found


def _counted(
    charges: Sequence[Charge], rated: Mapping[ChargeKey, Sequence[RatedCharge]]
) -> dict[ChargeKey, Counted]:
    """What the charges that count towards a minimum come to."""
    return {
        charge.key: (
            charge.active.start,
            sum(line.amount_minor for line in rated.get(charge.key, ())),
        )
        for charge in charges
        if is_counted(charge.stretch)
    }


def _differences(
    charges: Sequence[Charge],
    rated: Mapping[ChargeKey, Sequence[RatedCharge]],
    posted: Mapping[ChargeKey, Sequence[PostedLine]],
    *,
    commitments: bool = False,
) -> list[Difference]:
    """Those of the charges that are commitments, or of all the others."""
    return [
        difference
        for charge in charges
        if charge.is_commitment is commitments
        for difference in differences_of(
            rated=rated.get(charge.key, ()), charge=charge, posted=posted.get(charge.key, ())
        )
    ]


async def late_usage(*, connection: AsyncConnection) -> dict[int, int]:
    """The earliest usage, in Unix microseconds, that came since the last sweep, by customer."""
    customers, micros = await sweep_inbox(connection=connection, take=False)
    return dict(zip(customers.tolist(), micros.tolist(), strict=True))


def with_late_usage(*, agreement: Agreement, late: Mapping[int, int]) -> Agreement:
    """The subscription as a sweep would mark it."""
    micros, derived = late.get(agreement.customer_number), agreement.derived_through_at
    if micros is None or derived is None:
        return agreement
    first_at = EPOCH + timedelta(microseconds=micros)
    if derived <= first_at:
        return agreement
    dirty = agreement.dirty_from_at
    return msgspec.structs.replace(
        agreement, dirty_from_at=first_at if dirty is None else min(dirty, first_at)
    )


def _charges_of(
    agreement: Agreement,
    through: datetime,
    posted: Mapping[ChargeKey, Sequence[PostedLine]],
    starts: Mapping[str, Sequence[datetime]],
    terms: ProrationTerms,
) -> list[Charge]:
    charges = charges_due(agreement=agreement, through=through, terms=terms)
    if touched_from(agreement, through=through) is not None:
        charges += _vanished(agreement, charges, through, starts, terms)
    if agreement.interim_at is not None:
        charges += running_usage(agreement=agreement, at=through, terms=terms)
    charges += commitments_touched(
        agreement=agreement, charges=charges, terms=terms, through=through
    )
    return charges + credited_charges(
        agreement=agreement,
        charges=charges,
        posted=posted,
        starts=starts,
        terms=terms,
        through=through,
    )


def _vanished(
    agreement: Agreement,
    charges: Sequence[Charge],
    through: datetime,
    starts: Mapping[str, Sequence[datetime]],
    terms: ProrationTerms,
) -> list[Charge]:
    """Charges of posted keys that the timeline no longer holds, or not in what is due."""
    known = {charge.key for charge in charges}
    found: list[Charge] = []
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
                found.append(vanished)
    return found


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
