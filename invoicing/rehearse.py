"""Verb: post what would be billed in a transaction that is rolled back, and look at it before.

It is posting itself that is looked at, so what is foretold is what is then posted. Nothing stays:
no number is used, nobody is told. Posting waits meanwhile, so few customers are taken at a time.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.errors import BillingError, ErrorKind
from invoicing.post import Posted, StaleDerivationError
from invoicing.post_due import post_due
from invoicing.store import lock_billing, touch_subscriptions
from plans.model import Seller

RUN: Final = "run_rehearsal"
"""The run that rehearsed documents name until they are gone."""

ATTEMPTS: Final = 20


@asynccontextmanager
async def on_trial(*, database: Database, seller: int) -> AsyncIterator[AsyncConnection]:
    """A transaction that can do everything and leaves nothing."""
    async with database.transaction(seller=seller) as connection:
        try:
            yield connection
        finally:
            await connection.rollback()


async def mark_late(*, connection: AsyncConnection, late: Mapping[int, int]) -> None:
    """Mark what new usage touches, as a sweep would; `late` by customer number."""
    await touch_subscriptions(
        connection=connection, customers=list(late), micros=list(late.values())
    )


async def post_on_trial(
    *,
    connection: AsyncConnection,
    seller: Seller,
    as_of: datetime,
    due_by: datetime,
    customers: Sequence[str],
    pending: bool,
) -> Posted:
    """Post all that is due by `due_by` for the customers (ids) and, with `pending`, what waits.

    Raises StaleDerivationError when a subscription changed meanwhile.
    """
    return await post_due(
        connection=connection,
        seller=seller,
        run=RUN,
        as_of=as_of,
        due_by=due_by,
        sweeps=await lock_billing(connection=connection, sweep=False),
        customers=customers,
        pending=pending,
    )


def keeps_changing(attempt: int) -> None:
    """Give up once facts changed too often in between. Raises `billing_busy`."""
    if attempt + 1 == ATTEMPTS:
        message = "another run or a change keeps coming between; try again"
        raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT) from None


__all__ = ["StaleDerivationError", "keeps_changing", "mark_late", "on_trial", "post_on_trial"]
