"""Verbs: make a coupon known, give it to a subscription, take it back."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import FieldError, not_found
from engine.ids import new_id
from plans.catalog import refuse_invalid
from plans.coupon_store import (
    applied_coupons,
    apply_coupon,
    find_coupon,
    insert_coupon,
    remove_coupon,
)
from plans.coupons import Coupon, CouponDraft, coupon_errors
from plans.model import Seller


async def add_coupon(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: CouponDraft,
    now: datetime,
    wall_now: datetime,
) -> Coupon:
    """Add a coupon. Errors: `invalid_body`; a key already taken violates its unique key."""
    refuse_invalid(coupon_errors(draft, currency=seller.currency))
    coupon_id = new_id(prefix="cpn", now=wall_now)
    await insert_coupon(
        connection=connection,
        coupon_id=coupon_id,
        draft=draft,
        currency=draft.currency or seller.currency,
        now=now,
    )
    made = await find_coupon(connection=connection, reference=coupon_id)
    assert made is not None
    return made


async def give_coupons(
    *,
    connection: AsyncConnection,
    subscription_id: str,
    currency: str,
    coupons: Sequence[str],
    now: datetime,
    wall_now: datetime,
    pointer: str = "/coupons",
) -> None:
    """Give a subscription, billed in `currency`, the coupons with these keys, in this order.

    Error: `invalid_body` that names each coupon that is none, is archived, is in another currency
    or which the subscription has.
    """
    having = {
        each.coupon
        for each in await applied_coupons(connection=connection, subscription_id=subscription_id)
        if each.removed_at is None
    }
    errors: list[FieldError] = []
    for index, reference in enumerate(coupons):
        here = f"{pointer}/{index}" if pointer.endswith("s") else pointer
        found = await find_coupon(connection=connection, reference=reference)
        if found is None or found.archived_at is not None:
            detail = f"no coupon {reference!r}"
            errors.append(FieldError(pointer=here, code="unknown_coupon", detail=detail))
        elif found.currency not in {None, currency}:
            detail = f"{reference!r} takes off {found.currency}, the subscription pays {currency}"
            errors.append(FieldError(pointer=here, code="currency_mismatch", detail=detail))
        elif found.key in having:
            detail = f"the subscription has the coupon {reference!r}"
            errors.append(FieldError(pointer=here, code="duplicate", detail=detail))
        else:
            having.add(found.key)
            await apply_coupon(
                connection=connection,
                application_id=new_id(prefix="cpa", now=wall_now),
                coupon_id=found.id,
                subscription_id=subscription_id,
                now=now,
            )
    refuse_invalid(errors)


async def take_coupon(
    *, connection: AsyncConnection, subscription_id: str, reference: str, now: datetime
) -> None:
    """Take a coupon back: documents from `now` on are whole. Error: `not_found`."""
    taken = await remove_coupon(
        connection=connection, subscription_id=subscription_id, reference=reference, now=now
    )
    if not taken:
        raise not_found(noun="coupon of the subscription", reference=reference)
