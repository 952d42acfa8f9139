"""SQL for customers, meters, plans and prices."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from plans.entitlements import plain_entitlements
from plans.model import (
    Aggregation,
    Customer,
    CustomerDraft,
    Meter,
    MeterDraft,
    Plan,
    PlanDraft,
    charged_prices,
)
from plans.prices import Interval, Price

_CUSTOMERS: Final = """
SELECT c.id, c.number, c.key, c.name, c.emails, c.currency, c.timezone, c.country, c.address,
  c.tax_ids, c.net_terms_days, c.po_number, c.tax_rates, c.tax_exempt, c.invoice_group, c.locale,
  c.bounced_emails, c.payer, c.created_at,
  (SELECT p.key FROM customers p WHERE p.seller = c.seller AND p.id = c.parent) AS parent,
  coalesce(c.currency, CASE WHEN b.first = b.last THEN b.first END, s.currency) AS told_in,
  coalesce(b.amounts, '{}') AS amounts,
  coalesce(c.currency, CASE WHEN k.first = k.last THEN k.first END, s.currency) AS credit_in,
  coalesce(k.amounts, '{}') AS credits
FROM customers c JOIN sellers s ON s.seller = c.seller
  CROSS JOIN LATERAL (
    SELECT min(currency) AS first, max(currency) AS last,
      jsonb_object_agg(currency, amount_minor) AS amounts
    FROM customer_balances WHERE seller = c.seller AND customer = c.id) b
  CROSS JOIN LATERAL (
    SELECT min(currency) AS first, max(currency) AS last,
      jsonb_object_agg(currency, amount_minor) AS amounts
    FROM (
      SELECT g.currency, sum(u.left_minor)::bigint AS amount_minor
      FROM credit_grants g JOIN credit_grant_sums u ON u.seller = g.seller AND u.id = g.id
      WHERE g.seller = c.seller AND g.customer = c.id AND g.ended_at IS NULL AND NOT u.is_pending
        AND g.effective_at <= coalesce(s.clock_at, current_timestamp)
      GROUP BY g.currency) w) k
WHERE c.seller = current_seller()
"""
_CUSTOMER: Final = text(_CUSTOMERS + "AND (c.key = :reference OR c.id = :reference)")
_LOCKED_CUSTOMER: Final = text(
    _CUSTOMERS + "AND (c.key = :reference OR c.id = :reference) FOR UPDATE OF c"
)
_CUSTOMER_PAGE: Final = text(
    _CUSTOMERS + "AND (CAST(:after AS text) IS NULL OR c.id > :after) ORDER BY c.id LIMIT :limit"
)
_INSERT_CUSTOMER: Final = text("""
INSERT INTO customers (id, key, name, emails, currency, timezone, country, address, tax_ids,
  net_terms_days, po_number, tax_rates, tax_exempt, invoice_group, locale, party, created_at)
VALUES (:id, :key, :name, CAST(CAST(:emails AS text) AS jsonb), :currency, :timezone, :country,
  CAST(CAST(:address AS text) AS jsonb), CAST(CAST(:tax_ids AS text) AS jsonb), :net_terms_days,
  :po_number, :tax_rates, :tax_exempt, :invoice_group, :locale, :party,
  :created_at)
""")
_UPDATE_CUSTOMER: Final = text("""
UPDATE customers SET name = :name, emails = CAST(CAST(:emails AS text) AS jsonb),
  currency = :currency, timezone = :timezone, country = :country,
  address = CAST(CAST(:address AS text) AS jsonb),
  bounced_emails = (SELECT coalesce(jsonb_object_agg(b.key, b.value), '{}')
    FROM jsonb_each(bounced_emails) b WHERE b.key IN (
      SELECT lower(e) FROM jsonb_array_elements_text(CAST(CAST(:emails AS text) AS jsonb)) e)),
  tax_ids = CAST(CAST(:tax_ids AS text) AS jsonb), net_terms_days = :net_terms_days,
  po_number = :po_number, tax_rates = :tax_rates, tax_exempt = :tax_exempt,
  invoice_group = :invoice_group, locale = :locale, party = :party
WHERE seller = current_seller() AND id = :id
""")
_METERS: Final = """
SELECT id, number, key, name, event_type, aggregation, value, unique_by, percentile, carry_over,
  filters, group_by, rounding, late_usage, created_at
FROM meters WHERE seller = current_seller()
"""
_METER: Final = text(_METERS + "AND (key = :reference OR id = :reference)")
_METER_PAGE: Final = text(
    _METERS + "AND (CAST(:after AS text) IS NULL OR id > :after) ORDER BY id LIMIT :limit"
)
_EVERY_METER: Final = text(_METERS + "ORDER BY number")
_INSERT_METER: Final = text("""
INSERT INTO meters (id, key, name, event_type, aggregation, value, unique_by, percentile,
  carry_over, filters, group_by, rounding, late_usage, created_at)
