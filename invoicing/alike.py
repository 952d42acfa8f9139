"""Subscriptions that share their terms are derived together: once for all, in columns.

What a subscription owes depends on its terms, and on what was measured. Most of a large seller's
subscriptions share theirs with many others; the charges of one are those of all, and only the
quantities differ. `derive` and `assemble` do the same one by one, for every other case; both give
the same documents. Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.ids import derived_bodies, join_parts, unix_millis
from engine.money import parse_scaled
from invoicing.assembly import document_parts
from invoicing.charges import Charge, ProrationTerms, charges_due, may_be_posted, touched_from
from invoicing.commitments import has_commitment
from invoicing.rate_charges import (
    NANO_DIGITS,
    charge_windows,
    feed_of_charge,
    priced_charges,
)
from metering.model import Measured, Windows
from plans.agreement import Agreement
from plans.model import Meter
from plans.timeline import next_change_at, next_due_at
from rating.rate import Quantities
from rating.tables import PriceTables

_Ints = NDArray[np.int64]
_INT64: Final = 2**63 - 1
ID_LENGTH: Final = 30
"""Of the ids of subscriptions and price intervals: a prefix and 26 characters."""


class Due(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One customer with something due.

    `copied` is a hash of what its documents copy of it. `terms` are equal for subscriptions that
    owe the same but for what was measured, and None where the customer has more than one plain
    subscription; then the rest is None too.
    """

    customer: str
    key: str
    number: int
    party: str
    net_terms_days: int | None
    po_number: str | None
    due_at: datetime
    copied: int
    subscription: str | None
    contract: str | None
    revision: int | None
    intervals: str | None
    terms: tuple[int, int] | None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What subscriptions of the same terms owe at one due instant, told by one of them.

    `progress` is (next due instant, derived through, next change). The charges come in the order
    of a document's lines.
    """

    agreement: Agreement
    due_at: datetime
    charges: tuple[Charge, ...]
    progress: tuple[datetime | None, datetime, datetime | None]


def terms_of(*, agreement: Agreement, due_at: datetime, proration: ProrationTerms) -> Terms | None:
    """The terms of a subscription at a due instant; None where more than those decides."""
    if (
        touched_from(agreement, through=due_at) is not None
        or may_be_posted(agreement)
        or has_commitment(agreement)
    ):
        return None
    charges = charges_due(agreement=agreement, through=due_at, terms=proration)
    if any(charge.is_gone or feed_of_charge(charge) is not None for charge in charges):
        return None
    charges.sort(key=lambda charge: (charge.stretch.number, charge.period.start))
    upcoming = next_due_at(agreement=agreement, after=due_at)
    progress = (upcoming, due_at, next_change_at(agreement=agreement, after=due_at))
    return Terms(agreement=agreement, due_at=due_at, charges=tuple(charges), progress=progress)


class Sheaf(msgspec.Struct, frozen=True, kw_only=True):
    """n subscriptions, each the only one of its customer, in the order of the work list.

    Subscription i has terms[term[i]]; its lines are those at offsets[i]:offsets[i + 1]. A line is
    of `charge`, an index into `charges` of all the terms one after the other, where that owes
    anything. `place` is where in the work list a subscription stands.
    """

    terms: Sequence[Terms]
    charges: Sequence[Charge]
    place: _Ints
    term: _Ints
    offsets: _Ints
    charge: _Ints
    amount_minor: _Ints
    quantity_nanos: _Ints

    def between(self, begin: int, end: int) -> "Sheaf":
        """Those that stand at places from `begin` to before `end`, counted from there."""
        first, last = np.searchsorted(self.place, [begin, end]).tolist()
        lines = slice(int(self.offsets[first]), int(self.offsets[last]))
        return msgspec.structs.replace(
            self,
            place=self.place[first:last] - begin,
            term=self.term[first:last],
            offsets=self.offsets[first : last + 1] - self.offsets[first],
            charge=self.charge[lines],
            amount_minor=self.amount_minor[lines],
            quantity_nanos=self.quantity_nanos[lines],
        )

    def kept(self, keep: NDArray[np.bool_]) -> "Sheaf":
        """Those of the subscriptions that are to be kept, at the places where they stand."""
        counts = np.diff(self.offsets)
        lines = np.repeat(keep, counts)
        return msgspec.structs.replace(
            self,
            place=self.place[keep],
            term=self.term[keep],
            offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
            charge=self.charge[lines],
            amount_minor=self.amount_minor[lines],
            quantity_nanos=self.quantity_nanos[lines],
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The charges of n subscriptions, one line each: what is to be measured and rated of them.

    `windows` are those of the lines at `measured`; `agreed` has the quantity of every charge.
    """

    terms: Sequence[Terms]
    charges: Sequence[Charge]
    place: _Ints
    term: _Ints
    count: _Ints
    charge: _Ints
    measured: NDArray[np.intp]
    windows: Windows | None


