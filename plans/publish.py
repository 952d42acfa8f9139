"""Verbs that publish what is sold: meters, plans and their versions."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import new_id
from plans.catalog import meter_errors, refuse_invalid, unmetered_errors
from plans.drafts import PlanVersionDraft, next_version
from plans.model import Meter, MeterDraft, Plan, PlanDraft, charged_prices
from plans.store import (
    aggregations_of_meters,
    dimensions_of_meters,
    find_meter,
    find_plan,
    insert_meter,
    insert_plan,
    lock_plan,
)
from plans.validation import validate_plan


async def publish_meter(
    *, connection: AsyncConnection, draft: MeterDraft, now: datetime, wall_now: datetime
) -> Meter:
    """Add a meter. Errors: `invalid_body`; a key already taken violates its unique key.

    `now` is business time; `wall_now` orders the ids.
    """
    refuse_invalid(meter_errors(draft))
    meter_id = new_id(prefix="mtr", now=wall_now)
    await insert_meter(connection=connection, meter_id=meter_id, draft=draft, now=now)
    meter = await find_meter(connection=connection, reference=meter_id)
    assert meter is not None
    return meter


async def publish_plan(
    *, connection: AsyncConnection, draft: PlanDraft, now: datetime, wall_now: datetime
) -> Plan:
    """Publish the first version of a plan. Errors: `invalid_body`, `key_taken`."""
    await _refuse_unsound(connection=connection, draft=draft)
    await lock_plan(connection=connection, key=draft.key)
    if await find_plan(connection=connection, key=draft.key) is not None:
        detail = f"there is a plan {draft.key!r}; publish a version of it"
        raise BillingError("key_taken", detail, kind=ErrorKind.CONFLICT)
    return await _write(connection=connection, draft=draft, version=1, now=now, wall_now=wall_now)


async def publish_version(
    *,
    connection: AsyncConnection,
    reference: str,
    draft: PlanVersionDraft,
    now: datetime,
    wall_now: datetime,
) -> Plan:
    """Publish the next version of the plan with that key or id; earlier ones stay as they are.

    Errors: `not_found`, `invalid_body`.
    """
    known = await find_plan(connection=connection, key=reference)
    if known is None:
        raise not_found(noun="plan", reference=reference)
    await lock_plan(connection=connection, key=known.key)
    latest = await find_plan(connection=connection, key=known.key)
    assert latest is not None
    body = next_version(latest=latest, draft=draft)
    await _refuse_unsound(connection=connection, draft=body)
    version = latest.version + 1
    return await _write(
        connection=connection, draft=body, version=version, now=now, wall_now=wall_now
    )


async def _refuse_unsound(*, connection: AsyncConnection, draft: PlanDraft) -> None:
    named = [price.meter for price in draft.prices if price.meter is not None]
    known = await dimensions_of_meters(connection=connection, keys=named)
    aggregations = await aggregations_of_meters(connection=connection, keys=named)
    refuse_invalid(
        [
            *validate_plan(draft),
            *unmetered_errors(draft=draft, known=known, aggregations=aggregations),
        ]
    )


async def _write(
    *,
    connection: AsyncConnection,
    draft: PlanDraft,
    version: int,
    now: datetime,
    wall_now: datetime,
) -> Plan:
    plan_id = new_id(prefix="pln", now=wall_now)
    await insert_plan(
        connection=connection,
        plan_id=plan_id,
        version=version,
        draft=draft,
        price_ids=[new_id(prefix="prc", now=wall_now) for _ in charged_prices(draft)],
        now=now,
    )
    plan = await find_plan(connection=connection, key=plan_id)
    assert plan is not None
    return plan
