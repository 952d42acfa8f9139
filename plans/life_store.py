"""SQL for what a subscription started with, and every change since."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from plans.agreement import Agreement, Anchor, ScheduledChange
from plans.alteration import Alteration
from plans.life import Act, Beginning, Offer
from plans.prices import Price
from plans.store import find_plan, price_ids_of
from plans.subscription_store import insert_intervals

_BEGINNING: Final = text("""
SELECT id, plan, quantities, overrides, trial_ends_at FROM subscriptions
WHERE seller = current_seller() AND id = ANY(:ids)
""")
_ACTS: Final = text("""
SELECT subscription, id, number, kind, effective_at, recorded_at, plan, quantities, overrides,
  prorate, invoice_now
FROM subscription_changes
WHERE seller = current_seller() AND subscription = ANY(:ids) AND undone_at IS NULL
ORDER BY subscription, number
""")
_LAST_NUMBERS: Final = text("""
SELECT subscription, max(number) AS number FROM subscription_changes
WHERE seller = current_seller() AND subscription = ANY(:ids) GROUP BY subscription
""")
_OWN_PRICES: Final = text("""
SELECT id, body FROM prices WHERE seller = current_seller() AND id = ANY(:ids)
""")
_INSERT_OWN: Final = text("""
INSERT INTO prices (id, plan, ordinal, key, body, subscription)
SELECT :id, :plan, coalesce((SELECT max(ordinal) FROM prices
    WHERE seller = current_seller() AND plan = :plan AND key = :key), 0),
  :key, CAST(CAST(:body AS text) AS jsonb), :subscription
""")
_INSERT_ACT: Final = text("""
INSERT INTO subscription_changes (id, subscription, number, kind, effective_at, recorded_at, plan,
  quantities, overrides, prorate, invoice_now)
VALUES (:id, :subscription, :number, :kind, :effective_at, :recorded_at, :plan,
  CAST(CAST(:quantities AS text) AS jsonb), CAST(CAST(:overrides AS text) AS jsonb), :prorate,
  :invoice_now)
""")
_UNDO: Final = text("""
UPDATE subscription_changes SET undone_at = :now WHERE seller = current_seller() AND id = :id
""")
_SCHEDULED: Final = text("""
SELECT c.id, s.key AS subscription, c.kind, c.effective_at, p.key AS plan, c.quantities,
  coalesce((SELECT jsonb_object_agg(r.key, r.body) FROM jsonb_each_text(c.overrides) o
    JOIN prices r ON r.seller = c.seller AND r.id = o.value), '{}') AS overrides,
  c.recorded_at AS created_at
FROM subscription_changes c JOIN subscriptions s ON s.seller = c.seller AND s.id = c.subscription
  LEFT JOIN plans p ON p.seller = c.seller AND p.id = c.plan
WHERE c.seller = current_seller() AND c.undone_at IS NULL AND c.effective_at > :now
  AND (s.ends_at IS NULL OR c.effective_at < s.ends_at)
  AND c.subscription = :subscription AND c.number > coalesce((
    SELECT a.number FROM subscription_changes a
    WHERE a.seller = c.seller AND a.subscription = c.subscription AND a.id = :after), 0)
ORDER BY c.number LIMIT :limit
""")
_RESHAPE: Final = text("""
UPDATE price_intervals SET end_at = :end_at, end_is_cancellation = :end_is_cancellation,
  credit_unused = :credit_unused, agreed_end_at = :agreed_end_at, closed_at = :closed_at,
  start_is_due = :start_is_due
WHERE seller = current_seller() AND id = :id
""")
_PROGRESS: Final = text("""
UPDATE subscriptions SET next_due_at = :next_due_at, next_change_at = :next_change_at,
  dirty_from_at = least(dirty_from_at, :dirty_from_at), revision = revision + 1