VALUES (:id, :key, :name, :event_type, :aggregation, :value, :unique_by, :percentile, :carry_over,
  CAST(CAST(:filters AS text) AS jsonb), CAST(:group_by AS text[]),
  CAST(CAST(:rounding AS text) AS jsonb), :late_usage, :created_at)
""")
_METER_DIMENSIONS: Final = text(
    "SELECT key, group_by, aggregation FROM meters"
    " WHERE seller = current_seller() AND key = ANY(:keys)"
)
_PLANS: Final = """
SELECT p.id, p.key, p.version, p.name, p.currency, p.interval, p.alignment, p.trial_days,
  p.entitlements, p.created_at,
  coalesce((SELECT jsonb_agg(r.body ORDER BY r.ordinal) FROM prices r
    WHERE r.seller = p.seller AND r.plan = p.id AND r.subscription IS NULL
      AND r.body->>'kind' <> 'commitment'), '[]') AS prices,
  (SELECT r.body->>'flat_amount' FROM prices r
    WHERE r.seller = p.seller AND r.plan = p.id AND r.subscription IS NULL
      AND r.body->>'kind' = 'commitment') AS minimum_commitment
FROM plans p WHERE p.seller = current_seller()
"""
_PLAN: Final = text(
    _PLANS
    + """
AND (p.id = :reference OR p.key = :reference)
AND (CAST(:version AS integer) IS NULL OR p.version = :version)
ORDER BY p.id = :reference DESC, p.version DESC LIMIT 1
"""
)
_PLAN_PAGE: Final = text(
    _PLANS
    + """
AND (CAST(:after AS text) IS NULL OR p.id > :after) AND (CAST(:key AS text) IS NULL OR p.key = :key)
ORDER BY p.id LIMIT :limit
"""
)
# Two versions published at once get two numbers: the second waits for the first.
_LOCK_PLAN: Final = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(current_seller()::text || ' ' || :key, 4208))"
)
_INSERT_PLAN: Final = text("""
INSERT INTO plans (id, key, version, name, currency, interval, alignment, trial_days,
  entitlements, created_at)
VALUES (:id, :key, :version, :name, :currency, CAST(CAST(:interval AS text) AS jsonb), :alignment,
  :trial_days, CAST(CAST(:entitlements AS text) AS jsonb), :created_at)
""")
_INSERT_PRICE: Final = text("""
INSERT INTO prices (id, plan, ordinal, key, body)
VALUES (:id, :plan, :ordinal, :key, CAST(CAST(:body AS text) AS jsonb))
""")
_PRICE_IDS: Final = text(
    "SELECT key, id FROM prices WHERE seller = current_seller() AND plan = :plan"
    " AND subscription IS NULL ORDER BY ordinal"
)


def _json(value: object) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()


def _customer(row: Mapping[Any, Any]) -> Customer:
    fields = dict(row)
    told_in, amounts = str(fields.pop("told_in")), fields.pop("amounts")
    balances = {each: format_amount(amounts[each], currency=each) for each in sorted(amounts)}
    credit_in, granted = str(fields.pop("credit_in")), fields.pop("credits")
    left = {each: format_amount(granted[each], currency=each) for each in sorted(granted)}
    return msgspec.convert(
        {
            **fields,
            "balance": balances.get(told_in) or format_amount(0, currency=told_in),
            "balances": balances,
            "credit_balance": left.get(credit_in) or format_amount(0, currency=credit_in),
            "credit_balances": left,
        },
        Customer,
    )


async def find_customer(*, connection: AsyncConnection, reference: str) -> Customer | None:
    """The customer with that key or id, or None."""
    found = await connection.execute(_CUSTOMER, {"reference": reference})
    row = found.mappings().one_or_none()
    return None if row is None else _customer(row)


async def lock_customer(*, connection: AsyncConnection, reference: str) -> Customer | None:
    """The same, locked against other changes until the transaction ends."""
    found = await connection.execute(_LOCKED_CUSTOMER, {"reference": reference})
    row = found.mappings().one_or_none()
    return None if row is None else _customer(row)


async def list_customers(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[Customer]:
    """Up to `limit` customers after the id `after`, in the order of their ids."""
    found = await connection.execute(_CUSTOMER_PAGE, {"after": after, "limit": limit})
    return [_customer(row) for row in found.mappings()]


def _customer_row(draft: CustomerDraft) -> dict[str, object]:
    fields = msgspec.structs.asdict(draft)
    for name in ("emails", "address", "tax_ids"):
        fields[name] = _json(fields[name])
    del fields["parent"]
    return fields


async def insert_customer(
    *,
    connection: AsyncConnection,
    customer_id: str,
    draft: CustomerDraft,
    party: str,
    now: datetime,
) -> None:
    """Write a customer; a key already taken violates its unique key."""
    row = {**_customer_row(draft), "id": customer_id, "party": party, "created_at": now}
    await connection.execute(_INSERT_CUSTOMER, row)


async def save_customer(
    *, connection: AsyncConnection, customer_id: str, draft: CustomerDraft, party: str
) -> None:
    """Write every changeable field of a customer."""
    row = {**_customer_row(draft), "id": customer_id, "party": party}
    await connection.execute(_UPDATE_CUSTOMER, row)


async def find_meter(*, connection: AsyncConnection, reference: str) -> Meter | None:
    """The meter with that key or id, or None."""
    found = await connection.execute(_METER, {"reference": reference})
    row = found.mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), Meter)


async def list_meters(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[Meter]:
    """Up to `limit` meters after the id `after`, in the order of their ids."""
    found = await connection.execute(_METER_PAGE, {"after": after, "limit": limit})
    return [msgspec.convert(dict(row), Meter) for row in found.mappings()]


async def meters_by_key(*, connection: AsyncConnection) -> dict[str, Meter]:
    """All meters of the seller, in the order of their numbers."""
    found = await connection.execute(_EVERY_METER)
    meters = [msgspec.convert(dict(row), Meter) for row in found.mappings()]
    return {meter.key: meter for meter in meters}


async def insert_meter(
    *, connection: AsyncConnection, meter_id: str, draft: MeterDraft, now: datetime
) -> None:
    """Write a meter; a key already taken violates its unique key."""
    fields = msgspec.to_builtins(draft)
    row = {
        **fields,
        "percentile": None if draft.percentile is None else str(draft.percentile),
        "filters": _json(draft.filters),
        "rounding": _json(draft.rounding),
        "id": meter_id,
        "created_at": now,
    }
    await connection.execute(_INSERT_METER, row)


async def dimensions_of_meters(
    *, connection: AsyncConnection, keys: Sequence[str]
) -> dict[str, frozenset[str]]:
    """The dimensions that meters keep, by the key of each of `keys` that is a meter's."""
    found = await connection.execute(_METER_DIMENSIONS, {"keys": list(keys)})
    return {row.key: frozenset(row.group_by) for row in found}


