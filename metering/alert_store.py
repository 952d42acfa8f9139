"""SQL of usage alerts: what is watched for, whose usage is to be compared, what was told."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metering.alerts import UsageAlert, UsageAlertDraft, WatchedAlert

_ANSWER: Final = """
SELECT a.id, a.key, m.key AS meter, c.key AS customer, a.group_values AS group, a.thresholds,
  a.percents, a.time_window AS window, a.created_at
FROM usage_alerts a JOIN meters m ON m.seller = a.seller AND m.id = a.meter
  LEFT JOIN customers c ON c.seller = a.seller AND c.id = a.customer
WHERE a.seller = current_seller()
"""
_PAGE: Final = text(
    f"{_ANSWER} AND (CAST(:after AS text) IS NULL OR a.id > :after) ORDER BY a.id LIMIT :limit"
)
_ONE: Final = text(f"{_ANSWER} AND (a.key = :reference OR a.id = :reference)")
_INSERT: Final = text("""
INSERT INTO usage_alerts (id, key, customer, meter, group_values, thresholds, percents,
  time_window, since_at, created_at)
VALUES (:id, :key, :customer, :meter, CAST(CAST(:group AS text) AS jsonb), :thresholds, :percents,
  :window, :now, :now)
""")
_CHANGE: Final = text("""
UPDATE usage_alerts SET thresholds = :thresholds, percents = :percents, since_at = :now
WHERE seller = current_seller() AND id = :id
""")
_DELETE: Final = text("DELETE FROM usage_alerts WHERE seller = current_seller() AND id = :id")
_WATCHED: Final = text("""
SELECT id, key, meter, customer, group_values AS group, thresholds, percents,
  time_window AS window, since_at
FROM usage_alerts WHERE seller = current_seller() ORDER BY id
""")
_HAS: Final = text("SELECT EXISTS (SELECT FROM usage_alerts WHERE seller = current_seller())")
_MARK: Final = """
INSERT INTO usage_alert_marks AS k (customer, first_at)
{whom}
ORDER BY 1
ON CONFLICT (seller, customer) DO UPDATE SET first_at = least(k.first_at, excluded.first_at),
  marks = k.marks + 1
"""
_MARK_SWEPT: Final = text(
    _MARK.format(
        whom="""SELECT c.id, timestamptz 'epoch' + u.micros * interval '1 microsecond'
FROM unnest(CAST(:customers AS bigint[]), CAST(:micros AS bigint[])) AS u (number, micros)
  JOIN customers c ON c.seller = current_seller() AND c.number = u.number
WHERE EXISTS (SELECT FROM usage_alerts a WHERE a.seller = c.seller
  AND (a.customer IS NULL OR a.customer = c.id))"""
    )
)
_MARK_WATCHED: Final = text(
    _MARK.format(
        whom="""SELECT c.id, CAST(:now AS timestamptz)
FROM customers c JOIN usage_alerts a ON a.seller = c.seller
  AND (a.customer IS NULL OR a.customer = c.id)
WHERE c.seller = current_seller() AND a.id = :id"""
    )
)
_MARKED: Final = text("""
SELECT k.customer, c.number, coalesce(c.timezone, s.timezone) AS timezone, k.first_at, k.marks
FROM usage_alert_marks k JOIN customers c ON c.seller = k.seller AND c.id = k.customer
  JOIN sellers s ON s.seller = k.seller
WHERE k.seller = current_seller() AND k.customer > :after ORDER BY k.customer LIMIT :limit
""")
# Rows are locked in the order in which sweeps lock them.
_UNMARK: Final = text("""
WITH seen AS (
  SELECT k.customer FROM usage_alert_marks k
    JOIN unnest(CAST(:customers AS text[]), CAST(:marks AS bigint[])) AS u (customer, marks)
    ON k.customer = u.customer AND k.marks = u.marks
  WHERE k.seller = current_seller() ORDER BY k.customer FOR UPDATE OF k
)
DELETE FROM usage_alert_marks k USING seen
WHERE k.seller = current_seller() AND k.customer = seen.customer
""")
_TOLD: Final = text("""
SELECT alert, customer, window_start_at, coalesce(percent || '%', threshold)
FROM usage_alert_triggers
WHERE seller = current_seller() AND alert = ANY(:alerts) AND customer = ANY(:customers)
  AND window_start_at >= :start
