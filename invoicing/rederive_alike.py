"""Verb: derive what is posted again for all subscriptions of the same terms at once. Reads only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.alike import Ask, Terms, asked, to_rate
from invoicing.charges import ProrationTerms, charges_due
from invoicing.commitments import has_commitment
from invoicing.posted_columns import Late, PostedColumns, compare_columns, joined_places
from invoicing.posted_columns_store import Member
from invoicing.rate_charges import feed_of_charge
from metering.measure import measure
from plans.agreement import Agreement
from plans.model import Seller
from plans.store import meters_by_key
from plans.subscription_store import PriceBook, find_agreements
from plans.timeline import next_due_at
from rating.rate import AmountOutOfRangeError, rate

FEW: Final = 4
"""Terms that fewer subscriptions of a page share on average are quicker looked at one by one."""
MOST_TERMS: Final = 20_000
MOST_LINES: Final = 1_000_000
"""A portion of subscriptions has about so many lines, which bounds memory."""
_Ints = NDArray[np.int64]
_Key = tuple[int, int]


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """Of a page of subscriptions: who is to be looked at one by one, and what the others gave."""

    one_by_one: list[int]
    charges: int = 0
    pending: int = 0


def overlooked_at(agreement: Agreement) -> datetime | None:
    """When something falls due that no run would find then; None where all is found in time."""
    due_at = next_due_at(agreement=agreement, after=agreement.derived_through_at)
    stored = agreement.next_due_at
    return None if due_at is None or (stored is not None and stored <= due_at) else due_at


def shared_terms(*, agreement: Agreement, proration: ProrationTerms) -> Terms | None:
    """All charges of a subscription up to where it is derived; None where more decides them.

    None also where no run would look at it in time.
    """
    if has_commitment(agreement) or overlooked_at(agreement) is not None:
        return None
    through = agreement.derived_through_at
    if through is None:
        charges = []
    else:
        fresh = msgspec.structs.replace(agreement, derived_through_at=None, dirty_from_at=None)
        charges = charges_due(agreement=fresh, through=through, terms=proration)
    if any(charge.is_gone or feed_of_charge(charge) is not None for charge in charges):
        return None
    begun = through or agreement.starts_at
    progress = (None, begun, None)
    return Terms(agreement=agreement, due_at=begun, charges=tuple(charges), progress=progress)


class SharedTerms:
    """Terms that were met, each derived once; lives as long as one audit of a seller."""

    def __init__(self, *, seller: Seller, few: int = FEW) -> None:
        """None was met yet."""
        self._proration = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
        self._seller, self._few = seller, few
        self._book = PriceBook()
        self._known: dict[_Key, Terms | None] = {}

    async def compare(
        self,
        *,
        connection: AsyncConnection,
        members: Sequence[Member],
        late: Late,
        posted: PostedColumns,
    ) -> Shared:
        """Compare the plain ones among a page of subscriptions that share terms with others."""
        plain = [place for place, each in enumerate(members) if each.plain]
        wanted = {members[place].terms for place in plain}
        if len(plain) < self._few * len(wanted) or not plain:
            return Shared(one_by_one=list(range(len(members))))
        await self._learn(connection, members, plain)
        fits = [place for place in plain if self._known[members[place].terms] is not None]
        others = np.setdiff1d(np.arange(len(members)), np.array(fits, dtype=np.int64))
        doubts, charges, pending = [others], 0, 0
        for portion in self._portions(members, fits):
            found = await self._portion(connection, members, portion, late, posted)
            doubts.append(np.array(found.one_by_one, dtype=np.int64))
            charges, pending = charges + found.charges, pending + found.pending
        return Shared(one_by_one=joined_places(doubts), charges=charges, pending=pending)

    async def _learn(
        self, connection: AsyncConnection, members: Sequence[Member], plain: Sequence[int]
    ) -> None:
        """Load one subscription of each kind that was not met yet."""
        samples: dict[_Key, str] = {}
        for place in plain:
            samples.setdefault(members[place].terms, members[place].id)
        if len(self._known) > MOST_TERMS:
            self._known.clear()
        fresh = {key: sample for key, sample in samples.items() if key not in self._known}
        found = await find_agreements(
            connection=connection, subscriptions=list(fresh.values()), book=self._book
        )
        by_id = {agreement.id: agreement for agreement in found}
        for key, sample in fresh.items():
            self._known[key] = shared_terms(agreement=by_id[sample], proration=self._proration)

    def _portions(self, members: Sequence[Member], fits: Sequence[int]) -> list[list[int]]:
        """The places, cut so that each part has at most about MOST_LINES lines."""
        portions: list[list[int]] = []
        lines = MOST_LINES
        for place in fits:
            terms = self._known[members[place].terms]
            assert terms is not None
            if lines >= MOST_LINES:
                portions.append([])
                lines = 0
            portions[-1].append(place)
            lines += len(terms.charges)
        return portions

    async def _portion(
        self,
        connection: AsyncConnection,
        members: Sequence[Member],
        portion: Sequence[int],
        late: Late,
        posted: PostedColumns,
    ) -> Shared:
        numbers: dict[_Key, int] = {}
        terms: list[Terms] = []
        for place in portion:
            key, one = members[place].terms, self._known[members[place].terms]
            if key not in numbers and one is not None:
                numbers[key] = len(terms)
                terms.append(one)
        customers = [members[place].customer for place in portion]
        ask = asked(
            terms=terms,
            place=portion,
            term=[numbers[members[place].terms] for place in portion],
            customers=customers,
            meters=await meters_by_key(connection=connection),
        )
        owed = await self._owed(connection, ask)
        if owed is None:
            return Shared(one_by_one=list(portion))
        amounts, nanos = owed
        compared = compare_columns(
            ask=ask,
            amount_minor=amounts,
            quantity_nanos=nanos,
            customer=np.array(customers, dtype=np.int64),
            late=late,
            posted=posted,
        )
        return Shared(
            one_by_one=compared.doubtful.tolist(),
            charges=compared.charges,
            pending=compared.pending,
        )

    async def _owed(self, connection: AsyncConnection, ask: Ask) -> tuple[_Ints, _Ints] | None:
        """(amount, quantity) of each line; None where these take more than 64 bits."""
        measured = None
        if ask.windows is not None:
            meters = await meters_by_key(connection=connection)
            by_number = {meter.number: meter for meter in meters.values()}
            measured = await measure(connection=connection, meters=by_number, windows=ask.windows)
        lines = to_rate(ask, measured)
        if lines is None:
            return None
        try:
            amounts = rate(
                tables=lines.tables,
                price=lines.price,
                quantity=lines.quantity,
                fraction_numerator=lines.numerator,
                fraction_denominator=lines.denominator,
                rounding=self._seller.rounding,
            )
        except AmountOutOfRangeError:
            return None
        return amounts, lines.nanos
