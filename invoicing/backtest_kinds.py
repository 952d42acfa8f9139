"""Verb: derive what subscriptions owe with the present prices and others, once for each kind."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import count
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError
from invoicing.backtest_store import Member
from invoicing.backtest_terms import Kind, kind_of, owed_charges, told_charges, told_intervals
from invoicing.charges import Charge, ProrationTerms
from invoicing.simulation import Stretch
from plans.agree import Life, load_lives
from plans.agreement import Agreement
from plans.life import Offer
from plans.model import Meter, Seller
from plans.replay import replayed, with_offers, without_own_prices
from plans.subscription_store import PriceBook, find_agreements

LOADED: Final = 500
"""Kinds of subscriptions loaded at once."""

KEPT: Final = 4_000
"""Kinds remembered from page to page."""

BREATH: Final = 10
"""Kinds derived before others of the process have their turn."""


class Kinds:
    """The kinds of subscriptions met so far, while one backtest goes on."""

    def __init__(
        self,
        *,
        connection: AsyncConnection,
        seller: Seller,
        stretch: Stretch,
        now: datetime,
        meters: Mapping[str, Meter],
        offers: Mapping[str, Offer],
        set_aside: frozenset[str],
    ) -> None:
        """`offers` stand in for plan versions, by their ids; own prices `set_aside` do not hold."""
        self.connection, self.stretch, self.now, self.meters = connection, stretch, now, meters
        self.offers, self.set_aside = offers, set_aside
        self.terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
        self.book = PriceBook()
        self._known: dict[tuple[int, int], Kind] = {}
        self._plans: dict[str, Offer] = {}

    async def of(self, members: Sequence[Member]) -> dict[tuple[int, int], Kind]:
        """The kinds of the members, by their terms; those met first are derived."""
        samples: dict[tuple[int, int], Member] = {}
        for member in members:
            if member.terms not in self._known:
                samples.setdefault(member.terms, member)
        found = {
            member.terms: self._known[member.terms]
            for member in members
            if member.terms in self._known
        }
        wanted = list(samples.values())
        for begin in range(0, len(wanted), LOADED):
            part = wanted[begin : begin + LOADED]
            agreements = await find_agreements(
                connection=self.connection, subscriptions=[one.id for one in part], book=self.book
            )
            lives = await load_lives(
                connection=self.connection, agreements=agreements, offers=self._plans
            )
            by_id = {agreement.id: agreement for agreement in agreements}
            for place, member in enumerate(part):
                if place % BREATH == 0:
                    await asyncio.sleep(0)
                agreement = by_id[member.id]
                found[member.terms] = self._kind(agreement, lives[agreement.id])
        self._known = found if len(found) <= KEPT else {}
        return found

    def _kind(self, agreement: Agreement, life: Life) -> Kind:
        present = owed_charges(agreement=agreement, through=self.now, terms=self.terms)
        return kind_of(
            agreement=agreement,
            present=present,
            supposed=self._supposed(agreement, life, present),
            stretch=self.stretch,
            meters=self.meters,
        )

    def _supposed(
        self, agreement: Agreement, life: Life, present: Sequence[Charge]
    ) -> list[Charge] | None:
        """What is owed with the other prices; None where the subscription never met them."""
        named = {life.beginning.plan, *(act.plan for act in life.acts)}
        if named.isdisjoint(self.offers):
            return None
        numbers = count(1)
        beginning, acts = without_own_prices(
            beginning=life.beginning, acts=life.acts, without=self.set_aside
        )
        again = replayed(
            agreement=agreement,
            beginning=life.beginning,
            acts=life.acts,
            catalogue=life.catalogue,
            make_id=lambda: f"again {next(numbers)}",
        )
        if not self._is_repeated(agreement, again, present):
            detail = f"the changes of subscription {agreement.key!r} cannot be repeated"
            raise BillingError("history_not_repeatable", detail)
        lived = replayed(
            agreement=agreement,
            beginning=beginning,
            acts=acts,
            catalogue=with_offers(catalogue=life.catalogue, offers=self.offers),
            make_id=lambda: f"supposed {next(numbers)}",
        )
        return owed_charges(agreement=lived, through=self.now, terms=self.terms)

    def _is_repeated(
        self, agreement: Agreement, again: Agreement, present: Sequence[Charge]
    ) -> bool:
        """Whether the life lived again, with the prices it had, owes what it owes."""
        if told_intervals(again.intervals) == told_intervals(agreement.intervals):
            return True
        repeated = owed_charges(agreement=again, through=self.now, terms=self.terms)
        return told_charges(repeated) == told_charges(present)
