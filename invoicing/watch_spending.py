"""Verb: find the subscriptions whose usage came to a spend threshold, and let them fall due now.

The billing run that follows does the rest: what is billed at once is the same difference.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import derived_body, derived_id
from invoicing.charges import Charge, ProrationTerms, running_usage
from invoicing.posted_store import posted_lines
from invoicing.rate_charges import rate_charges
from invoicing.spending_store import has_thresholds, seen, settle_seen
from invoicing.sweep_usage import sweep_waiting
from plans.agreement import Agreement
from plans.model import Seller
from plans.seller_store import load_seller
from plans.spending import is_reached
from plans.subscription_store import PriceBook, find_agreements

MOST: Final = 1_000


async def watch_spending(*, database: Database, seller: int, now: datetime) -> int:
    """Compare what new usage moved with the thresholds; give how many are billed at once."""
    async with database.transaction(seller=seller) as connection:
        if not await has_thresholds(connection=connection):
            return 0
    await sweep_waiting(database=database, seller=seller)
    found = 0
    while True:
        async with database.transaction(seller=seller) as connection:
            ids = await seen(connection=connection, limit=MOST)
            if not ids:
                return found
            agreements = await find_agreements(
                connection=connection, subscriptions=ids, book=PriceBook(), lock=True
            )
            reached = await _reached(
                connection, await load_seller(connection=connection), agreements, now
            )
            await settle_seen(
                connection=connection,
                compared=ids,
                reached=reached,
                told=_told(agreements, reached, now),
                now=now,
            )
            found += len(reached)


async def _reached(
    connection: AsyncConnection, seller: Seller, agreements: Sequence[Agreement], now: datetime
) -> list[str]:
    terms = ProrationTerms(proration=seller.proration, last_day=seller.last_day)
    charges: list[Charge] = []
    for agreement in agreements:
        charges += running_usage(agreement=agreement, at=now, terms=terms)
    intervals = [charge.stretch.id for charge in charges]
    posted = await posted_lines(connection=connection, intervals=intervals)
    billed: dict[str, int] = {}
    spent: dict[str, int] = {}
    for charge in charges:
        lines = posted.get(charge.key, ())
        amount = sum(line.amount_minor for line in lines if line.counts)
        billed[charge.agreement.id] = billed.get(charge.agreement.id, 0) + amount
    for line in await rate_charges(connection=connection, seller=seller, charges=charges):
        owner = line.charge.agreement.id
        spent[owner] = spent.get(owner, 0) + line.amount_minor
    return [
        each.id
        for each in agreements
        if is_reached(
            thresholds=each.spend_thresholds,
            spent_minor=spent.get(each.id, 0),
            billed_minor=billed.get(each.id, 0),
        )
    ]


def _told(agreements: Sequence[Agreement], reached: Sequence[str], now: datetime) -> dict[str, str]:
    """Event ids by subscription; what waits for its document already was told when it came."""
    waiting = {each.id for each in agreements if each.interim_at is not None}
    return {each: _event_id(each, now) for each in reached if each not in waiting}


def _event_id(subscription: str, now: datetime) -> str:
    body = derived_body(at=now, parts=(subscription, "spend_threshold", now.isoformat()))
    return derived_id(prefix="evt", body=body)
