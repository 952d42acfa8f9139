"""`/v1/coupons`, and the coupons that subscriptions have."""

from datetime import datetime

from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from api.tax_rates import ArchiveDraft
from engine.errors import not_found
from plans.api_keys import Scope
from plans.coupon_store import applied_coupons, archive_coupon, find_coupon, list_coupons
from plans.coupons import AppliedCoupon, Coupon, CouponDraft, CouponGift
from plans.give_coupon import add_coupon, give_coupons, take_coupon
from plans.model import Seller
from plans.subscription_store import list_subscriptions


@post(
    "/v1/coupons",
    operation_id="createCoupon",
    summary="Add a coupon",
    tags=["Coupons"],
    opt={"scope": Scope.ADMIN},
)
async def create_coupon(
    data: JSONBody[CouponDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Coupon:
    """Add a coupon that takes off a percentage or an amount."""
    return await add_coupon(
        connection=connection, seller=seller, draft=data, now=now, wall_now=wall_now
    )


@get(
    "/v1/coupons",
    operation_id="listCoupons",
    summary="List coupons",
    tags=["Coupons"],
    opt={"scope": Scope.READ},
)
async def get_coupons(
    page: NamedDependency[PageRequest], connection: NamedDependency[AsyncConnection]
) -> Page[Coupon]:
    """All coupons in the order they were added."""
    found = await list_coupons(connection=connection, limit=page.fetched, after=page.after)
    return page.page(found, ids=[each.id for each in found])


@get(
    "/v1/coupons/{coupon:str}",
    operation_id="getCoupon",
    summary="One coupon",
    tags=["Coupons"],
    opt={"scope": Scope.READ},
)
async def get_coupon(coupon: FromPath[str], connection: NamedDependency[AsyncConnection]) -> Coupon:
    """The coupon with that key or id."""
    return await _find(connection, coupon)


@post(
    "/v1/coupons/{coupon:str}/archive",
    operation_id="archiveCoupon",
    summary="Archive a coupon",
    tags=["Coupons"],
    status_code=200,
    opt={"scope": Scope.ADMIN},
)
async def post_archive_coupon(
    coupon: FromPath[str],
    data: JSONBody[ArchiveDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Coupon:
    """Let nobody be given it any more. Subscriptions that have it keep it."""
    del data
    found = await _find(connection, coupon)
    await archive_coupon(connection=connection, coupon_id=found.id, now=now)
    return await _find(connection, found.id)


@post(
    "/v1/subscriptions/{reference:str}/coupons",
    operation_id="giveCoupon",
    summary="Give a subscription a coupon",
    tags=["Coupons"],
    opt={"scope": Scope.BILLING},
)
async def give_subscription_coupon(
    reference: FromPath[str],
    data: JSONBody[CouponGift],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> AppliedCoupon:
    """It reduces the documents billed from now on."""
    subscription, currency = await _subscription(connection, reference, now)
    await give_coupons(
        connection=connection,
        subscription_id=subscription,
        currency=currency,
        coupons=[data.coupon],
        now=now,
        wall_now=wall_now,
        pointer="/coupon",
    )
    return (await applied_coupons(connection=connection, subscription_id=subscription))[-1]


@get(
    "/v1/subscriptions/{reference:str}/coupons",
    operation_id="listSubscriptionCoupons",
    summary="List the coupons of a subscription",
    tags=["Coupons"],
    opt={"scope": Scope.READ},
)
async def get_subscription_coupons(
    reference: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Page[AppliedCoupon]:
    """All of them, in the order in which they were given and are taken off."""
    subscription, _ = await _subscription(connection, reference, now)
    found = await applied_coupons(connection=connection, subscription_id=subscription)
    return Page(data=tuple(found), next_cursor=None)


@delete(
    "/v1/subscriptions/{reference:str}/coupons/{coupon:str}",
    operation_id="takeCoupon",
    summary="Take a coupon from a subscription",
    tags=["Coupons"],
    status_code=204,
    opt={"scope": Scope.BILLING},
)
async def take_subscription_coupon(
    reference: FromPath[str],
    coupon: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> None:
    """Documents billed from now on are whole; what it took off before stays."""
    subscription, _ = await _subscription(connection, reference, now)
    await take_coupon(
        connection=connection, subscription_id=subscription, reference=coupon, now=now
    )


async def _find(connection: AsyncConnection, reference: str) -> Coupon:
    found = await find_coupon(connection=connection, reference=reference)
    if found is None:
        raise not_found(noun="coupon", reference=reference)
    return found


async def _subscription(
    connection: AsyncConnection, reference: str, now: datetime
) -> tuple[str, str]:
    """Id and currency of the subscription with that key or id."""
    rows, _ = await list_subscriptions(connection=connection, now=now, limit=1, reference=reference)
    if not rows:
        raise not_found(noun="subscription", reference=reference)
    return rows[0]["id"], rows[0]["currency"]


ROUTES = (
    create_coupon,
    get_coupons,
    get_coupon,
    post_archive_coupon,
    give_subscription_coupon,
    get_subscription_coupons,
    take_subscription_coupon,
)
