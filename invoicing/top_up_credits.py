"""Verb: add credit where what is left less what running usage will draw falls too low."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import derived_body, derived_id
from engine.money import format_amount, parse_amount
from invoicing.blame import is_of_an_account
from invoicing.grant_credit import free_key, open_grant
from invoicing.project_draws import project_draws
from invoicing.store import lock_billing
from invoicing.sweep_usage import sweep_waiting
from plans.credit_grant_store import StoredGrant, count_top_ups, purchase_of, topped_up_grants
from plans.credit_grants import CreditKind, CreditPurchase, TopUp
from plans.model import Seller
from plans.seller_store import load_seller


async def top_up_credits(*, database: Database, seller: int, now: datetime) -> int:
    """Top up the seller's grants as of `now`, a transaction for each customer; how many failed.

    New usage is looked at as by a billing run, so that there is nothing to do until more arrives.
    """
    async with database.transaction(seller=seller) as connection:
        found = await topped_up_grants(connection=connection)
        if not found:
            return 0
    await sweep_waiting(database=database, seller=seller)
    failed = 0
    for customer in dict.fromkeys(grant.customer for grant in found):
        try:
            async with database.transaction(seller=seller) as connection:
                await _top_up(connection, customer, now)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            failed += 1
    return failed


async def _top_up(connection: AsyncConnection, customer: str, now: datetime) -> None:
    await lock_billing(connection=connection, sweep=False)
    seller = await load_seller(connection=connection)
    grants = await topped_up_grants(connection=connection, customer=customer)
    by_root: dict[str, list[StoredGrant]] = {}
    for grant in grants:
        by_root.setdefault(_root(grant), []).append(grant)
    for root in grants:
        if root.top_up is not None and root.effective_at <= now and not root.is_pending:
            await _top_up_one(connection, seller, root, by_root[root.id], now)


def _root(grant: StoredGrant) -> str:
    return grant.tops_up or grant.id


async def _top_up_one(
    connection: AsyncConnection,
    seller: Seller,
    root: StoredGrant,
    family: Sequence[StoredGrant],
    now: datetime,
) -> None:
    """`family` is the grant and what tops it up, paid for or not."""
    assert root.top_up is not None
    drawn = await project_draws(
        connection=connection,
        seller=seller,
        customers=[root.customer],
        at=now,
        boundless=[root.id],
    )
    left = sum(grant.left_minor for grant in family)
    will_draw = sum(sum(drawn.get(grant.id, {}).values()) for grant in family)
    amount = _missing(root.top_up, left - will_draw, root.currency)
    if amount <= 0:
        return
    ordinal = await count_top_ups(connection=connection, grant=root.id) + 1
    parts = (seller.id, root.id, "top_up", ordinal)
    identity = derived_id(prefix="crg", body=derived_body(at=now, parts=parts))
    key = await free_key(connection=connection, wanted=f"{root.key}:{ordinal}", otherwise=identity)
    await open_grant(
        connection=connection,
        seller=seller,
        grant=StoredGrant(
            id=identity,
            key=key,
            customer=root.customer,
            currency=root.currency,
            kind=root.kind,
            amount_minor=amount,
            priority=root.priority,
            effective_at=now,
            expires_at=root.expires_at,
            prices=root.prices,
            meters=root.meters,
            rollover_fraction=root.rollover_fraction,
            tops_up=root.id,
            aged_at=now,
            created_at=now,
        ),
        purchase=_purchase(root, amount),
        now=now,
    )


def _missing(top_up: TopUp, projected_minor: int, currency: str) -> int:
    if projected_minor >= parse_amount(top_up.below, currency=currency):
        return 0
    if top_up.amount is not None:
        return parse_amount(top_up.amount, currency=currency)
    assert top_up.to is not None
    return parse_amount(top_up.to, currency=currency) - projected_minor


def _purchase(root: StoredGrant, amount_minor: int) -> CreditPurchase | None:
    """Bought credit is sold at its face value, on the terms of the grant that it tops up."""
    if root.kind is not CreditKind.PREPAID:
        return None
    known = purchase_of(root)
    return CreditPurchase(
        amount=format_amount(amount_minor, currency=root.currency),
        available="on_issue" if known is None else known.available,
    )
