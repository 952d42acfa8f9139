"""`/v1/subscriptions`."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.pagination import Page, PageRequest
from engine.errors import not_found
from engine.money import format_amount
from plans.agreement import (
    CancelDraft,
    ChangeDraft,
    PauseDraft,
    ScheduledChange,
    Subscription,
    SubscriptionDraft,
)
from plans.api_keys import Scope
from plans.cancel import cancel
from plans.change import change, pause, resume, undo_change
from plans.life_store import scheduled_changes
from plans.model import Seller
from plans.subscribe import subscribe
from plans.subscription_store import list_subscriptions
from plans.timeline import status_at

CustomerFilter = Annotated[
    str | None, QueryParameter(description="Only those of this customer (key or id).")
]


def _answer(row: Mapping[Any, Any], quantities: Mapping[str, str], now: datetime) -> Subscription:
    status = status_at(
        starts_at=row["starts_at"],
        ends_at=row["ends_at"],
        cancelled_at=row["cancelled_at"],
        paused_at=row["paused_at"],
        now=now,
    )
    currency = row["currency"]
    told = {
        "status": status,
        "quantities": dict(quantities),
        "spend_thresholds": [
            format_amount(minor, currency=currency) for minor in row["spend_thresholds"]
        ],
    }
    return msgspec.convert({**row, **told}, Subscription)


async def _find(connection: AsyncConnection, reference: str, now: datetime) -> Subscription:
    rows, quantities = await list_subscriptions(
        connection=connection, now=now, limit=1, reference=reference
    )
    if not rows:
        raise not_found(noun="subscription", reference=reference)
    return _answer(rows[0], quantities.get(rows[0]["id"], {}), now)


@post(
    "/v1/subscriptions",
    operation_id="createSubscription",
    summary="Begin a subscription",
    tags=["Subscriptions"],
    opt={"scope": Scope.BILLING},
)
async def create_subscription(
    data: JSONBody[SubscriptionDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Subscription:
    """Open the plan's prices for a customer; the first charges fall due at the start."""
    made = await subscribe(
        connection=connection, seller=seller, draft=data, now=now, wall_now=wall_now
    )
    return await _find(connection, made, now)


@get(
    "/v1/subscriptions",
    operation_id="listSubscriptions",
    summary="List subscriptions",
    tags=["Subscriptions"],
    opt={"scope": Scope.READ},
)
async def get_subscriptions(
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    page: NamedDependency[PageRequest],
    customer: CustomerFilter = None,
) -> Page[Subscription]:
    """Subscriptions in the order they were made."""
    rows, quantities = await list_subscriptions(
        connection=connection, now=now, limit=page.fetched, after=page.after, customer=customer
    )
    found = [_answer(row, quantities.get(row["id"], {}), now) for row in rows]
    return page.page(found, ids=[item.id for item in found])


@get(
    "/v1/subscriptions/{reference:str}",
    operation_id="getSubscription",
    summary="Read a subscription",
    tags=["Subscriptions"],
    opt={"scope": Scope.READ},
)
async def get_subscription(
    reference: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Subscription:
    """One subscription, by key or id."""
    return await _find(connection, reference, now)


@post(
    "/v1/subscriptions/{reference:str}/cancel",
    operation_id="cancelSubscription",
    summary="Cancel a subscription",
    tags=["Subscriptions"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def cancel_subscription(
    reference: FromPath[str],
    data: JSONBody[CancelDraft],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
) -> Subscription:
    """End it now, at the period's end or at an instant; the unused part comes back as credit."""
    cancelled = await cancel(connection=connection, reference=reference, draft=data, now=now)
    return await _find(connection, cancelled, now)


@post(
    "/v1/subscriptions/{reference:str}/change",
    operation_id="changeSubscription",
    summary="Change a subscription",
    tags=["Subscriptions"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def change_subscription(  # noqa: PLR0917 - each is injected by its name
    reference: FromPath[str],
    data: JSONBody[ChangeDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Subscription:
    """Another plan, other quantities or prices, from now, the period's end or any instant on.

    The difference is on the customer's next document, or at once with `invoice_now`.
    """
    changed = await change(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, changed, now)


@post(
    "/v1/subscriptions/{reference:str}/pause",
    operation_id="pauseSubscription",
    summary="Pause a subscription",
    tags=["Subscriptions"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def pause_subscription(  # noqa: PLR0917 - each is injected by its name
    reference: FromPath[str],
    data: JSONBody[PauseDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Subscription:
    """Charge nothing from now, the period's end or any instant on, and let nothing fall due."""
    paused = await pause(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, paused, now)


@post(
    "/v1/subscriptions/{reference:str}/resume",
    operation_id="resumeSubscription",
    summary="Resume a subscription",
    tags=["Subscriptions"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def resume_subscription(  # noqa: PLR0917 - each is injected by its name
    reference: FromPath[str],
    data: JSONBody[PauseDraft],
    connection: NamedDependency[AsyncConnection],
    seller: NamedDependency[Seller],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Subscription:
    """Charge again from now, the period's end or any instant on."""
    resumed = await resume(
        connection=connection,
        seller=seller,
        reference=reference,
        draft=data,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, resumed, now)


@get(
    "/v1/subscriptions/{reference:str}/scheduled_changes",
    operation_id="listScheduledChanges",
    summary="List changes to come",
    tags=["Subscriptions"],
    opt={"scope": Scope.READ},
)
async def get_scheduled_changes(
    reference: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    page: NamedDependency[PageRequest],
) -> Page[ScheduledChange]:
    """Changes, phases, pauses and resumes not in effect yet, as they were recorded."""
    subscription = await _find(connection, reference, now)
    found = await scheduled_changes(
        connection=connection,
        subscription=subscription.id,
        now=now,
        limit=page.fetched,
        after=page.after,
    )
    return page.page(found, ids=[item.id for item in found])


@delete(
    "/v1/subscriptions/{reference:str}/scheduled_changes/{change_id:str}",
    operation_id="undoScheduledChange",
    summary="Undo a change to come",
    tags=["Subscriptions"],
    status_code=200,
    opt={"scope": Scope.BILLING},
)
async def undo_scheduled_change(
    reference: FromPath[str],
    change_id: FromPath[str],
    connection: NamedDependency[AsyncConnection],
    now: NamedDependency[datetime],
    wall_now: NamedDependency[datetime],
) -> Subscription:
    """Take a change back before it takes effect."""
    undone = await undo_change(
        connection=connection,
        reference=reference,
        change_id=change_id,
        now=now,
        wall_now=wall_now,
    )
    return await _find(connection, undone, now)


ROUTES = (
    create_subscription,
    get_subscriptions,
    get_subscription,
    cancel_subscription,
    change_subscription,
    pause_subscription,
    resume_subscription,
    get_scheduled_changes,
    undo_scheduled_change,
)
