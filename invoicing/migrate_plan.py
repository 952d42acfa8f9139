"""Verb: move subscriptions from older versions of a plan to one of its versions.

Each move is the ordinary change. They are worked out for many subscriptions at once and written in
chunks, a transaction each: a migration that died is asked for again and goes on where it stopped.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.errors import BillingError, invalid_field, not_found
from invoicing.blame import is_of_an_account, reason_of
from invoicing.derive import derive_each, late_usage, with_late_usage
from invoicing.migration import (
    Migration,
    MigrationDraft,
    NotMoved,
    draft_for,
    first_settled_at,
    money_of,
)
from invoicing.store import lock_billing
from plans.agree import load_lives
from plans.agreement import ChangeDraft
from plans.alteration import Alteration
from plans.change import alter
from plans.cohort import cohort
from plans.life import Offer
from plans.life_store import last_numbers, save_alterations
from plans.model import Plan, Seller
from plans.seller_store import load_seller
from plans.store import find_plan
from plans.subscription_store import PriceBook, find_agreements
from plans.timeline import NOW, PERIOD_END, change_instant, read_instant
from plans.version_store import names_of, older_versions, subscriptions_on

CHUNK: Final = 1_000
SEGMENT: Final = 20_000
"""How many are weighed at once in a dry run: usage is read once for all of them."""

TOLD: Final = 1_000
"""Subscriptions not moved that are told one by one."""


async def migrate_plan(
    *,
    database: Database,
    seller: int,
    reference: str,
    draft: MigrationDraft,
    now: datetime,
    wall_now: datetime,
    chunk: int = CHUNK,
) -> Migration:
    """Move every subscription on an older version, or those of the customers named.

    One that cannot be moved stays as it was and is told with its reason. A dry run writes nothing
    and weighs the money. Errors: `not_found`, `invalid_body`.
    """
    async with database.transaction(seller=seller, snapshot=True) as connection:
        found = await load_seller(connection=connection)
        plan = await find_plan(connection=connection, key=reference)
        if plan is None:
            raise not_found(noun="plan", reference=reference)
        plan = await _target(connection, plan, draft)
        older = await older_versions(connection=connection, key=plan.key, version=plan.version)
        customers = await cohort(connection=connection, references=draft.customers)
    moving = _Moving(
        database=database,
        seller_number=seller,
        seller=found,
        plan=plan,
        older=older,
        customers=customers,
        effective=draft.effective,
        now=now,
        wall_now=wall_now,
    )
    await moving.run(dry=draft.dry_run, size=SEGMENT if draft.dry_run else chunk)
    return Migration(
        plan=plan.key,
        to_version=plan.version,
        effective=draft.effective,
        dry_run=draft.dry_run,
        moved=moving.moved,
        unchanged=moving.unchanged,
        refused=moving.refused,
        not_moved=tuple(moving.not_moved),
        money=money_of(totals=moving.totals) if draft.dry_run else None,
    )


async def _target(connection: AsyncConnection, plan: Plan, draft: MigrationDraft) -> Plan:
    if draft.effective not in {NOW, PERIOD_END}:
        read_instant(text=draft.effective)
    target = await find_plan(connection=connection, key=plan.key, version=draft.to_version)
    if target is None:
        detail = f"plan {plan.key!r} has no version {draft.to_version}"
        raise invalid_field(pointer="/to_version", code="unknown_version", detail=detail)
    return target


class _Found(msgspec.Struct, kw_only=True):
    """What became of one portion: moves worked out, how many need none, those refused."""

    alterations: list[Alteration]
    unchanged: int = 0
    refused: dict[str, tuple[str, str]]


class _Moving:
    """One migration in progress."""

    def __init__(
        self,
        *,
        database: Database,
        seller_number: int,
        seller: Seller,
        plan: Plan,
        older: Sequence[str],
        customers: Sequence[str] | None,
        effective: str,
        now: datetime,
        wall_now: datetime,
    ) -> None:
        self.database = database
        self.seller_number = seller_number
        self.seller = seller
        self.plan = plan
        self.older = older
        self.customers = customers
        self.draft = ChangeDraft(plan=plan.key, plan_version=plan.version, effective=effective)
        self.now = now
        self.wall_now = wall_now
        self.offers: dict[str, Offer] = {}
        self.book = PriceBook()
        self.moved = self.unchanged = self.refused = 0
        self.not_moved: list[NotMoved] = []
        self.totals: dict[str, tuple[int, int]] = {}

    async def run(self, *, dry: bool, size: int) -> None:
        """Take the subscriptions portion by portion, in the order of their ids."""
        after: str | None = None
        while True:
            async with self.database.transaction(
                seller=self.seller_number, snapshot=True
            ) as connection:
                portion = await subscriptions_on(
                    connection=connection,
                    plans=self.older,
                    customers=self.customers,
                    now=self.now,
                    after=after,
                    limit=size,
                )
            if not portion:
                return
            await (self._weigh(portion) if dry else self._move(portion))
            after = portion[-1]

    async def _move(self, portion: Sequence[str]) -> None:
        """Work out and write one portion; halve what fails until one is refused."""
        try:
            async with self.database.transaction(seller=self.seller_number) as connection:
                # Posting locks in this order too, so the two wait and never deadlock.
                await lock_billing(connection=connection, sweep=False)
                found = await self._work_out(connection, portion, lock=True)
                await save_alterations(connection=connection, alterations=found.alterations)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            await self._halve(portion, error, dry=False)
            return
        await self._count(found)

    async def _weigh(self, portion: Sequence[str]) -> None:
        """Work out one portion, and what is charged without and with it."""
        try:
            async with self.database.transaction(
                seller=self.seller_number, snapshot=True
            ) as connection:
                found = await self._work_out(connection, portion, lock=False)
                totals = await self._totals(connection, found.alterations)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            await self._halve(portion, error, dry=True)
            return
        await self._count(found)
        for currency, (before, after) in totals.items():
            known = self.totals.get(currency, (0, 0))
            self.totals[currency] = (known[0] + before, known[1] + after)

    async def _halve(self, portion: Sequence[str], error: Exception, *, dry: bool) -> None:
        if len(portion) > 1:
            middle = len(portion) // 2
            for half in (portion[:middle], portion[middle:]):
                await (self._weigh(half) if dry else self._move(half))
            return
        refused = {portion[0]: reason_of(error)}
        await self._count(_Found(alterations=[], refused=refused))

    async def _work_out(
        self, connection: AsyncConnection, portion: Sequence[str], *, lock: bool
    ) -> _Found:
        agreements = await find_agreements(
            connection=connection, subscriptions=portion, book=self.book, lock=lock
        )
        lives = await load_lives(connection=connection, agreements=agreements, offers=self.offers)
        numbers = await last_numbers(connection=connection, subscriptions=portion)
        found = _Found(alterations=[], refused={})
        for agreement in agreements:
            life = lives[agreement.id]
            try:
                draft = draft_for(draft=self.draft, agreement=agreement, now=self.now)
                effective = change_instant(
                    agreement=agreement, effective=draft.effective, now=self.now
                )
                if life.state_at(effective).plan not in self.older:
                    found.unchanged += 1
                    continue
                alteration = await alter(
                    connection=connection,
                    seller=self.seller,
                    agreement=agreement,
                    life=life,
                    draft=draft,
                    number=numbers.get(agreement.id, 0) + 1,
                    now=self.now,
                    wall_now=self.wall_now,
                )
            except BillingError as error:
                found.refused[agreement.id] = reason_of(error)
                continue
            found.alterations.append(alteration)
        return found

    async def _totals(
        self, connection: AsyncConnection, alterations: Sequence[Alteration]
    ) -> dict[str, tuple[int, int]]:
        """Minor units without and with the moves, by currency."""
        late = await late_usage(connection=connection)
        instants = [first_settled_at(alteration=one) for one in alterations]
        befores = await find_agreements(
            connection=connection,
            subscriptions=[one.agreement.id for one in alterations],
            book=self.book,
        )
        afters = [one.agreement for one in alterations]
        totals: dict[str, tuple[int, int]] = {}
        for side, agreements in enumerate((befores, afters)):
            derived = await derive_each(
                connection=connection,
                seller=self.seller,
                reaches=[
                    (with_late_usage(agreement=agreement, late=late), through)
                    for agreement, through in zip(agreements, instants, strict=True)
                ],
            )
            for agreement, differences in zip(agreements, derived, strict=True):
                sums = list(totals.get(agreement.currency, (0, 0)))
                sums[side] += sum(line.amount_minor for line in differences)
                totals[agreement.currency] = (sums[0], sums[1])
        return totals

    async def _count(self, found: _Found) -> None:
        """Add a portion that is done to what is answered."""
        self.moved += len(found.alterations)
        self.unchanged += found.unchanged
        self.refused += len(found.refused)
        told = list(found.refused)[: TOLD - len(self.not_moved)]
        if not told:
            return
        async with self.database.transaction(
            seller=self.seller_number, snapshot=True
        ) as connection:
            names = await names_of(connection=connection, subscriptions=told)
        for subscription in told:
            key, customer = names[subscription]
            code, detail = found.refused[subscription]
            self.not_moved.append(
                NotMoved(subscription=key, customer=customer, code=code, detail=detail)
            )
