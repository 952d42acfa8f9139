"""SQL of the work list: what is due or pending, and of subscriptions what decides it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import LISTED, driver, joined
from invoicing.alike import Due
from invoicing.alike_store import are_plain
from invoicing.assembly import BilledCustomer
from invoicing.copied_facts_store import COPIED
from invoicing.terms_store import INSTANT, SELDOM

# Who is due, in the order of (due instant, key), beyond a place: the order of the index, which is
# read from there on and no further than is wanted. A customer is told once for each due instant.
DUE: Final = """
SELECT next_due_at, key, min(bill_to) AS customer,
  CASE WHEN count(*) = 1 THEN min(subscription) END AS only
FROM due_instants
WHERE seller = current_seller() AND next_due_at <= $1
  AND bill_to <> ALL($2::text[]) AND ($3::text[] IS NULL OR bill_to = ANY($3::text[]))
  AND ($5::timestamptz IS NULL OR (next_due_at, key) > ($5, $6::text))
GROUP BY next_due_at, key ORDER BY next_due_at, key LIMIT $4
"""
CUSTOMERS: Final = f"""
SELECT c.id, c.number, c.party, c.net_terms_days, c.po_number, {COPIED.format("c")} AS copied,
  c.invoice_group IS NULL AS ungrouped
FROM customers c WHERE c.seller = current_seller() AND c.id = ANY({LISTED.format("$1")})
"""
# Those of some who are due up to a place as well.
_BEFORE: Final = """
SELECT DISTINCT bill_to FROM due_instants
WHERE seller = current_seller() AND (next_due_at, key) <= ($1::timestamptz, $2::text)
  AND bill_to = ANY(string_to_array($3, ','))
"""
_USUAL: Final = """i.end_at IS NULL AND NOT i.end_is_cancellation AND i.credit_unused
      AND i.agreed_end_at IS NULL AND i.closed_at IS NULL AND i.start_is_due
      AND i.anchor_at IS NULL AND i.anchor_day IS NULL AND i.alignment IS NULL"""
# Of a price interval `i`, mixed with its number. One by one is half of what a record costs, and
# what is seldom there costs nothing where it is not.
_INTERVAL: Final = f"""hashtextextended(i.price, 8 * i.number + {{0}})
      # hash_numeric_extended(i.quantity, 8 * i.number + {{0}} + 1)
      # hashfloat8extended({INSTANT.format("i.start_at")}, 8 * i.number + {{0}} + 2)
      # CASE WHEN {_USUAL} THEN 0
        ELSE hash_record_extended(ROW({SELDOM}), 8 * i.number + {{0}} + 3) END"""
_AGREED: Final = f"""ROW(s.currency, s.timezone, {INSTANT.format("s.starts_at")},
      {INSTANT.format("s.ends_at")}, {INSTANT.format("s.anchor_at")}, s.anchor_day, s.alignment,
      s.net_terms_days, {INSTANT.format("s.next_due_at")},
      {INSTANT.format("s.derived_through_at")}, {INSTANT.format("s.next_change_at")})"""
_NAMED: Final = "CAST((SELECT {} FROM named) AS text[])"
# Of those subscriptions $1, each the only one of its customer $2 that falls due, of which nothing
# but its terms decides what is owed: these terms as two hashes. Everything that deriving reads of a
# subscription is hashed, or else the subscription is told apart here. It falls due at its
# `next_due_at`. Each table is read by what is named: joined with the names instead, where many are
# due, it is read as a whole for every portion of a run, and the time that takes grows with the
# square of a seller's size.
TERMS: Final = f"""
WITH named AS MATERIALIZED (
  SELECT string_to_array($1, ',') AS subscriptions, string_to_array($2, ',') AS customers
), told AS (
  SELECT i.subscription, string_agg(i.id, '' ORDER BY i.number) AS intervals,
    bit_xor({_INTERVAL.format(0)}) AS one,
    bit_xor({_INTERVAL.format(4)}) AS other
  FROM price_intervals i
  WHERE i.seller = current_seller() AND i.subscription = ANY({_NAMED.format("subscriptions")})
  GROUP BY 1
), sole AS (
  SELECT s.customer, min(s.id) AS id, min(s.key) AS key, min(s.revision) AS revision,
    min(hash_record_extended({_AGREED}, 0)) AS one,
    min(hash_record_extended({_AGREED}, 1)) AS other
  FROM subscriptions s
  WHERE s.seller = current_seller() AND s.customer = ANY({_NAMED.format("customers")})
  GROUP BY 1 HAVING count(*) = 1 AND bool_and(s.payer IS NULL
    AND s.dirty_from_at IS NULL AND s.interim_at IS NULL AND s.spend_thresholds = '{{}}'
    AND (s.next_change_at IS NULL OR s.next_change_at > s.next_due_at)
    AND s.cancelled_at IS NULL AND NOT s.refund_unused AND s.invoice_group IS NULL
    AND (s.derived_through_at IS NULL OR s.derived_through_at < s.next_due_at))
)
SELECT s.id, s.key, s.revision, t.intervals, s.one # t.one AS one, s.other # t.other AS other
FROM sole s JOIN told t ON t.subscription = s.id
WHERE NOT EXISTS (SELECT FROM subscriptions o
  WHERE o.seller = current_seller() AND o.payer = s.customer
    AND o.payer = ANY(CASE WHEN EXISTS (SELECT FROM subscriptions
      WHERE seller = current_seller() AND payer IS NOT NULL) THEN {_NAMED.format("customers")} END))
