"""Verbs: watch for usage, watch for something else, watch no longer."""

from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import invalid_field, not_found
from engine.ids import new_id
from metering.alert_store import (
    delete_alert,
    find_alert,
    insert_alert,
    mark_watched,
    save_steps,
)
from metering.alerts import (
    UsageAlert,
    UsageAlertDraft,
    UsageAlertPatch,
    alert_faults,
    plain_steps,
)
from plans.catalog import refuse_invalid
from plans.store import find_customer, find_meter


async def add_alert(
    *, connection: AsyncConnection, draft: UsageAlertDraft, now: datetime, wall_now: datetime
) -> UsageAlert:
    """Watch from now on; usage of the windows running now counts.

    Errors: `invalid_body`; a key already taken violates its unique key.
    """
    meter = await find_meter(connection=connection, reference=draft.meter)
    if meter is None:
        detail = f"there is no meter {draft.meter[:100]!r}"
        raise invalid_field(pointer="/meter", code="not_found", detail=detail)
    customer = None
    if draft.customer is not None:
        customer = await find_customer(connection=connection, reference=draft.customer)
        if customer is None:
            detail = f"there is no customer {draft.customer[:100]!r}"
            raise invalid_field(pointer="/customer", code="not_found", detail=detail)
    refuse_invalid(
        alert_faults(
            thresholds=draft.thresholds,
            percents=draft.percents,
            window=draft.window,
            group=draft.group,
            meter=meter,
        )
    )
    alert_id = new_id(prefix="ual", now=wall_now)
    await insert_alert(
        connection=connection,
        alert_id=alert_id,
        draft=msgspec.structs.replace(
            draft, thresholds=plain_steps(draft.thresholds), percents=plain_steps(draft.percents)
        ),
        customer=None if customer is None else customer.id,
        meter=meter.id,
        now=now,
    )
    await mark_watched(connection=connection, alert_id=alert_id, now=now)
    return await _found(connection, alert_id)


async def change_alert(
    *, connection: AsyncConnection, reference: str, patch: UsageAlertPatch, now: datetime
) -> UsageAlert:
    """Watch for other steps; those told stay told. Errors: `not_found`, `invalid_body`."""
    found = await _found(connection, reference)
    meter = await find_meter(connection=connection, reference=found.meter)
    assert meter is not None
    thresholds = found.thresholds if patch.thresholds is msgspec.UNSET else patch.thresholds
    percents = found.percents if patch.percents is msgspec.UNSET else patch.percents
    refuse_invalid(
        alert_faults(
            thresholds=thresholds,
            percents=percents,
            window=found.window,
            group=found.group,
            meter=meter,
        )
    )
    await save_steps(
        connection=connection,
        alert_id=found.id,
        thresholds=plain_steps(thresholds),
        percents=plain_steps(percents),
        now=now,
    )
    await mark_watched(connection=connection, alert_id=found.id, now=now)
    return await _found(connection, found.id)


async def remove_alert(*, connection: AsyncConnection, reference: str) -> None:
    """Watch no longer; what was told stays in the outbox. Errors: `not_found`."""
    await delete_alert(connection=connection, alert_id=(await _found(connection, reference)).id)


async def _found(connection: AsyncConnection, reference: str) -> UsageAlert:
    found = await find_alert(connection=connection, reference=reference)
    if found is None:
        raise not_found(noun="usage alert", reference=reference)
    return found
