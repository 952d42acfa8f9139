"""SQL of the work list: what is due or pending, and of subscriptions what decides it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from invoicing.alike import Due
from invoicing.alike_store import are_plain
from invoicing.assembly import BilledCustomer
from invoicing.copied_facts_store import COPIED

DUE: Final = f"""
WITH listed AS (
  SELECT i.bill_to AS customer, min(i.next_due_at) AS due_at,
    CASE WHEN count(*) = 1 THEN min(i.subscription) END AS only
  FROM due_instants i WHERE i.seller = current_seller() AND i.next_due_at <= $1
    AND i.bill_to <> ALL($2::text[]) AND ($3::text[] IS NULL OR i.bill_to = ANY($3::text[]))
  GROUP BY 1
)
SELECT c.id, c.key, c.number, c.party, c.net_terms_days, c.po_number, l.due_at,
  {COPIED.format("c")} AS copied, CASE WHEN c.invoice_group IS NULL THEN l.only END AS only
FROM listed l JOIN customers c ON c.seller = current_seller() AND c.id = l.customer
WHERE $5::timestamptz IS NULL OR (l.due_at, c.key COLLATE "C") > ($5, $6::text)
ORDER BY l.due_at, c.key COLLATE "C" LIMIT $4
"""
# Of those subscriptions $1, each the only one of its customer $3 that falls due, at $2, of which
# nothing but its terms decides what is owed: these terms as two hashes. Everything that deriving
# reads of a subscription is hashed, or else the subscription is told apart here. Each table is
# read by what is named: joined with the names instead, where many are due, it is read as a whole
# for every portion of a run, and the time that takes grows with the square of a seller's size.
TERMS: Final = """
WITH held AS MATERIALIZED (
  SELECT s.customer FROM subscriptions s
  WHERE s.seller = current_seller() AND s.customer = ANY($3::text[])
  GROUP BY 1 HAVING count(*) = 1
), told AS MATERIALIZED (
  SELECT i.subscription, string_agg(i.id, '' ORDER BY i.number) AS intervals,
    bit_xor(hash_record_extended(r, 0)) AS one, bit_xor(hash_record_extended(r, 1)) AS other
  FROM price_intervals i
    CROSS JOIN LATERAL (SELECT ROW(i.number, i.price, i.quantity,
      i.start_at, i.end_at, i.end_is_cancellation, i.credit_unused, i.agreed_end_at,
      i.closed_at, i.start_is_due, i.anchor_at, i.anchor_day, i.alignment) AS r) x
  WHERE i.seller = current_seller() AND i.subscription = ANY($1::text[])
  GROUP BY 1
)
SELECT s.id, s.key, s.revision, t.intervals,
  hash_record_extended(x.r, t.one) AS one, hash_record_extended(x.r, t.other) AS other
FROM unnest($1::text[], $2::timestamptz[]) AS d (id, due_at)
  JOIN subscriptions s ON s.seller = current_seller() AND s.id = d.id AND s.id = ANY($1::text[])
    AND s.payer IS NULL
    AND s.dirty_from_at IS NULL AND s.interim_at IS NULL AND s.spend_thresholds = '{}'
    AND (s.next_change_at IS NULL OR s.next_change_at > d.due_at)
    AND s.cancelled_at IS NULL AND NOT s.refund_unused AND s.invoice_group IS NULL
    AND (s.derived_through_at IS NULL OR s.derived_through_at < d.due_at)
  JOIN held h ON h.customer = s.customer
  JOIN told t ON t.subscription = s.id
  CROSS JOIN LATERAL (SELECT ROW(s.currency, s.timezone, s.starts_at, s.ends_at,
    s.anchor_at, s.anchor_day, s.alignment, s.net_terms_days, s.next_due_at,
    s.derived_through_at, s.next_change_at) AS r) x
WHERE NOT EXISTS (SELECT FROM subscriptions o
  WHERE o.seller = current_seller() AND o.payer = ANY($3::text[]) AND o.payer = s.customer)