WHERE seller = current_seller() AND id = :id
""")


def json_text(value: object) -> str:
    """As a JSON column takes it."""
    return msgspec.json.encode(value).decode()


async def load_beginnings(
    *, connection: AsyncConnection, agreements: Sequence[Agreement]
) -> dict[str, Beginning]:
    """What each subscription started with, by its id."""
    ids = [agreement.id for agreement in agreements]
    rows = {row.id: row for row in await connection.execute(_BEGINNING, {"ids": ids})}
    return {
        agreement.id: Beginning(
            starts_at=agreement.starts_at,
            ends_at=agreement.ends_at,
            trial_ends_at=rows[agreement.id].trial_ends_at,
            anchor=Anchor(
                at=agreement.anchor_at, day=agreement.anchor_day, alignment=agreement.alignment
            ),
            timezone=agreement.timezone,
            plan=rows[agreement.id].plan,
            quantities=rows[agreement.id].quantities,
            overrides=rows[agreement.id].overrides,
        )
        for agreement in agreements
    }


async def load_acts(
    *, connection: AsyncConnection, subscriptions: Sequence[str]
) -> dict[str, list[Act]]:
    """Every change that was not undone, as recorded, by subscription (id)."""
    found: dict[str, list[Act]] = {}
    for row in (await connection.execute(_ACTS, {"ids": list(subscriptions)})).mappings():
        fields = dict(row)
        found.setdefault(fields.pop("subscription"), []).append(msgspec.convert(fields, Act))
    return found


async def last_number(*, connection: AsyncConnection, subscription: str) -> int:
    """The number of the latest change, undone ones too; 0 before the first."""
    found = await last_numbers(connection=connection, subscriptions=[subscription])
    return found.get(subscription, 0)


async def last_numbers(
    *, connection: AsyncConnection, subscriptions: Sequence[str]
) -> dict[str, int]:
    """The same for each subscription (id) that has a change."""
    rows = await connection.execute(_LAST_NUMBERS, {"ids": list(subscriptions)})
    return {row.subscription: row.number for row in rows}


async def load_offer(*, connection: AsyncConnection, plan: str) -> Offer:
    """A plan version by its id."""
    found = await find_plan(connection=connection, key=plan)
    assert found is not None, "a life names plans that exist"
    return Offer(plan=found, price_ids=await price_ids_of(connection=connection, plan_id=found.id))


async def load_own_prices(
    *, connection: AsyncConnection, prices: Sequence[str]
) -> dict[str, Price]:
    """Prices of a subscription's own by their ids."""
    rows = await connection.execute(_OWN_PRICES, {"ids": list(prices)})
    return {row.id: msgspec.convert(row.body, Price) for row in rows}


async def insert_own_prices(
    *, connection: AsyncConnection, subscription: str, prices: Mapping[str, tuple[str, Price]]
) -> None:
    """Write prices of the subscription's own: {price id: (plan id, price)}."""
    for price_id, (plan, price) in prices.items():
        row = {"id": price_id, "plan": plan, "key": price.key, "body": json_text(price)}
        await connection.execute(_INSERT_OWN, {**row, "subscription": subscription})


async def insert_act(*, connection: AsyncConnection, subscription: str, act: Act) -> None:
    """Write one change."""
    await connection.execute(_INSERT_ACT, _act_row(subscription, act))


def _act_row(subscription: str, act: Act) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.structs.asdict(act)
    return row | {
        "kind": act.kind.value,
        "subscription": subscription,
        "quantities": json_text(act.quantities),
        "overrides": json_text(act.overrides),
    }


async def undo_act(*, connection: AsyncConnection, act: str, now: datetime) -> None:
    """Mark a change as undone."""
    await connection.execute(_UNDO, {"id": act, "now": now})


async def scheduled_changes(
    *,
    connection: AsyncConnection,
    subscription: str,
    now: datetime,
    limit: int,
    after: str | None = None,
) -> list[ScheduledChange]:
    """Changes of a subscription (id) that take effect after `now`, as they were recorded."""
    parameters = {"subscription": subscription, "now": now, "limit": limit, "after": after}
    rows = await connection.execute(_SCHEDULED, parameters)
    return [msgspec.convert(dict(row), ScheduledChange) for row in rows.mappings()]


async def save_alterations(
    *, connection: AsyncConnection, alterations: Sequence[Alteration]
) -> None:
    """Write acts, where intervals end now and why, new ones, and what it means for work to come."""
    acts = [_act_row(one.agreement.id, one.act) for one in alterations if one.act is not None]
    closed = [
        {
            "id": stretch.id,
            "end_at": stretch.end_at,
            "end_is_cancellation": stretch.end_is_cancellation,
            "credit_unused": stretch.credit_unused,
            "agreed_end_at": stretch.agreed_end_at,
            "closed_at": stretch.closed_at,
            "start_is_due": stretch.start_is_due,
        }
        for one in alterations
        for stretch in one.closed
    ]
    progress = [
        {
            "id": one.agreement.id,
            "next_due_at": one.agreement.next_due_at,
            "next_change_at": one.agreement.next_change_at,
            "dirty_from_at": one.agreement.dirty_from_at,
        }
        for one in alterations
    ]
    for statement, rows in ((_INSERT_ACT, acts), (_RESHAPE, closed)):
        if rows:
            await connection.execute(statement, rows)
    opened = [(one.agreement.id, stretch) for one in alterations for stretch in one.opened]
    await insert_intervals(connection=connection, intervals=opened)
    if progress:
        await connection.execute(_PROGRESS, progress)
