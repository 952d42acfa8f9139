"""SQL for subscriptions and their price intervals."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from engine.period import Alignment
from plans.agreement import Agreement, Anchor, PriceInterval, Refund, SubscriptionDraft
from plans.prices import Interval, Price
from plans.spending import thresholds_minor
from plans.timeline import Opening

# Since when the subscription `s` is paused at `:now`, if it is.
PAUSED_AT: Final = """(
  SELECT min(t.effective_at) FROM subscription_changes t
  WHERE t.seller = s.seller AND t.subscription = s.id AND t.kind = 'pause'
    AND t.undone_at IS NULL AND t.effective_at <= :now AND NOT EXISTS (
      SELECT FROM subscription_changes r
      WHERE r.seller = t.seller AND r.subscription = t.subscription AND r.kind = 'resume'
        AND r.undone_at IS NULL AND r.effective_at <= :now
        AND (r.effective_at, r.number) > (t.effective_at, t.number)))"""
_AGREEMENT: Final = """
SELECT s.id, s.key, s.customer, c.number AS customer_number, s.currency, s.timezone, s.starts_at,
  s.ends_at, s.anchor_at, s.anchor_day, s.alignment, s.cancelled_at, s.net_terms_days,
  s.next_due_at, s.derived_through_at, s.dirty_from_at, s.revision, s.next_change_at,
  s.refund_unused, coalesce(s.payer, s.customer) AS bill_to,
  coalesce(s.invoice_group, c.invoice_group, '') AS invoice_group, s.spend_thresholds,
  s.interim_at
FROM subscriptions s JOIN customers c USING (seller)
WHERE s.seller = current_seller() AND c.id = s.customer
"""
_INTERVALS: Final = """
SELECT subscription, id, number, price, quantity::text, start_at, end_at, end_is_cancellation,
  credit_unused, agreed_end_at, closed_at, start_is_due, anchor_at, anchor_day, alignment
FROM price_intervals WHERE seller = current_seller() AND subscription = ANY($1::text[])
ORDER BY subscription, number
"""
_PRICES: Final = text("""
SELECT p.id, p.body, pl.interval
FROM prices p JOIN plans pl ON pl.seller = p.seller AND pl.id = p.plan
WHERE p.seller = current_seller() AND p.id = ANY(:prices)
""")
_BY_REFERENCE: Final = text(
    _AGREEMENT + "AND (s.key = :reference OR s.id = :reference) FOR UPDATE OF s"
)
_BY_IDS: Final = _AGREEMENT + "AND s.id = ANY($1::text[]) ORDER BY s.id"
_BY_CUSTOMERS: Final = _AGREEMENT + "AND s.customer = ANY($1::text[])"
# Two halves, each with its own index: few subscriptions have another payer than their customer.
_BY_BILL_TO: Final = (
    f"{_BY_CUSTOMERS} AND s.payer IS NULL UNION ALL {_AGREEMENT}"
    " AND s.payer IS NOT NULL AND s.payer = ANY($1::text[])"
)
_LISTED: Final = text(f"""
SELECT s.id, s.key, c.key AS customer, p.key AS plan, p.version AS plan_version, s.currency,
  s.timezone, s.starts_at, s.ends_at, s.anchor_at, s.anchor_day, s.alignment, s.cancelled_at,
  s.net_terms_days, s.invoice_group, s.spend_thresholds, s.trial_ends_at,
  {PAUSED_AT} AS paused_at, s.next_due_at, s.created_at
FROM subscriptions s JOIN customers c ON c.seller = s.seller AND c.id = s.customer
  JOIN plans p ON p.seller = s.seller AND p.id = coalesce((
    SELECT h.plan FROM subscription_changes h
    WHERE h.seller = s.seller AND h.subscription = s.id AND h.plan IS NOT NULL
      AND h.undone_at IS NULL AND h.effective_at <= :now
    ORDER BY h.effective_at DESC, h.number DESC LIMIT 1), s.plan)
