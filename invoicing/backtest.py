"""Verb: try another price list on past usage. Reads only; the derivation is that of billing.

Customers are taken page by page, in one snapshot. What subscriptions of the same terms owe is
derived once, with the present prices and with the others; usage is measured once for both.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import is_free
from engine.errors import BillingError, ErrorKind, invalid_field
from invoicing.backtest_columns import (
    Group,
    line_told,
    lines_of,
    split_amounts,
    sums_of,
    windows_of,
)
from invoicing.backtest_kinds import Kinds
from invoicing.backtest_store import (
    Member,
    members_of,
    own_prices_of,
    posted_sums,
    void_documents,
)
from invoicing.backtest_terms import Kind
from invoicing.blame import is_of_an_account, reason_of
from invoicing.charges import Charge
from invoicing.export_bounds import bounds_of
from invoicing.rate_charges import rate_charges
from invoicing.simulation import (
    BUCKETS,
    CustomerEffect,
    NotSimulated,
    Simulation,
    SimulationDraft,
    Stretch,
    Tally,
)
from invoicing.store import BilledName, customer_names
from metering.measure import measure
from plans.agreement import Agreement
from plans.cohort import cohort
from plans.family_store import payers_of
from plans.model import Meter, Seller
from plans.prices import Price
from plans.seller_store import load_seller
from plans.store import meters_by_key
from plans.suppose_prices import suppose_prices
from rating.rate import AmountOutOfRangeError, rate
from rating.tables import PriceTables, compile_prices

PAGE: Final = 4_000
"""Customers whose usage is measured at once."""

PARTS: Final = 20_000
"""Charges rated one by one at once: by group, by cell, by event."""


class Backtest:
    """One simulation in progress; `open_backtest` makes it."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        seller: Seller,
        draft: SimulationDraft,
        stretch: Stretch,
        kinds: Kinds,
        customers: Sequence[str] | None,
        meters: Mapping[str, Meter],
        void: Sequence[str],
        page: int,
    ) -> None:
        """All that is the same for every customer."""
        self.connection, self.seller, self.draft = connection, seller, draft
        self.stretch, self.kinds, self.customers = stretch, kinds, customers
        self.meters, self.void, self.page = meters, void, page
        self.tally = Tally(stretch=stretch)
        self.rows: dict[tuple[str, str], int] = {}
        self.prices: list[tuple[Price, str]] = []
        self.tables: PriceTables | None = None

    async def effects(self) -> AsyncGenerator[list[CustomerEffect], None]:
        """The effects on all customers, a page of them at a time, by customer id."""
        after: str | None = None
        while names := await customer_names(
            connection=self.connection, after=after, limit=self.page, customers=self.customers
        ):
            after = names[-1].id
            found = await self._take(names)
            self.tally.add(found)
            yield found

    def answer(self) -> Simulation:
        """What all effects so far come to."""
        return self.tally.answer(replace_overrides=self.draft.replace_overrides)

    async def _take(self, names: Sequence[BilledName]) -> list[CustomerEffect]:
        """The effects on some customers; what fails is halved until one is left out."""
        try:
            return await self._effects_of(names)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            failure = error
        if len(names) > 1:
            middle = len(names) // 2
            halves = (names[:middle], names[middle:])
            return [effect for half in halves for effect in await self._take(half)]
        code, detail = reason_of(failure)
        self.tally.leave_out(NotSimulated(customer=names[0].key, code=code, detail=detail[:500]))
        return []

    async def _effects_of(self, names: Sequence[BilledName]) -> list[CustomerEffect]:
        members = await members_of(
            connection=self.connection,
            customers=[name.id for name in names],
            before=self.stretch.end,
        )
        kinds = await self.kinds.of(members)
        groups = _grouped(members, kinds)
        sums = await self._sums(members, groups)
        reaches = [
            (place, members[place].interval(reach.place), reach.low, reach.high)
            for group in groups
            for place in group.members
            for reach in group.kind.reaches
        ]
        posted = await posted_sums(connection=self.connection, reaches=reaches, void=self.void)
        kind_by_member = {place: group.kind for group in groups for place in group.members}
        found: dict[tuple[str, str], CustomerEffect] = {}
        keys = {name.id: name.key for name in names}
        for place, member in enumerate(members):
            kind = kind_by_member[place]
            present, supposed = sums[place]
            billed = posted.get(place, 0)
            if not (kind.counts.any() or billed):
                continue
            name = (member.bill_to, kind.agreement.currency)
            effect = CustomerEffect(
                customer=keys[member.bill_to],
                currency=kind.agreement.currency,
                charges=kind.present_count,
                billed_minor=billed,
                present=tuple(present),
                simulated=tuple(supposed),
            )
            found[name] = _added(found.get(name), effect)
        return [found[name] for name in sorted(found)]

    async def _sums(
        self, members: Sequence[Member], groups: Sequence[Group]
    ) -> dict[int, list[list[int]]]:
        """[present, supposed] of each member by its place, each by bucket."""
        if not groups:
            return {}
        windows = windows_of(groups)
        measured = None
        if windows is not None:
            by_number = {meter.number: meter for meter in self.meters.values()}
            measured = await measure(connection=self.connection, meters=by_number, windows=windows)
        tables = self._tables(groups)
        lines = lines_of(groups=groups, measured=measured, rows=self.rows)
        try:
            amounts = rate(
                tables=tables,
                price=lines.price,
                quantity=lines.quantity,
                fraction_numerator=lines.numerator,
                fraction_denominator=lines.denominator,
                rounding=self.seller.rounding,
            )
        except AmountOutOfRangeError as error:
            price, place = line_told(groups=groups, line=error.line)
            detail = (
                f"price {price!r} of subscription {members[place].key!r}: the amount is beyond"
                " what minor units can hold"
            )
            raise BillingError(error.code, detail) from None
        blocks = split_amounts(groups=groups, amounts=amounts)
        await self._rate_parts(members, groups, blocks)
        found: dict[int, list[list[int]]] = {}
        for group, block in zip(groups, blocks, strict=True):
            found |= zip(group.members, sums_of(kind=group.kind, amounts=block), strict=True)
        return found

    async def _rate_parts(
        self,
        members: Sequence[Member],
        groups: Sequence[Group],
        blocks: Sequence[np.ndarray[tuple[int, int], np.dtype[np.int64]]],
    ) -> None:
        """Put what is rated by group, cell or event into its place of the blocks."""
        asked: list[tuple[int, int, int, Charge]] = []
        for place, group in enumerate(groups):
            if not group.kind.parts:
                continue
            for row, member in enumerate(group.members):
                agreement = _as_member(group.kind.agreement, members[member])
                asked += [
                    (place, row, column, msgspec.structs.replace(charge, agreement=agreement))
                    for column, charge in group.kind.parts
                ]
        for begin in range(0, len(asked), PARTS):
            part = asked[begin : begin + PARTS]
            where = {id(charge): (place, row, column) for place, row, column, charge in part}
            rated = await rate_charges(
                connection=self.connection,
                seller=self.seller,
                charges=[charge for *_, charge in part],
            )
            for line in rated:
                place, row, column = where[id(line.charge)]
                blocks[place][row, column] += line.amount_minor

    def _tables(self, groups: Sequence[Group]) -> PriceTables:
        """Price lists as arrays, with all prices met so far."""
        for group in groups:
            currency = group.kind.agreement.currency
            for price_id, price in group.kind.prices:
                if (price_id, currency) not in self.rows:
                    self.rows[price_id, currency] = len(self.prices)
                    self.prices.append((price, currency))
                    self.tables = None
        if self.tables is None:
            self.tables = compile_prices(
                prices=[price for price, _ in self.prices],
                currencies=[currency for _, currency in self.prices],
            )
        return self.tables