"""
# What is due is not known before it is read: of a seller who is new, or of whom much is new, the
# planner may expect one row, and join each of many thousands with each of the others. How many are
# named it does not see: names are looked up in an index in one pass, but for each row of a table
# from the first to the last. The other processors have the rest of the run to do.
_JOINING: Final = {
    "enable_nestloop": "off",
    "enable_seqscan": "off",
    "plan_cache_mode": "force_custom_plan",
    "max_parallel_workers_per_gather": "0",
}
# Each index has the order that is wanted, and the begin of it without all the rest.
_IN_ORDER: Final = {"enable_sort": "off", "enable_hashagg": "off"}
JOIN_AT_ONCE: Final = "; ".join(f"SET LOCAL {name} = {value}" for name, value in _JOINING.items())
LIST_IN_ORDER: Final = "; ".join(
    f"SET LOCAL {name} = {value}" for name, value in (_JOINING | _IN_ORDER).items()
)
JOIN_AS_BEFORE: Final = "; ".join(
    f"SET LOCAL {name} TO DEFAULT" for name in (*_JOINING, *_IN_ORDER)
)
_UNTOLD: Final = (None,) * 6
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


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """At most so many due by an instant; `parked` are left out, `customers` the only ones (ids)."""

    due_by: datetime
    limit: int
    parked: Sequence[str]
    customers: Sequence[str] | None


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
    more.
    """
    plain = await are_plain(connection=connection)
    wanted = Wanted(due_by=due_by, limit=limit, parked=parked, customers=customers)
    return await _find_due(connection, wanted, terms=plain, after=after)


async def due_customers(
    *,
    connection: AsyncConnection,
    due_by: datetime,
    limit: int,
    parked: Sequence[str] = (),
    customers: Sequence[str] | None = None,
) -> list[DueCustomer]:
    """The same, to be derived one by one. `customers` (ids) leaves out others."""
    wanted = Wanted(due_by=due_by, limit=limit, parked=parked, customers=customers)
    found, _ = await _find_due(connection, wanted, terms=False)
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
    connection: AsyncConnection, wanted: Wanted, *, terms: bool, after: Place | None = None
) -> tuple[list[Due], bool]:
    """Who is due, and whether there may be more."""
    raw = await driver(connection)
    # Few who are named are found sooner by looking at all than in the order of what is due.
    await raw.execute(LIST_IN_ORDER if wanted.customers is None else JOIN_AT_ONCE)
    place = after
    while True:
        rows = await _list_due(raw, wanted, place)
        found = await _tell_due(raw, rows, terms=terms, after=after)
        goes_on = len(rows) == wanted.limit
        if found or not goes_on:
            break
        place = Place(due_at=rows[-1][0], key=rows[-1][1])  # all of these were due before
    await raw.execute(JOIN_AS_BEFORE)
    return found, goes_on


async def _list_due(raw: Any, wanted: Wanted, place: Place | None) -> list[Any]:
    """(due instant, key, customer, its only subscription due then) in this order."""
    customers = None if wanted.customers is None else list(wanted.customers)
    start = (None, None) if place is None else (place.due_at, place.key)
    parked = list(wanted.parked)
    listed: list[Any] = await raw.fetch(DUE, wanted.due_by, parked, customers, wanted.limit, *start)
    return listed


async def _tell_due(
    raw: Any, rows: Sequence[Any], *, terms: bool, after: Place | None
) -> list[Due]:
    """Each customer of these rows once, when it first falls due; beyond `after` if that is given.

    Who holds one subscription has not been due before: only the others are looked for there.
    """
    if not rows:
        return []
    named = joined(sorted([row[2] for row in rows]))
    facts = {row[0]: row for row in await raw.fetch(CUSTOMERS, named)}
    told = await _find_terms(raw, rows) if terms else {}
    gone = await _due_before(raw, [row[2] for row in rows if row[3] not in told], after)
    # Few instants and terms are those of many.
    instant = rows[0][0]
    known: dict[tuple[int, int], tuple[int, int]] = {}
    found: list[Due] = []
    for due_at, key, customer, only in rows:
        fact = facts.pop(customer, None)
        if fact is None or customer in gone:
            continue
        if due_at != instant:
            instant = due_at
        _, number, party, net_terms_days, po_number, copied, ungrouped = fact
        same = None
        subscription, contract, revision, intervals, one, other = _UNTOLD
        if ungrouped and only in told:
            subscription, contract, revision, intervals, one, other = told[only]
            same = (one, other)
            same = known.setdefault(same, same)
        found.append(
            Due(
                customer=customer,
                key=key,
                number=number,
                party=party,
                net_terms_days=net_terms_days,
                po_number=po_number,
                due_at=instant,
                copied=copied,
                subscription=subscription,
                contract=contract,
                revision=revision,
                intervals=intervals,
                terms=same,
            )
        )
    return found


async def _due_before(raw: Any, customers: Sequence[str], after: Place | None) -> frozenset[str]:
    if after is None or not customers:
        return frozenset()
    rows = await raw.fetch(_BEFORE, after.due_at, after.key, joined(customers))
    return frozenset(row[0] for row in rows)


async def _find_terms(raw: Any, rows: Sequence[Any]) -> dict[str | None, Any]:
    """{subscription: (itself, its key, revision, intervals, terms as two hashes)}.

    Of those that are alone in a row, and owe by nothing but their terms.
    """
    subscriptions = sorted([row[3] for row in rows if row[3]])
    customers = sorted([row[2] for row in rows if row[3]])
    if not subscriptions:
        return {}
    found = await raw.fetch(TERMS, joined(subscriptions), joined(customers))
    return {row[0]: row for row in found}
