"""Verb: cancel a subscription."""

from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import not_found
from plans.agreement import CancelDraft
from plans.subscription_store import lock_agreement, save_cancellation
from plans.timeline import (
    cancel_intervals,
    cancellation_instant,
    next_change_at,
    next_due_at,
)


async def cancel(
    *, connection: AsyncConnection, reference: str, draft: CancelDraft, now: datetime
) -> str:
    """Close the subscription's intervals; what was billed beyond the end becomes a difference.

    Everything falls due at the end, or at once when the end lies behind what is derived. Gives
    the subscription's id. Errors: `not_found`, `already_cancelled`, `invalid_body`.
    """
    agreement = await lock_agreement(connection=connection, reference=reference)
    if agreement is None:
        raise not_found(noun="subscription", reference=reference)
    effective = cancellation_instant(agreement=agreement, draft=draft, now=now)
    intervals = cancel_intervals(
        agreement=agreement, effective=effective, refund=draft.refund, now=now
    )
    closed = msgspec.structs.replace(agreement, intervals=intervals, ends_at=effective)
    derived = agreement.derived_through_at
    due_at = next_due_at(agreement=closed, after=derived)
    billed = derived is not None and effective <= derived
    if billed:
        due_at = max(now, effective)
    await save_cancellation(
        connection=connection,
        agreement=agreement,
        intervals=intervals,
        effective=effective,
        refund=draft.refund,
        dirty_from_at=effective if billed else None,
        next_due_at=due_at,
        next_change_at=next_change_at(agreement=closed, after=derived),
        now=now,
    )
    return agreement.id