""")
# The event goes with the row that says it was told: whoever comes second writes neither.
_TELL: Final = text("""
WITH wanted AS (
  SELECT * FROM ROWS FROM (jsonb_to_recordset(CAST(CAST(:rows AS text) AS jsonb)) AS (
    id text, event text, alert text, alert_key text, customer text, meter text,
    group_values jsonb, threshold text, percent text, quantity text,
    window_start_at timestamptz, window_end_at timestamptz)) WITH ORDINALITY AS u (id, event,
    alert, alert_key, customer, meter, group_values, threshold, percent, quantity,
    window_start_at, window_end_at, place)
), told AS (
  INSERT INTO usage_alert_triggers (id, alert, alert_key, customer, meter, group_values, threshold,
    percent, quantity, window_start_at, window_end_at, triggered_at)
  SELECT id, alert, alert_key, customer, meter, group_values, threshold, percent, quantity,
    window_start_at, window_end_at, :now
  FROM wanted ON CONFLICT DO NOTHING RETURNING id
)
INSERT INTO outbox (id, type, object, version, occurred_at)
SELECT w.event, 'usage_alert.triggered', w.id, 1, :now
FROM wanted w JOIN told t ON t.id = w.id ORDER BY w.place
""")


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """A customer whose usage is to be compared, what came from `first_at` on."""

    customer: str
    number: int
    timezone: str
    first_at: datetime
    marks: int


class Trigger(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told, once: a customer's usage came to a threshold inside a window."""

    id: str
    event: str
    alert: str
    alert_key: str
    customer: str
    meter: str
    group_values: dict[str, str]
    threshold: str
    percent: str | None
    quantity: str
    window_start_at: datetime
    window_end_at: datetime


async def list_alerts(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[UsageAlert]:
    """Up to `limit` alerts after the id `after`, in the order they were made."""
    rows = (await connection.execute(_PAGE, {"after": after, "limit": limit})).mappings()
    return [msgspec.convert(dict(row), UsageAlert) for row in rows]


async def find_alert(*, connection: AsyncConnection, reference: str) -> UsageAlert | None:
    """The alert with that key or id."""
    row = (await connection.execute(_ONE, {"reference": reference})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), UsageAlert)


async def insert_alert(
    *,
    connection: AsyncConnection,
    alert_id: str,
    draft: UsageAlertDraft,
    customer: str | None,
    meter: str,
    now: datetime,
) -> None:
    """Write an alert on the ids of customer and meter; a key already taken violates its key."""
    row: dict[str, object] = {
        "id": alert_id,
        "key": draft.key,
        "customer": customer,
        "meter": meter,
        "group": msgspec.json.encode(draft.group).decode(),
        "thresholds": list(draft.thresholds),
        "percents": list(draft.percents),
        "window": draft.window.value,
        "now": now,
    }
    await connection.execute(_INSERT, row)


async def save_steps(
    *,
    connection: AsyncConnection,
    alert_id: str,
    thresholds: Sequence[str],
    percents: Sequence[str],
    now: datetime,
) -> None:
    """Watch for other steps from now on."""
    row = {"id": alert_id, "thresholds": list(thresholds), "percents": list(percents), "now": now}
    await connection.execute(_CHANGE, row)


async def delete_alert(*, connection: AsyncConnection, alert_id: str) -> None:
    """Forget the alert; what it told stays."""
    await connection.execute(_DELETE, {"id": alert_id})


async def watched_alerts(*, connection: AsyncConnection) -> list[WatchedAlert]:
    """Every alert of the seller."""
    rows = (await connection.execute(_WATCHED)).mappings()
    return [msgspec.convert(dict(row), WatchedAlert) for row in rows]


async def has_alerts(*, connection: AsyncConnection) -> bool:
    """Whether the seller has any alert."""
    return bool((await connection.execute(_HAS)).scalar_one())


async def mark_customers(
    *, connection: AsyncConnection, customers: Sequence[int], micros: Sequence[int]
) -> None:
    """Remember that customers (numbers) used something from an instant on, if an alert waits."""
    await connection.execute(_MARK_SWEPT, {"customers": list(customers), "micros": list(micros)})


async def mark_watched(*, connection: AsyncConnection, alert_id: str, now: datetime) -> None:
    """Let the windows running now be compared for everybody whom an alert watches."""
    await connection.execute(_MARK_WATCHED, {"id": alert_id, "now": now})


async def marked_customers(*, connection: AsyncConnection, limit: int, after: str) -> list[Marked]:
    """Up to `limit` customers to be compared, with ids after `after`."""
    rows = (await connection.execute(_MARKED, {"limit": limit, "after": after})).mappings()
    return [msgspec.convert(dict(row), Marked) for row in rows]


async def unmark(*, connection: AsyncConnection, compared: Sequence[Marked]) -> None:
    """Nothing is left to compare of these, but what was marked since they were read."""
    given = {
        "customers": [each.customer for each in compared],
        "marks": [each.marks for each in compared],
    }
    await connection.execute(_UNMARK, given)


async def told_before(
    *,
    connection: AsyncConnection,
    alerts: Iterable[str],
    customers: Iterable[str],
    start: datetime,
) -> set[tuple[str, str, datetime, str]]:
    """(alert, customer, start of the window, label of the step) told for windows since `start`."""
    given = {"alerts": sorted(set(alerts)), "customers": sorted(set(customers)), "start": start}
    rows = await connection.execute(_TOLD, given)
    return {(row[0], row[1], row[2], row[3]) for row in rows}


async def tell_triggers(
    *, connection: AsyncConnection, triggers: Sequence[Trigger], now: datetime
) -> int:
    """Write what was not told yet, each with its event, in the order given; how many were."""
    if not triggers:
        return 0
    rows = msgspec.json.encode(triggers).decode()
    return (await connection.execute(_TELL, {"rows": rows, "now": now})).rowcount
