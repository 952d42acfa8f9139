"""Verbs: give or sell a customer credit, and void it."""

from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, invalid_field, not_found
from engine.ids import new_id
from engine.money import parse_amount
from engine.period import Alignment, Calendar, boundary
from invoicing.close_grant import close_grant, enter_granted, paid_share
from invoicing.project_draws import project_draws
from invoicing.sell_credit import sell_credit
from invoicing.store import lock_billing
from plans.catalog import refuse_invalid
from plans.credit_grant_store import (
    StoredGrant,
    find_grant,
    insert_grant,
    is_key_taken,
    stored_grant,
)
from plans.credit_grants import (
    CreditGrant,
    CreditGrantDraft,
    CreditKind,
    CreditPurchase,
    CreditVoid,
    credit_errors,
)
from plans.model import Seller
from plans.store import find_customer


async def grant_credit(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: CreditGrantDraft,
    now: datetime,
    wall_now: datetime,
) -> CreditGrant:
    """Give or sell credit; what is sold is invoiced at once.

    Errors: `invalid_body`, `unknown_customer`; a key already taken violates its unique key.
    """
    customer = await find_customer(connection=connection, reference=draft.customer)
    if customer is None:
        detail = f"no customer {draft.customer!r}"
        raise invalid_field(pointer="/customer", code="unknown_customer", detail=detail)
    currency = draft.currency or customer.currency or seller.currency
    begins = draft.effective_at or now
    refuse_invalid(credit_errors(draft, currency=currency, effective_at=max(begins, now)))
    scope = draft.scope
    grant = StoredGrant(
        id=new_id(prefix="crg", now=wall_now),
        key=draft.key,
        customer=customer.id,
        currency=currency,
        kind=draft.kind,
        amount_minor=parse_amount(draft.amount, currency=currency),
        priority=draft.priority,
        effective_at=begins,
        expires_at=draft.expires_at,
        prices=() if scope is None else scope.prices,
        meters=() if scope is None else scope.meters,
        rollover_fraction=draft.rollover_fraction,
        recurring=draft.recurring,
        top_up=draft.top_up,
        aged_at=now,
        created_at=now,
        timezone=customer.timezone or seller.timezone,
    )
    if draft.recurring is not None:
        grant = msgspec.structs.replace(grant, recurs_from=begins, recurs_until=draft.expires_at)
        grant = msgspec.structs.replace(grant, expires_at=end_of_round(grant=grant, index=1))
    await open_grant(
        connection=connection, seller=seller, grant=grant, purchase=draft.purchase, now=now
    )
    made = await find_grant(connection=connection, reference=grant.id, now=now)
    assert made is not None
    return made


async def open_grant(
    *,
    connection: AsyncConnection,
    seller: Seller,
    grant: StoredGrant,
    purchase: CreditPurchase | None,
    now: datetime,
) -> None:
    """Write a grant with its invoice, if it is sold, and its entry."""
    if purchase is not None:
        await lock_billing(connection=connection, sweep=False)
        grant = await sell_credit(
            connection=connection, seller=seller, grant=grant, purchase=purchase, now=now
        )
    await insert_grant(connection=connection, grant=grant)
    await enter_granted(connection=connection, seller=seller, grant=grant, now=now)


async def free_key(*, connection: AsyncConnection, wanted: str, otherwise: str) -> str:
    """The key wanted, unless somebody has it or it is too long."""
    if len(wanted) > 128 or await is_key_taken(connection=connection, key=wanted):
        return otherwise
    return wanted


def end_of_round(*, grant: StoredGrant, index: int) -> datetime:
    """When the recurrence `index` of a recurring grant (from 1) ends."""
    end = boundary(calendar=calendar_of_rounds(grant), index=index)
    return end if grant.recurs_until is None else min(end, grant.recurs_until)


def calendar_of_rounds(grant: StoredGrant) -> Calendar:
    """How the intervals of a recurring grant lie: from its first beginning."""
    assert grant.recurring is not None
    assert grant.recurs_from is not None
    return Calendar(
        unit=grant.recurring.unit,
        count=grant.recurring.count,
        alignment=Alignment.ANNIVERSARY,
        anchor_at=grant.recurs_from,
        anchor_day=None,
        timezone=grant.timezone,
    )


async def void_credit(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: CreditVoid,
    now: datetime,
) -> CreditGrant:
    """Take back what is left of a grant, but for what usage so far will draw.

    What was paid for the rest of bought credit becomes customer balance, unless it is forfeited.
    Errors: `not_found`, `grant_ended`, `purchase_unpaid`.
    """
    await lock_billing(connection=connection, sweep=False)
    grant = await stored_grant(connection=connection, reference=reference)
    if grant is None:
        raise not_found(noun="credit grant", reference=reference)
    if grant.ended_at is not None:
        detail = f"the credit grant {reference!r} has ended"
        raise BillingError("grant_ended", detail, kind=ErrorKind.CONFLICT)
    if grant.is_pending:
        detail = f"the invoice that sold {reference!r} is not paid: void that"
        raise BillingError("purchase_unpaid", detail, kind=ErrorKind.CONFLICT)
    projected = await project_draws(
        connection=connection, seller=seller, customers=[grant.customer], at=now
    )
    reserved = projected.get(grant.id, {})
    rest = grant.left_minor - sum(reserved.values())
    pays = grant.kind is CreditKind.PREPAID and draft.settle == "credit"
    await close_grant(
        connection=connection,
        seller=seller,
        grant=grant,
        at=now,
        ended_by="voided",
        reserved=reserved,
        balance_minor=paid_share(grant=grant, amount_minor=rest, seller=seller) if pays else 0,
    )
    voided = await find_grant(connection=connection, reference=grant.id, now=now)
    assert voided is not None
    return voided