"""
# What is due is not known before it is read: of a seller who is new, or of whom much is new, the
# planner may expect one row, and join each of many thousands with each of the others. What stands
# in an array it knows. The other processors have the rest of the run to do.
_JOINING: Final = {
    "enable_nestloop": "off",
    "plan_cache_mode": "force_custom_plan",
    "max_parallel_workers_per_gather": "0",
}
JOIN_AT_ONCE: Final = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _JOINING.items())
_JOIN_AS_BEFORE: Final = "; ".join(f"SET LOCAL {name} TO DEFAULT" for name in _JOINING)
_UNTOLD: Final = (None,) * 5
_MANY: Final = 5_000
"""So many are not looked up one by one."""
# Beyond that instant lie only others than the first so many.
_NEAR: Final = """
SELECT next_due_at FROM due_instants
WHERE seller = current_seller() AND next_due_at <= $1 ORDER BY next_due_at OFFSET $2 LIMIT 1
"""
_PENDING: Final = text(f"""
SELECT c.id, c.key, c.number, c.party, c.net_terms_days, c.po_number,
  CAST(:as_of AS timestamptz) AS due_at, {COPIED.format("c")} AS copied
FROM customers c
WHERE c.seller = current_seller() AND c.id <> ALL(:parked)
  AND (CAST(:customers AS text[]) IS NULL OR c.id = ANY(:customers)) AND c.id IN (
  SELECT coalesce(s.payer, s.customer) FROM subscriptions s
  WHERE s.seller = current_seller() AND s.derived_through_at IS NOT NULL
    AND (s.dirty_from_at IS NOT NULL OR s.next_change_at <= :as_of))
  AND c.id NOT IN (
  SELECT i.bill_to FROM due_instants i
  WHERE i.seller = current_seller() AND i.next_due_at > :due_by AND i.next_due_at <= :as_of)
ORDER BY c.key COLLATE "C" LIMIT :limit
""")

_ANY_DUE: Final = text("""
SELECT EXISTS (SELECT FROM due_instants d
WHERE d.seller = current_seller() AND d.next_due_at <= :due_by AND NOT EXISTS (
  SELECT FROM parked_accounts p WHERE p.seller = d.seller
    AND p.customer = d.bill_to AND p.parked_at > :parked_since))