def asked(
    *,
    terms: Sequence[Terms],
    place: Sequence[int],
    term: Sequence[int],
    customers: Sequence[int],
    meters: Mapping[str, Meter],
) -> Ask:
    """The lines of subscriptions: subscription i has terms[term[i]] and the meters' customer."""
    charges = [charge for each in terms for charge in each.charges]
    sizes = np.array([len(each.charges) for each in terms], dtype=np.int64)
    begins = np.cumsum(sizes) - sizes
    chosen = np.array(term, dtype=np.int64)
    count = sizes[chosen]
    ends = np.cumsum(count)
    line = np.arange(int(ends[-1]) if len(ends) else 0)
    member = np.repeat(np.arange(len(chosen)), count)
    charge = begins[chosen][member] + line - (ends - count)[member]
    usage = np.array([each.is_usage for each in charges], dtype=np.bool_)
    measured = np.flatnonzero(usage[charge]) if charges else np.empty(0, dtype=np.intp)
    windows = None
    if len(measured):
        numbers = np.array(customers, dtype=np.int64)[member[measured]]
        windows = _windows_asked(charges, meters, charge[measured], numbers)
    return Ask(
        terms=terms,
        charges=charges,
        place=np.array(place, dtype=np.int64),
        term=chosen,
        count=count,
        charge=charge,
        measured=measured,
        windows=windows,
    )


def _windows_asked(
    charges: Sequence[Charge], meters: Mapping[str, Meter], charge: _Ints, customer: _Ints
) -> Windows:
    """What is asked of the meters for lines of `charge`, each of its own customer."""
    usage = [index for index, each in enumerate(charges) if each.is_usage]
    found = charge_windows(meters=meters, charges=[charges[index] for index in usage])
    row = np.zeros(len(charges), dtype=np.intp)
    row[usage] = np.arange(len(usage))
    return found.of(rows=row[charge], customer=customer)


class ToRate(msgspec.Struct, frozen=True, kw_only=True):
    """Lines as the rating kernel takes them, and their quantities in 10^-9 units."""

    tables: PriceTables
    price: NDArray[np.int32]
    quantity: Quantities
    numerator: _Ints
    denominator: _Ints
    nanos: _Ints


def to_rate(ask: Ask, measured: Measured | None) -> ToRate | None:
    """The lines with their quantities; None where they take more than 64 bits."""
    digits = NANO_DIGITS if measured is None else max(NANO_DIGITS, measured.digits)
    most = _INT64 // 10 ** (digits - NANO_DIGITS)
    agreed = [
        0 if charge.is_usage else parse_scaled(charge.stretch.quantity, digits=digits)
        for charge in ask.charges
    ]
    if any(value > _INT64 for value in agreed):
        return None
    values = np.array(agreed, dtype=np.int64)[ask.charge]
    if measured is not None:
        found, scale = measured.mantissa, 10 ** (digits - measured.digits)
        if found.dtype != np.int64 or int(np.abs(found).max(initial=0)) > most // scale:
            return None
        values[ask.measured] = found * scale
    priced = priced_charges(ask.charges)
    return ToRate(
        tables=priced.tables,
        price=priced.row[ask.charge],
        quantity=Quantities(mantissa=values, digits=digits),
        numerator=priced.numerator[ask.charge],
        denominator=priced.denominator[ask.charge],
        nanos=values // 10 ** (digits - NANO_DIGITS),
    )


def sheaf_of(ask: Ask, *, amount_minor: _Ints, nanos: _Ints) -> Sheaf | None:
    """What is owed, lines of nothing left out; None where a line gives back."""
    if int(amount_minor.min(initial=0)) < 0:
        return None
    owed = np.flatnonzero(amount_minor)
    member = np.repeat(np.arange(len(ask.term)), ask.count)[owed]
    counts = np.bincount(member, minlength=len(ask.term))
    return Sheaf(
        terms=ask.terms,
        charges=ask.charges,
        place=ask.place,
        term=ask.term,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        charge=ask.charge[owed],
        amount_minor=amount_minor[owed],
        quantity_nanos=nanos[owed],
    )


def document_bodies(
    *,
    seller: str,
    customers: Sequence[str],
    instants: Sequence[datetime],
    currencies: Sequence[str],
) -> bytes:
    """The 128 bits of each customer's first document of its due instant, in no group.

    Only the customer is one document's own: all else is joined once.
    """
    millis = {at: unix_millis(at).to_bytes(6, "big") for at in set(instants)}
    after: dict[tuple[datetime, str], bytes] = {}
    for at, currency in set(zip(instants, currencies, strict=True)):
        named = document_parts(
            seller_id=seller, customer="", billed_at=at.isoformat(), currency=currency
        )
        after[at, currency] = join_parts(named[2:])
    return derived_bodies(
        millis=[millis[at] for at in instants],
        before=join_parts([seller]),
        names=customers,
        after=[after[key] for key in zip(instants, currencies, strict=True)],
    )


def following_of(sheaf: Sheaf | None, end: int) -> datetime | None:
    """The earliest due instant that any customer at a place before `end` has afterwards."""
    if sheaf is None:
        return None
    used = set(sheaf.term[: int(np.searchsorted(sheaf.place, end))].tolist())
    upcoming = [sheaf.terms[term].progress[0] for term in used]
    return min([at for at in upcoming if at is not None], default=None)
