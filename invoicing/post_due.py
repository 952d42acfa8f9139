"""Verb: derive and post what is due for some customers, all in the transaction given."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.derive import derive, load_work, up_to_following
from invoicing.post import Posted, post
from invoicing.work_store import DueCustomer, due_customers, pending_customers
from plans.model import Seller
from plans.subscription_store import PriceBook

SEGMENT: Final = 2_000


async def post_due(
    *,
    connection: AsyncConnection,
    seller: Seller,
    run: str,
    as_of: datetime,
    due_by: datetime,
    sweeps: int,
    customers: Sequence[str],
    pending: bool,
) -> Posted:
    """Post all that is due by `due_by` for the customers (ids) and, with `pending`, what waits.

    Documents are issued at `as_of` and name `run`. The posting lock must be held, at `sweeps`.
    Raises StaleDerivationError when a subscription changed meanwhile.
    """
    documents = lines = 0
    for waiting in (False, True) if pending else (False,):
        while due := await _next_due(connection, as_of, due_by, customers, waiting=waiting):
            work = await load_work(connection=connection, due=due, book=PriceBook())
            derived = await derive(
                connection=connection, seller=seller, work=up_to_following(work=work)
            )
            posted = await post(
                connection=connection,
                seller=seller,
                run=run,
                as_of=as_of,
                sweeps=sweeps,
                derived=derived,
            )
            documents += posted.documents
            lines += posted.lines
    return Posted(documents=documents, lines=lines)


async def _next_due(
    connection: AsyncConnection,
    as_of: datetime,
    due_by: datetime,
    customers: Sequence[str],
    *,
    waiting: bool,
) -> list[DueCustomer]:
    if waiting:
        return await pending_customers(
            connection=connection, as_of=as_of, due_by=due_by, limit=SEGMENT, customers=customers
        )
    return await due_customers(
        connection=connection, due_by=due_by, limit=SEGMENT, customers=customers
    )
