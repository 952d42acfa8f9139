"""Verb: end the grants whose time has come; roll over what may be, and begin the next round."""

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import derived_body, derived_id
from engine.money import round_ratio
from engine.period import boundary, period_holding
from invoicing.blame import is_of_an_account
from invoicing.close_grant import close_grant, expire_surplus
from invoicing.credit_store import customers_of_ending, surpluses
from invoicing.grant_credit import calendar_of_rounds, end_of_round, free_key, open_grant
from invoicing.project_draws import Draws, project_draws
from invoicing.store import lock_billing
from plans.credit_grant_store import (
    StoredGrant,
    ending_grants,
    insert_grant,
    purchase_of,
    stored_grant,
)
from plans.model import Seller
from plans.seller_store import load_seller


async def end_credits(
    *, database: Database, seller: int, at: datetime, customers: Sequence[str] | None = None
) -> int:
    """End every grant that expires by `at`, a transaction for each customer; how many failed.

    Documents due at that very instant must have been posted before. A customer whose usage cannot
    be rated keeps its grants until it can. `customers` (ids) leaves the grants of others alone.
    """
    async with database.transaction(seller=seller) as connection:
        ending = await customers_of_ending(connection=connection, at=at, customers=customers)
    failed = 0
    for customer in ending:
        try:
            async with database.transaction(seller=seller) as connection:
                await _end(connection, customer, at)
        except Exception as error:
            if not is_of_an_account(error):
                raise
            failed += 1
    async with database.transaction(seller=seller) as connection:
        await _drop_surpluses(connection, at)
    return failed


async def _end(connection: AsyncConnection, customer: str, at: datetime) -> None:
    await lock_billing(connection=connection, sweep=False)
    seller = await load_seller(connection=connection)
    projected: dict[datetime, Draws] = {}
    for grant in await ending_grants(connection=connection, customer=customer, at=at):
        ended_at = grant.expires_at
        assert ended_at is not None
        if ended_at not in projected:
            projected[ended_at] = await project_draws(
                connection=connection, seller=seller, customers=[customer], at=ended_at
            )
        reserved = projected[ended_at].get(grant.id, {})
        left = grant.left_minor - sum(reserved.values())
        share = Fraction(grant.rollover_fraction) * left
        rolled = round_ratio(share.numerator, share.denominator, rounding=seller.rounding)
        await close_grant(
            connection=connection,
            seller=seller,
            grant=grant,
            at=ended_at,
            ended_by="expired",
            reserved=reserved,
            rolled_minor=0 if grant.is_pending else rolled,
        )
        if rolled and not grant.is_pending:
            await _roll_over(connection, seller, grant, rolled)
        await _renew(connection, seller, grant)


async def _roll_over(
    connection: AsyncConnection, seller: Seller, grant: StoredGrant, amount_minor: int
) -> None:
    """What rolls over keeps the age of its source and the liability: it enters nothing."""
    begins = grant.expires_at
    assert begins is not None
    expires_at = None
    if grant.recurring is not None:
        calendar, index = calendar_of_rounds(grant), _rounds(grant)
        if boundary(calendar=calendar, index=index) != begins:  # a last round that was cut short
            calendar, index = msgspec.structs.replace(calendar, anchor_at=begins), 0
        expires_at = boundary(calendar=calendar, index=index + 1)
    identity = _follower(seller, grant, "rolled")
    key = await free_key(connection=connection, wanted=f"{grant.key}:rolled", otherwise=identity)
    await insert_grant(
        connection=connection,
        grant=StoredGrant(
            id=identity,
            key=key,
            customer=grant.customer,
            currency=grant.currency,
            kind=grant.kind,
            amount_minor=amount_minor,
            priority=grant.priority,
            effective_at=begins,
            expires_at=expires_at,
            prices=grant.prices,
            meters=grant.meters,
            rolled_from=grant.id,
            aged_at=grant.aged_at,
            created_at=begins,
        ),
    )


async def _renew(connection: AsyncConnection, seller: Seller, grant: StoredGrant) -> None:
    """The full amount for the next interval, sold again if it was sold."""
    begins = grant.expires_at
    assert begins is not None
    if grant.recurring is None or (grant.recurs_until is not None and grant.recurs_until <= begins):
        return
    index = _rounds(grant) + 1
    identity = _follower(seller, grant, "renewed")
    first = grant.key.rpartition("#")[0] or grant.key
    key = await free_key(connection=connection, wanted=f"{first}#{index}", otherwise=identity)
    renewed = StoredGrant(
        id=identity,
        key=key,
        customer=grant.customer,
        currency=grant.currency,
        kind=grant.kind,
        amount_minor=grant.amount_minor,
        priority=grant.priority,
        effective_at=begins,
        expires_at=end_of_round(grant=grant, index=index),
        prices=grant.prices,
        meters=grant.meters,
        rollover_fraction=grant.rollover_fraction,
        recurring=grant.recurring,
        recurs_from=grant.recurs_from,
        recurs_until=grant.recurs_until,
        renews=grant.id,
        aged_at=begins,
        created_at=begins,
    )
    await open_grant(
        connection=connection,
        seller=seller,
        grant=renewed,
        purchase=purchase_of(grant),
        now=begins,
    )


def _rounds(grant: StoredGrant) -> int:
    """Which recurrence the grant is, from 1."""
    return period_holding(calendar=calendar_of_rounds(grant), at=grant.effective_at).index + 1


def _follower(seller: Seller, grant: StoredGrant, how: str) -> str:
    at = grant.expires_at
    assert at is not None
    body = derived_body(at=at, parts=(seller.id, grant.id, how))
    return derived_id(prefix="crg", body=body)


async def _drop_surpluses(connection: AsyncConnection, at: datetime) -> None:
    await lock_billing(connection=connection, sweep=False)
    seller = await load_seller(connection=connection)
    for reference, surplus in await surpluses(connection=connection):
        grant = await stored_grant(connection=connection, reference=reference)
        assert grant is not None
        await expire_surplus(
            connection=connection, seller=seller, grant=grant, surplus_minor=surplus, at=at
        )