async def aggregations_of_meters(
    *, connection: AsyncConnection, keys: Sequence[str]
) -> dict[str, Aggregation]:
    """How meters aggregate, by the key of each of `keys` that is a meter's."""
    found = await connection.execute(_METER_DIMENSIONS, {"keys": list(keys)})
    return {row.key: Aggregation(row.aggregation) for row in found}


def _plan(row: Mapping[Any, Any]) -> Plan:
    return msgspec.convert(dict(row), Plan)


async def find_plan(
    *, connection: AsyncConnection, key: str, version: int | None = None
) -> Plan | None:
    """The version of the plan with that key, the latest unless named; an id names one itself."""
    found = await connection.execute(_PLAN, {"reference": key, "version": version})
    row = found.mappings().one_or_none()
    return None if row is None else _plan(row)


async def list_plans(
    *, connection: AsyncConnection, limit: int, after: str | None = None, key: str | None = None
) -> list[Plan]:
    """Up to `limit` plan versions after the id `after`, of one plan or of all."""
    found = await connection.execute(_PLAN_PAGE, {"after": after, "limit": limit, "key": key})
    return [_plan(row) for row in found.mappings()]


async def lock_plan(*, connection: AsyncConnection, key: str) -> None:
    """Let nobody else publish a version of this plan until the transaction ends."""
    await connection.execute(_LOCK_PLAN, {"key": key})


async def insert_plan(
    *,
    connection: AsyncConnection,
    plan_id: str,
    version: int,
    draft: PlanDraft,
    price_ids: Sequence[str],
    now: datetime,
) -> None:
    """Write a plan version and its prices; a version already taken violates its unique key."""
    await connection.execute(
        _INSERT_PLAN,
        {
            "id": plan_id,
            "key": draft.key,
            "version": version,
            "name": draft.name,
            "currency": draft.currency,
            "interval": _interval_json(draft.interval),
            "alignment": draft.alignment.value,
            "trial_days": draft.trial_days,
            "entitlements": _json(plain_entitlements(draft.entitlements)),
            "created_at": now,
        },
    )
    charged = zip(price_ids, charged_prices(draft), strict=True)
    rows = [
        {
            "id": price_id,
            "plan": plan_id,
            "ordinal": ordinal,
            "key": price.key,
            "body": _body(price),
        }
        for ordinal, (price_id, price) in enumerate(charged, 1)
    ]
    if rows:
        await connection.execute(_INSERT_PRICE, rows)


def _interval_json(interval: Interval) -> str:
    return msgspec.json.encode(interval).decode()


def _body(price: Price) -> str:
    return msgspec.json.encode(price).decode()


async def price_ids_of(*, connection: AsyncConnection, plan_id: str) -> dict[str, str]:
    """The ids of a plan version's prices by their keys, in the plan's order."""
    found = await connection.execute(_PRICE_IDS, {"plan": plan_id})
    return {str(row.key): str(row.id) for row in found}