WHERE s.seller = current_seller()
  AND (CAST(:after AS text) IS NULL OR s.id > :after)
  AND (CAST(:reference AS text) IS NULL OR s.id = :reference OR s.key = :reference)
  AND (CAST(:customer AS text) IS NULL OR c.id = :customer OR c.key = :customer)
ORDER BY s.id LIMIT :limit
""")
# As of now; before the start, in a trial, after the end or in a pause, as of the nearest instant.
_QUANTITIES: Final = text(f"""
SELECT i.subscription, p.key, trim_scale(i.quantity)::text AS quantity
FROM price_intervals i JOIN prices p ON p.seller = i.seller AND p.id = i.price
  JOIN subscriptions s ON s.seller = i.seller AND s.id = i.subscription
  CROSS JOIN LATERAL (SELECT greatest(coalesce(s.trial_ends_at, s.starts_at), least(
    CAST(:now AS timestamptz), s.ends_at - interval '1 microsecond',
    {PAUSED_AT} - interval '1 microsecond')) AS instant) t
WHERE i.seller = current_seller() AND i.subscription = ANY(:subscriptions)
  AND p.body->>'kind' NOT IN ('usage', 'commitment') AND i.start_at <= t.instant
  AND (i.end_at IS NULL OR t.instant < i.end_at)
ORDER BY i.subscription, i.number
""")
_INSERT: Final = text("""
INSERT INTO subscriptions (id, key, customer, plan, currency, timezone, starts_at, ends_at,
  anchor_at, anchor_day, alignment, net_terms_days, spend_thresholds, trial_ends_at, quantities,
  overrides,
  next_due_at, created_at, invoice_group, payer)
SELECT :id, :key, c.id, :plan, :currency, :timezone, CAST(:starts_at AS timestamptz),
  CAST(:ends_at AS timestamptz), CAST(:anchor_at AS timestamptz), CAST(:anchor_day AS integer),
  :alignment, CAST(:net_terms_days AS integer), CAST(:spend_thresholds AS bigint[]),
  CAST(:trial_ends_at AS timestamptz),
  CAST(CAST(:quantities AS text) AS jsonb), CAST(CAST(:overrides AS text) AS jsonb),
  CAST(:next_due_at AS timestamptz), CAST(:created_at AS timestamptz), :invoice_group, c.payer
FROM customers c WHERE c.seller = current_seller() AND c.id = :customer FOR SHARE OF c
""")
_INSERT_INTERVAL: Final = text("""
INSERT INTO price_intervals (id, subscription, number, price, quantity, start_at, end_at,
  end_is_cancellation, credit_unused, agreed_end_at, closed_at, start_is_due, anchor_at, anchor_day,
  alignment)
VALUES (:id, :subscription, :number, :price, CAST(CAST(:quantity AS text) AS numeric), :start_at,
  :end_at, :end_is_cancellation, :credit_unused, :agreed_end_at, :closed_at, :start_is_due,
  :anchor_at, :anchor_day, :alignment)
""")
_CLOSE_INTERVAL: Final = text("""
UPDATE price_intervals SET end_at = :end_at, end_is_cancellation = :end_is_cancellation,
  credit_unused = :credit_unused, agreed_end_at = :agreed_end_at, closed_at = :closed_at
WHERE seller = current_seller() AND id = :id
""")
_CANCEL: Final = text("""
UPDATE subscriptions SET ends_at = :ends_at, cancelled_at = :cancelled_at,
  next_due_at = :next_due_at, next_change_at = :next_change_at, refund_unused = :refund_unused,
  dirty_from_at = least(dirty_from_at, :dirty_from_at),
  revision = revision + 1 WHERE seller = current_seller() AND id = :id
