"""Verb: make the entries of invoices that can be cancelled no longer."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import DerivedIds, derived_body
from engine.period import local_date
from invoicing.entry_store import write_entry
from invoicing.held_entry_store import end_held, lock_held, next_held
from invoicing.store import lock_billing
from plans.model import Seller
from plans.seller_store import load_seller


async def enter_held(
    *,
    connection: AsyncConnection,
    seller: Seller,
    now: datetime,
    invoices: Sequence[str] | None = None,
    by: datetime | None = None,
) -> None:
    """Enter the issue of what waits, dated `now`: of those invoices (ids), or due `by` then.

    The posting lock must be held. What does not wait is left alone.
    """
    for held in await lock_held(connection=connection, invoices=invoices, by=by):
        ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, held.invoice, "entered")))
        await end_held(connection=connection, invoice=held.invoice, now=now, is_entered=True)
        await write_entry(
            connection=connection,
            entry=ids.find("je"),
            kind="issued",
            source=held.invoice,
            entry_on=local_date(at=now, timezone=seller.timezone),
            now=now,
            currency=held.currency,
            postings=held.postings,
        )


async def enter_due(*, database: Database, seller: int, now: datetime) -> None:
    """Enter all whose service has begun, or whose right to cancel has ended, by `now`."""
    async with database.transaction(seller=seller) as connection:
        if await next_held(connection=connection, through=now) is None:
            return
        await lock_billing(connection=connection, sweep=False)
        found = await load_seller(connection=connection)
        await enter_held(connection=connection, seller=found, now=now, by=now)
