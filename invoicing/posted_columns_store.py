"""SQL of subscriptions by the page, with hashes of their terms, and of their posted lines."""

import io
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.columns import SINCE, decode_copy
from engine.db import driver
from invoicing.posted_columns import PostedColumns
from invoicing.terms_store import INSTANT, INTERVAL

_CUSTOMERS: Final = """
SELECT max(number) FROM (
  SELECT number FROM customers WHERE seller = current_seller() AND number > $1
  ORDER BY number LIMIT $2) page
"""
_KEYS: Final = """
SELECT key FROM customers WHERE seller = current_seller() AND number > $1 AND number <= $2
ORDER BY number
"""
# All that deriving reads of a subscription from its beginning is hashed.
_HASHED: Final = f"""
  hash_record_extended(ROW(s.currency, s.timezone, {INSTANT.format("s.starts_at")},
    {INSTANT.format("s.ends_at")}, {INSTANT.format("s.anchor_at")}, s.anchor_day, s.alignment,
    {INSTANT.format("s.cancelled_at")}, s.refund_unused, {INSTANT.format("s.derived_through_at")},
    {INSTANT.format("s.next_due_at")},
    count(*), bit_xor({INTERVAL})), {{seed}})"""
_MEMBERS: Final = f"""
SELECT c.number, s.id, s.dirty_from_at IS NULL AND s.spend_thresholds = '{{}}' AS plain,
  t.one, t.other
FROM customers c JOIN subscriptions s ON s.seller = c.seller AND s.customer = c.id
  CROSS JOIN LATERAL (
    SELECT {_HASHED.format(seed=0)} AS one, {_HASHED.format(seed=1)} AS other
    FROM price_intervals i WHERE i.seller = s.seller AND i.subscription = s.id) t
WHERE c.seller = current_seller() AND c.number > $1 AND c.number <= $2
ORDER BY c.number, s.id
"""
_POSTED: Final = """
SELECT m.place, CAST(i.number AS bigint) AS number, l.charge_start_at,
  CASE WHEN coalesce(v.status, n.status) <> 'void' THEN l.amount_minor ELSE 0 END AS amount_minor,
  CAST(CAST(l.charge_group <> '' AS integer) AS bigint) AS grouped,
  CASE WHEN abs(coalesce(l.quantity, 0)) < 9000000000
    THEN CAST(coalesce(l.quantity, 0) * 1000000000 AS bigint) ELSE -1 END AS nanos,
  CAST(CAST(coalesce(v.status, n.status) <> 'void' AS integer) AS bigint) AS counting
FROM (
  SELECT s.id, row_number() OVER (ORDER BY c.number, s.id) - 1 AS place
  FROM customers c JOIN subscriptions s ON s.seller = c.seller AND s.customer = c.id
  WHERE c.seller = current_seller() AND c.number > $1 AND c.number <= $2
) m JOIN price_intervals i ON i.seller = current_seller() AND i.subscription = m.id
  JOIN line_items l ON l.seller = current_seller() AND l.price_interval = i.id
  LEFT JOIN invoices v ON v.seller = current_seller() AND v.id = l.document
  LEFT JOIN credit_notes n ON n.seller = current_seller() AND n.id = l.document
"""


class Member(msgspec.Struct, frozen=True, gc=False):
    """One subscription of a page; `plain` where its terms alone decide what it owes."""

    customer: int
    id: str
    plain: bool
    terms: tuple[int, int]


async def last_of_page(*, connection: AsyncConnection, after: int, customers: int) -> int | None:
    """The number of the last of so many customers beyond the number `after`; None of none."""
    raw = await driver(connection)
    last: int | None = await raw.fetchval(_CUSTOMERS, after, customers)
    return last


async def keys_between(*, connection: AsyncConnection, after: int, last: int) -> list[str]:
    """The keys of the customers with numbers in (after, last], in order."""
    raw = await driver(connection)
    return [row[0] for row in await raw.fetch(_KEYS, after, last)]


async def members_between(*, connection: AsyncConnection, after: int, last: int) -> list[Member]:
    """The subscriptions of the customers with numbers in (after, last], in order."""
    raw = await driver(connection)
    rows = await raw.fetch(_MEMBERS, after, last)
    return [Member(row[0], row[1], row[2], (row[3], row[4])) for row in rows]


async def posted_between(*, connection: AsyncConnection, after: int, last: int) -> PostedColumns:
    """The posted lines of those subscriptions; places are those in `members_between`."""
    raw = await driver(connection)
    target = io.BytesIO()
    await raw.copy_from_query(_POSTED, after, last, output=target, format="binary")
    columns = decode_copy(target.getvalue(), columns=7)
    place, number, start, amount, grouped, nanos, counting = columns
    return PostedColumns(
        place=place,
        number=number,
        start_micros=start + SINCE,
        amount_minor=amount,
        grouped=grouped,
        quantity_nanos=nanos,
        counting=counting,
    )