def _grouped(members: Sequence[Member], kinds: Mapping[tuple[int, int], Kind]) -> list[Group]:
    places: dict[tuple[int, int], list[int]] = {}
    for place, member in enumerate(members):
        places.setdefault(member.terms, []).append(place)
    return [
        Group(
            kind=kinds[terms],
            members=mine,
            customers=np.array([members[place].number for place in mine], dtype=np.int64),
        )
        for terms, mine in places.items()
    ]


def _as_member(agreement: Agreement, member: Member) -> Agreement:
    return msgspec.structs.replace(
        agreement,
        id=member.id,
        key=member.key,
        customer=member.customer,
        customer_number=member.number,
    )


def _added(known: CustomerEffect | None, more: CustomerEffect) -> CustomerEffect:
    if known is None:
        return more
    return msgspec.structs.replace(
        known,
        charges=known.charges + more.charges,
        billed_minor=known.billed_minor + more.billed_minor,
        present=tuple(known.present[each] + more.present[each] for each in range(BUCKETS)),
        simulated=tuple(known.simulated[each] + more.simulated[each] for each in range(BUCKETS)),
    )


async def open_backtest(
    *,
    connection: AsyncConnection,
    seller: int,
    draft: SimulationDraft,
    now: datetime,
    page: int = PAGE,
) -> Backtest:
    """Find what is to be tried on what, in a snapshot transaction of any role that may read.

    `now` is the seller's clock. Errors: `invalid_body` with the fields at fault;
    `simulation_running` when the seller has another one under way.
    """
    found = await load_seller(connection=connection)
    bounds = bounds_of(start=draft.start, end=draft.end, timezone=found.timezone)
    start, end = bounds.start_at, bounds.end_at or now.astimezone(UTC)
    assert start is not None, "the draft says where it begins"
    if end > now:
        detail = f"past usage ends at the clock, which stands at {now.isoformat()}"
        raise invalid_field(pointer="/to", code="ahead_of_clock", detail=detail)
    if end <= start:
        raise invalid_field(pointer="/to", code="invalid", detail="the end lies after the start")
    customers = await cohort(connection=connection, references=draft.customers)
    if customers is not None:
        customers = await payers_of(connection=connection, customers=customers)
    meters = await meters_by_key(connection=connection)
    offers = await suppose_prices(connection=connection, drafts=draft.price_lists, meters=meters)
    if not await is_free(connection=connection, name=f"simulation {seller}"):
        detail = "another simulation of this seller is under way; try again when it is done"
        raise BillingError("simulation_running", detail, kind=ErrorKind.CONFLICT)
    stretch = Stretch(start=start, end=end, timezone=found.timezone)
    set_aside = frozenset[str]()
    if draft.replace_overrides:
        set_aside = await own_prices_of(connection=connection, plans=list(offers))
    return Backtest(
        connection=connection,
        seller=found,
        draft=draft,
        stretch=stretch,
        kinds=Kinds(
            connection=connection,
            seller=found,
            stretch=stretch,
            now=now,
            meters=meters,
            offers=offers,
            set_aside=set_aside,
        ),
        customers=customers,
        meters=meters,
        void=await void_documents(connection=connection),
        page=page,
    )
