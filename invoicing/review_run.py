"""Verb: report what a billing run would post, so that it can be approved before.

It is posted on trial, a few customers at a time, as a dry run does; of each what it came to and the
digests of its documents are kept, beside what was billed before.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import derived_body, derived_id
from invoicing.derive import late_usage
from invoicing.entry_store import tell
from invoicing.post import Posted
from invoicing.proposal_store import note_proposed
from invoicing.rehearse import RUN
from invoicing.review_store import (
    Tried,
    begin_report,
    billed_before,
    documents_on_trial,
    is_anything_reported,
    keep_report,
)
from invoicing.run_desk import RunDesk
from invoicing.run_states import RunStatus
from invoicing.run_store import finish_run, move_run, park
from invoicing.store import BilledName, customer_names
from invoicing.try_customers import Trials
from plans.model import Seller

PORTION: Final = 2_000
"""Customers in one transaction: posting waits for so long."""

LATELY: Final = timedelta(days=35)
"""Who was billed since, and is not any more, is told to be gone."""


class Review(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be reported: all that the run is about, or `again` (ids) what changed of it."""

    as_of: datetime
    pending: bool
    customers: Sequence[str] | None
    again: Sequence[str] | None


async def review_run(
    *,
    database: Database,
    seller_number: int,
    seller: Seller,
    desk: RunDesk,
    review: Review,
    now: datetime,
    portion: int = PORTION,
) -> None:
    """Report a run that is being reviewed; then it awaits approval, or is over if nothing is owed.

    Raises RunStoppedError when it was cancelled meanwhile.
    """
    async with database.transaction(seller=seller_number, snapshot=True) as connection:
        late = await late_usage(connection=connection)
    async with desk.posting() as connection:
        await begin_report(connection=connection, run=desk.run, again=review.again)
    reviewing = _Reviewing(desk=desk, review=review, now=now)
    trials = Trials(
        database=database,
        seller_number=seller_number,
        seller=seller,
        as_of=review.as_of,
        pending=review.pending,
        late=late,
        look=reviewing.look,
        keep=reviewing.keep,
        park=reviewing.park,
    )
    after: str | None = None
    wanted = review.customers if review.again is None else review.again
    while True:
        async with database.transaction(seller=seller_number, snapshot=True) as connection:
            names = await customer_names(
                connection=connection, after=after, limit=portion, customers=wanted
            )
        names_left = [name for name in names if name.id not in desk.left_out]
        if not names:
            break
        after = names[-1].id
        if names_left:
            await trials.take(names_left)
    async with desk.posting() as connection:
        if await is_anything_reported(connection=connection, run=desk.run):
            await _propose(connection, seller, desk.run, now)
            return
        await move_run(connection=connection, run=desk.run, status=RunStatus.RUNNING, now=now)
        parked = reviewing.parked
        await finish_run(connection=connection, run=desk.run, tried=wanted, parked=parked, now=now)


async def _propose(connection: AsyncConnection, seller: Seller, run: str, now: datetime) -> None:
    """Let it await approval, and tell so."""
    version = await note_proposed(connection=connection, run=run)
    body = derived_body(at=now, parts=(seller.id, run, "proposed", version))
    told = (derived_id(prefix="evt", body=body), "billing_run.proposed", run, version)
    await tell(connection=connection, events=[told], now=now)


class _Reviewing:
    """One review in progress."""

    def __init__(self, *, desk: RunDesk, review: Review, now: datetime) -> None:
        self.desk, self.review, self.now = desk, review, now
        self.parked: list[str] = []

    async def look(self, connection: AsyncConnection, names: Sequence[BilledName]) -> Tried:
        """The documents on trial, beside what was billed before."""
        customers = [name.id for name in names]
        tried = await documents_on_trial(connection=connection, posted=RUN, customers=customers)
        before = await billed_before(
            connection=connection,
            run=RUN,
            customers=customers,
            lately=self.review.as_of - LATELY,
        )
        for key, was in before.items():
            if key in tried.sums:
                billed = tried.sums[key]
                billed.previous_minor = was.previous_minor
                billed.mean_minor, billed.periods = was.mean_minor, was.periods
            elif was.is_gone and was.previous_minor > 0:
                tried.sums[key] = was
        return tried

    async def keep(self, names: Sequence[BilledName], tried: Tried, posted: Posted) -> None:
        """Write it down; nothing of the trial is left by now."""
        del names, posted
        async with self.desk.posting() as connection:
            await keep_report(
                connection=connection,
                run=self.desk.run,
                sums=tried.sums,
                digests=tried.digests,
                again=self.review.again is not None,
            )
            await self.desk.note(connection)

    async def park(self, name: BilledName, code: str, detail: str) -> None:
        """Note who cannot be billed."""
        self.parked.append(name.id)
        async with self.desk.posting() as connection:
            await park(
                connection=connection,
                run=self.desk.run,
                customer=name.id,
                billed_at=self.review.as_of,
                code=code,
                detail=detail,
                now=self.now,
            )