""")


class PriceBook:
    """Prices decoded once: many intervals share few of them. Lives as long as one use case."""

    def __init__(self) -> None:
        """Begin empty."""
        self._prices: dict[str, tuple[Price, Interval]] = {}

    async def load(self, *, connection: AsyncConnection, prices: Iterable[str]) -> None:
        """Read those of the prices (ids) that are not known yet."""
        missing = set(prices).difference(self._prices)
        if not missing:
            return
        for row in await connection.execute(_PRICES, {"prices": sorted(missing)}):
            price = msgspec.convert(row.body, Price)
            interval = price.interval or msgspec.convert(row.interval, Interval)
            self._prices[row.id] = (price, interval)

    def find(self, price: str) -> tuple[Price, Interval]:
        """A price that was loaded, and the interval at which it recurs."""
        return self._prices[price]


async def _with_intervals(
    connection: AsyncConnection, rows: Sequence[Sequence[Any]], book: PriceBook
) -> list[Agreement]:
    raw = await driver(connection)
    records = await raw.fetch(_INTERVALS, [row[0] for row in rows])
    await book.load(connection=connection, prices={record["price"] for record in records})
    intervals: dict[str, list[PriceInterval]] = {}
    for subscription, id_, number, price_id, quantity, start, end, *ending in records:
        price, interval = book.find(price_id)
        cancels, credits_, agreed_end, closed_at, is_due, anchor_at, day, alignment = ending
        own = None
        if anchor_at is not None:
            own = Anchor(at=anchor_at, day=day, alignment=Alignment(alignment))
        intervals.setdefault(subscription, []).append(
            PriceInterval(
                id=id_,
                number=number,
                price_id=price_id,
                price=price,
                interval=interval,
                quantity=quantity,
                start_at=start,
                end_at=end,
                end_is_cancellation=cancels,
                credit_unused=credits_,
                agreed_end_at=agreed_end,
                closed_at=closed_at,
                start_is_due=is_due,
                anchor=own,
            )
        )
    return [_agreement(row, tuple(intervals.get(row[0], ()))) for row in rows]


def _agreement(row: Sequence[Any], intervals: tuple[PriceInterval, ...]) -> Agreement:
    """A row of `_AGREEMENT`, its columns in the order of the fields."""
    values = dict(zip(Agreement.__struct_fields__, row, strict=False))
    values["alignment"] = Alignment(values["alignment"])
    values["spend_thresholds"] = tuple(values["spend_thresholds"])
    return Agreement(**values, intervals=intervals)


async def lock_agreement(*, connection: AsyncConnection, reference: str) -> Agreement | None:
    """The subscription with that key or id, locked against other changes, or None."""
    rows = (await connection.execute(_BY_REFERENCE, {"reference": reference})).all()
    found = await _with_intervals(connection, rows, PriceBook())
    return found[0] if found else None


async def find_agreements(
    *,
    connection: AsyncConnection,
    subscriptions: Sequence[str],
    book: PriceBook,
    lock: bool = False,
) -> list[Agreement]:
    """The subscriptions with those ids, in their order; `lock` keeps other changes out."""
    raw = await driver(connection)
    query = _BY_IDS + " FOR UPDATE OF s" if lock else _BY_IDS
    rows = await raw.fetch(query, list(subscriptions))
    return await _with_intervals(connection, rows, book)


async def agreements_of(
    *, connection: AsyncConnection, customers: Sequence[str], book: PriceBook
) -> list[Agreement]:
    """Every subscription of the customers (ids), each with its price intervals."""
    raw = await driver(connection)
    rows = await raw.fetch(_BY_CUSTOMERS, list(customers))
    return await _with_intervals(connection, rows, book)


async def agreements_billed_to(
    *, connection: AsyncConnection, customers: Sequence[str], book: PriceBook
) -> list[Agreement]:
    """Every subscription whose charges come on documents of those customers (ids)."""
    raw = await driver(connection)
    rows = await raw.fetch(_BY_BILL_TO, list(customers))
    return await _with_intervals(connection, rows, book)


async def list_subscriptions(
    *,
    connection: AsyncConnection,
    now: datetime,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
) -> tuple[Sequence[RowMapping], dict[str, dict[str, str]]]:
    """Up to `limit` rows for the answer as of `now`, in the order of their ids, and quantities."""
    parameters = {
        "now": now,
        "after": after,
        "limit": limit,
        "reference": reference,
        "customer": customer,
    }
    rows = (await connection.execute(_LISTED, parameters)).mappings().all()
    wanted = [row["id"] for row in rows]
    quantities: dict[str, dict[str, str]] = {}
    for row in await connection.execute(_QUANTITIES, {"subscriptions": wanted, "now": now}):
        quantities.setdefault(row.subscription, {})[row.key] = row.quantity
    return rows, quantities


async def insert_subscription(
    *,
    connection: AsyncConnection,
    subscription_id: str,
    draft: SubscriptionDraft,
    customer_id: str,
    plan_id: str,
    currency: str,
    opening: Opening,
    overrides: Mapping[str, str],
    next_due_at: datetime | None,
    now: datetime,
) -> None:
    """Write a subscription without its intervals; a key already taken violates its unique key."""
    await connection.execute(
        _INSERT,
        {
            "id": subscription_id,
            "key": draft.key,
            "customer": customer_id,
            "plan": plan_id,
            "currency": currency,
            "timezone": opening.timezone,
            "starts_at": opening.starts_at,
            "ends_at": opening.ends_at,
            "anchor_at": opening.anchor_at,
            "anchor_day": opening.anchor_day,
            "alignment": opening.alignment.value,
            "net_terms_days": draft.net_terms_days,
            "spend_thresholds": thresholds_minor(
                thresholds=draft.spend_thresholds, currency=currency
            ),
            "invoice_group": draft.invoice_group,
            "trial_ends_at": opening.trial_ends_at,
            "quantities": msgspec.json.encode(draft.quantities).decode(),
            "overrides": msgspec.json.encode(overrides).decode(),
            "next_due_at": next_due_at,
            "created_at": now,
        },
    )


async def insert_intervals(
    *, connection: AsyncConnection, intervals: Sequence[tuple[str, PriceInterval]]
) -> None:
    """Write new price intervals, each with its subscription (id)."""
    rows = [
        {
            "id": stretch.id,
            "subscription": subscription,
            "number": stretch.number,
            "price": stretch.price_id,
            "quantity": stretch.quantity,
            "start_at": stretch.start_at,
            "end_at": stretch.end_at,
            "end_is_cancellation": stretch.end_is_cancellation,
            "credit_unused": stretch.credit_unused,
            "agreed_end_at": stretch.agreed_end_at,
            "closed_at": stretch.closed_at,
            "start_is_due": stretch.start_is_due,
            "anchor_at": None if stretch.anchor is None else stretch.anchor.at,
            "anchor_day": None if stretch.anchor is None else stretch.anchor.day,
            "alignment": None if stretch.anchor is None else stretch.anchor.alignment.value,
        }
        for subscription, stretch in intervals
    ]
    if rows:
        await connection.execute(_INSERT_INTERVAL, rows)


async def save_cancellation(
    *,
    connection: AsyncConnection,
    agreement: Agreement,
    intervals: Iterable[PriceInterval],
    effective: datetime,
    refund: Refund,
    dirty_from_at: datetime | None,
    next_due_at: datetime | None,
    next_change_at: datetime | None,
    now: datetime,
) -> None:
    """Close intervals; `dirty_from_at` marks what was derived already and is touched."""
    await connection.execute(
        _CLOSE_INTERVAL,
        [
            {
                "id": stretch.id,
                "end_at": stretch.end_at,
                "end_is_cancellation": stretch.end_is_cancellation,
                "credit_unused": stretch.credit_unused,
                "agreed_end_at": stretch.agreed_end_at,
                "closed_at": stretch.closed_at,
            }
            for stretch in intervals
        ],
    )
    await connection.execute(
        _CANCEL,
        {
            "id": agreement.id,
            "ends_at": effective,
            "refund_unused": refund is Refund.REFUND,
            "cancelled_at": now,
            "dirty_from_at": dirty_from_at,
            "next_due_at": next_due_at,
            "next_change_at": next_change_at,
        },
    )