""")


class DueCustomer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One unit of work: a customer and the due instant to bill.

    `copied` is a hash of what its documents copy of it.
    """

    customer: BilledCustomer
    due_at: datetime
    copied: int


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a customer (by its key) stands in the work list."""

    due_at: datetime
    key: str


async def due_with_terms(
    *,
    connection: AsyncConnection,
    due_by: datetime,
    limit: int,
    parked: Sequence[str],
    customers: Sequence[str] | None,
    after: Place | None = None,
) -> tuple[list[Due], bool]:
    """Customers with something due by `due_by`, in the order of (due instant, key).

    Those beyond the place `after`, and at least one where there is any; and whether there may be
    more. Of a long list only the begin is looked at: twice the limit, because those up to `after`
    may still be due.
    """
    plain = await are_plain(connection=connection)
    raw = await driver(connection)
    near = None if customers else await raw.fetchval(_NEAR, due_by, 2 * limit)
    for until in (near, due_by):
        if until is None:
            continue
        found = await _find_due(
            connection, until, limit, parked, customers, terms=plain, after=after
        )
        if found:
            return found, until < due_by or len(found) == limit
    return [], False


async def due_customers(
    *,
    connection: AsyncConnection,
    due_by: datetime,
    limit: int,
    parked: Sequence[str] = (),
    customers: Sequence[str] | None = None,
) -> list[DueCustomer]:
    """The same, to be derived one by one. `customers` (ids) leaves out others."""
    found = await _find_due(connection, due_by, limit, parked, customers, terms=False)
    return [due_customer(each) for each in found]


async def is_any_due(
    *, connection: AsyncConnection, due_by: datetime, now: datetime, rest: timedelta
) -> bool:
    """Whether something is due by `due_by` of whoever was not parked within the `rest`."""
    row = {"due_by": due_by, "parked_since": now - rest}
    return bool((await connection.execute(_ANY_DUE, row)).scalar_one())


async def pending_customers(
    *,
    connection: AsyncConnection,
    as_of: datetime,
    due_by: datetime,
    limit: int,
    parked: Sequence[str] = (),
    customers: Sequence[str] | None = None,
) -> list[DueCustomer]:
    """Customers whose posted charges were touched since, all at `as_of`, in the order of keys.

    What is due between `due_by` and `as_of` is a draft that will hold the difference.
    """
    parameters = {
        "as_of": as_of,
        "due_by": due_by,
        "limit": limit,
        "parked": list(parked),
        "customers": None if customers is None else list(customers),
    }
    rows = await connection.execute(_PENDING, parameters)
    return [
        DueCustomer(
            customer=BilledCustomer(
                id=row.id,
                key=row.key,
                number=row.number,
                party=row.party,
                net_terms_days=row.net_terms_days,
                po_number=row.po_number,
            ),
            due_at=row.due_at,
            copied=row.copied,
        )
        for row in rows
    ]


def due_customer(due: Due) -> DueCustomer:
    """One unit of work, told as those that are derived one by one."""
    customer = BilledCustomer(
        id=due.customer,
        key=due.key,
        number=due.number,
        party=due.party,
        net_terms_days=due.net_terms_days,
        po_number=due.po_number,
    )
    return DueCustomer(customer=customer, due_at=due.due_at, copied=due.copied)


async def _find_due(
    connection: AsyncConnection,
    due_by: datetime,
    limit: int,
    parked: Sequence[str],
    customers: Sequence[str] | None,
    *,
    terms: bool,
    after: Place | None = None,
) -> list[Due]:
    raw = await driver(connection)
    wanted = None if customers is None else list(customers)
    place = (None, None) if after is None else (after.due_at, after.key)
    many = await _are_many(raw, due_by, wanted)
    if many:
        await raw.execute(JOIN_AT_ONCE)
    rows = await raw.fetch(DUE, due_by, list(parked), wanted, limit, *place)
    # Few instants and terms are those of many.
    instants: dict[datetime, datetime] = {}
    due_ats = [instants.setdefault(row[6], row[6]) for row in rows]
    if terms and not many:
        await raw.execute(JOIN_AT_ONCE)  # one by one, each would be compared with all that is named
    told = await _find_terms(raw, rows, due_ats) if terms else {}
    if terms or many:
        await raw.execute(_JOIN_AS_BEFORE)
    found = []
    for row, due_at in zip(rows, due_ats, strict=True):
        subscription, contract, revision, intervals, same = told.get(row[8], _UNTOLD)
        found.append(
            Due(
                customer=row[0],
                key=row[1],
                number=row[2],
                party=row[3],
                net_terms_days=row[4],
                po_number=row[5],
                due_at=due_at,
                copied=row[7],
                subscription=subscription,
                contract=contract,
                revision=revision,
                intervals=intervals,
                terms=same,
            )
        )
    return found


async def _find_terms(
    raw: Any, rows: Sequence[Any], due_ats: Sequence[datetime]
) -> dict[str | None, Any]:
    """{subscription: (itself, its key, revision, intervals, terms)}.

    Of those that owe by nothing but their terms.
    """
    subscriptions = [row[8] for row in rows if row[8]]
    if not subscriptions:
        return {}
    instants = [due_at for row, due_at in zip(rows, due_ats, strict=True) if row[8]]
    customers = [row[0] for row in rows if row[8]]
    known: dict[tuple[int, int], tuple[int, int]] = {}
    found: dict[str | None, Any] = {}
    for identity, key, revision, intervals, one, other in await raw.fetch(
        TERMS, subscriptions, instants, customers
    ):
        terms = (one, other)
        found[identity] = (identity, key, revision, intervals, known.setdefault(terms, terms))
    return found


async def _are_many(raw: Any, due_by: datetime, customers: Sequence[str] | None) -> bool:
    if customers is not None and len(customers) <= _MANY:
        return False
    return await raw.fetchval(_NEAR, due_by, _MANY) is not None
