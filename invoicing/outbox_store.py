"""SQL that reads the outbox, in the order in which transactions told it."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.outbox import OutboxEvent

# A lower position never appears once a higher one was seen: positions are given under a lock that
# ends with the transaction.
_PAGE: Final = text("""
SELECT o.id, o.type, o.object, o.version, o.occurred_at, coalesce(
  CASE split_part(o.object, '_', 1)
  WHEN 'inv' THEN (SELECT jsonb_build_object('number', d.number, 'customer', c.key)
    FROM invoices d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'cn' THEN (SELECT jsonb_build_object('number', d.number, 'customer', c.key)
    FROM credit_notes d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'pay' THEN (SELECT jsonb_build_object('customer', c.key)
    FROM payments d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'ref' THEN (SELECT jsonb_build_object('customer', c.key)
    FROM refunds d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'sub' THEN (SELECT jsonb_build_object('subscription', d.key, 'customer', c.key)
    FROM subscriptions d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'run' THEN (SELECT jsonb_build_object('as_of', d.as_of) FROM billing_runs d
    WHERE d.seller = o.seller AND d.id = o.object)
  WHEN 'uat' THEN (SELECT jsonb_build_object('alert', d.alert_key, 'customer', c.key,
      'meter', m.key, 'group', d.group_values, 'threshold', d.threshold, 'percent', d.percent,
      'quantity', d.quantity)
    FROM usage_alert_triggers d JOIN customers c ON c.seller = d.seller AND c.id = d.customer
      JOIN meters m ON m.seller = d.seller AND m.id = d.meter
    WHERE d.seller = o.seller AND d.id = o.object)
  END, '{}') AS data, t.window_start_at, t.window_end_at
FROM (
  SELECT * FROM outbox WHERE seller = current_seller() AND position > :after
    AND (CAST(:types AS text[]) IS NULL OR type = ANY(:types))
  ORDER BY position LIMIT :limit) o
  LEFT JOIN usage_alert_triggers t ON t.seller = o.seller AND t.id = o.object
ORDER BY o.position
""")
_POSITION: Final = text("""
SELECT position FROM outbox WHERE seller = current_seller() AND id = :id
""")


async def find_position(*, connection: AsyncConnection, event: str) -> int | None:
    """Where an event (id) stands; None when there is none."""
    return (await connection.execute(_POSITION, {"id": event})).scalar_one_or_none()


async def list_outbox(
    *, connection: AsyncConnection, limit: int, after: int, types: Sequence[str] | None
) -> list[OutboxEvent]:
    """Up to `limit` events behind the position `after` in order, only those of `types` if given."""
    given = {"limit": limit, "after": after, "types": None if types is None else list(types)}
    rows = (await connection.execute(_PAGE, given)).mappings()
    return [_event(dict(row)) for row in rows]


def _event(row: dict[str, Any]) -> OutboxEvent:
    start, end = row.pop("window_start_at"), row.pop("window_end_at")
    if start is not None:
        row["data"] |= {"from": start, "to": end}
    return msgspec.convert(row, OutboxEvent)
