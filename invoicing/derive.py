"""Verb: derive what customers owe and what of it is not posted yet. Reads only."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.ids import unix_micros
from engine.money import parse_scaled
from invoicing.charges import Charge, ProrationTerms, charges_due, touched_from, vanished_charge
from invoicing.difference import Difference, RatedCharge, difference_of
from invoicing.store import DueCustomer, posted_lines
from metering.measure import measure
from metering.model import Measured, Windows
from plans.agreement import Agreement
from plans.model import Meter, Seller
from plans.prices import Price
from plans.store import meters_by_key
from plans.subscription_store import PriceBook, agreements_of
from plans.timeline import next_due_at
from rating.rate import Quantities, rate
from rating.tables import compile_prices

NANO_DIGITS: Final = 9


class Derived(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one customer owes at one due instant beyond what is posted, and where that leaves it.

    `progress` names (subscription id, revision read, next due instant, derived through).
    """

    due: DueCustomer
    differences: tuple[Difference, ...]
    progress: tuple[tuple[str, int, datetime | None, datetime], ...]


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
    return agreement.dirty_from_at is not None and agreement.derived_through_at is not None


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
    results: list[Derived] = []
    position = 0
    for item, group in zip(work, charges, strict=True):
        differences: list[Difference] = []
        for single in rated[position : position + len(group)]:
            found = difference_of(rated=single, posted=posted.get(single.charge.key, ()))
            if found is not None:
                differences.append(found)
        position += len(group)
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


def _progress(item: Work) -> tuple[tuple[str, int, datetime | None, datetime], ...]:
    due_at = item.due.due_at
    progress: list[tuple[str, int, datetime | None, datetime]] = []
    for agreement in item.agreements:
        derived, through = agreement.derived_through_at, _through(agreement, item)
        if agreement.next_due_at is not None and agreement.next_due_at > due_at:
            through = derived if derived is not None else due_at
            upcoming: datetime | None = agreement.next_due_at
        else:
            upcoming = next_due_at(agreement=agreement, after=through)
        progress.append((agreement.id, agreement.revision, upcoming, through))
    return tuple(progress)


async def rate_charges(
    *, connection: AsyncConnection, seller: Seller, charges: Sequence[Charge]
) -> list[RatedCharge]:
    """The amount of each charge, in order: usage measured over its active part, seats as agreed.

    Amounts are rated from every digit measured; the quantity kept beside them has nine.
    """
    if not charges:
        return []
    usage = [index for index, charge in enumerate(charges) if charge.is_usage]
    digits = NANO_DIGITS
    measured: Measured | None = None
    if usage:
        measured = await _measure(connection, [charges[index] for index in usage])
        digits = max(digits, measured.digits)
    agreed = {charge.stretch.quantity for charge in charges}
    scaled = {quantity: parse_scaled(quantity, digits=digits) for quantity in agreed}
    values = [scaled[charge.stretch.quantity] for charge in charges]
    if measured is not None:
        scale = 10 ** (digits - measured.digits)
        for index, value in zip(usage, measured.mantissa.tolist(), strict=True):
            values[index] = value * scale
    amounts = _amounts(seller, charges, values, digits)
    finer = 10 ** (digits - NANO_DIGITS)
    return [
        RatedCharge(charge=charge, quantity_nanos=value // finer, amount_minor=amount)
        for charge, value, amount in zip(charges, values, amounts.tolist(), strict=True)
    ]


async def _measure(connection: AsyncConnection, charges: Sequence[Charge]) -> Measured:
    meters = await meters_by_key(connection=connection)
    numbers = [_meter(meters, charge).number for charge in charges]
    windows = Windows(
        meter=np.array(numbers, dtype=np.int32),
        customer=np.array([c.agreement.customer_number for c in charges], dtype=np.int64),
        start_micros=np.array([unix_micros(c.active.start) for c in charges], dtype=np.int64),
        end_micros=np.array([unix_micros(c.active.end) for c in charges], dtype=np.int64),
    )
    by_number = {meter.number: meter for meter in meters.values()}
    return await measure(connection=connection, meters=by_number, windows=windows)


def _meter(meters: Mapping[str, Meter], charge: Charge) -> Meter:
    key = charge.stretch.price.meter
    assert key is not None, "a usage price names its meter"
    return meters[key]


def _amounts(
    seller: Seller,
    charges: Sequence[Charge],
    values: Sequence[int],
    digits: int,
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    rows: dict[tuple[str, str], int] = {}
    prices: list[Price] = []
    currencies: list[str] = []
    index: list[int] = []
    for charge in charges:
        key = (charge.stretch.price_id, charge.agreement.currency)
        row = rows.get(key)
        if row is None:
            row = rows[key] = len(prices)
            prices.append(charge.stretch.price)
            currencies.append(charge.agreement.currency)
        index.append(row)
    return rate(
        tables=compile_prices(prices=prices, currencies=currencies),
        price=np.array(index, dtype=np.int32),
        quantity=_quantities(values, digits),
        fraction_numerator=np.array([charge.numerator for charge in charges], dtype=np.int64),
        fraction_denominator=np.array([charge.denominator for charge in charges], dtype=np.int64),
        rounding=seller.rounding,
    )


def _quantities(values: Sequence[int], digits: int) -> Quantities:
    """As int64 where they fit, in whole units where all are whole."""
    unit = 10**digits
    if all(value % unit == 0 for value in values):
        values, digits = [value // unit for value in values], 0
    try:
        return Quantities(mantissa=np.array(values, dtype=np.int64), digits=digits)
    except OverflowError:
        return Quantities(mantissa=np.array(values, dtype=object), digits=digits)
