"""SQL of what is due, with what subscriptions must share to be derived together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver, loading
from invoicing.alike import Due

# Besides the work list: of a customer whose only subscription falls due, and of which nothing but
# its terms decides what is owed, those terms as two hashes. Everything that deriving reads of a
# subscription is hashed, or else the subscription is told apart here.
_DUE: Final = """
SELECT c.id, c.key, c.number, c.party, c.net_terms_days, c.po_number, d.due_at,
  s.id AS subscription, s.key AS contract, s.revision, t.intervals, t.one, t.other
FROM (
  SELECT coalesce(s.payer, s.customer) AS customer, min(s.next_due_at) AS due_at,
    CASE WHEN count(*) = 1 AND bool_and(s.payer IS NULL) THEN min(s.id) END AS only
  FROM subscriptions s WHERE s.seller = current_seller() AND s.next_due_at <= $1
    AND coalesce(s.payer, s.customer) <> ALL($2::text[]) AND ($3::text[] IS NULL
      OR coalesce(s.payer, s.customer) = ANY($3::text[]))
  GROUP BY 1
) d JOIN customers c ON c.seller = current_seller() AND c.id = d.customer
  LEFT JOIN subscriptions s ON s.seller = current_seller() AND s.id = d.only AND $5
    AND s.dirty_from_at IS NULL AND s.interim_at IS NULL AND s.spend_thresholds = '{}'
    AND (s.next_change_at IS NULL OR s.next_change_at > d.due_at)
    AND s.cancelled_at IS NULL AND NOT s.refund_unused
    AND s.invoice_group IS NULL AND c.invoice_group IS NULL
    AND (s.derived_through_at IS NULL OR s.derived_through_at < d.due_at)
    AND NOT EXISTS (SELECT FROM subscriptions o
      WHERE o.seller = s.seller AND o.customer = c.id AND o.id <> s.id)
    AND NOT EXISTS (SELECT FROM subscriptions o WHERE o.seller = s.seller AND o.payer = c.id)
  LEFT JOIN LATERAL (
    SELECT string_agg(i.id, '' ORDER BY i.number) AS intervals,
      hash_record_extended(ROW(s.currency, s.timezone, s.starts_at, s.ends_at, s.anchor_at,
        s.anchor_day, s.alignment, s.net_terms_days, s.next_due_at, s.derived_through_at,
        s.next_change_at, bit_xor(hash_record_extended(ROW(i.number, i.price, i.quantity,
          i.start_at, i.end_at, i.end_is_cancellation, i.credit_unused, i.agreed_end_at,
          i.closed_at, i.start_is_due, i.anchor_at, i.anchor_day, i.alignment), 0))), 0) AS one,
      hash_record_extended(ROW(s.currency, s.timezone, s.starts_at, s.ends_at, s.anchor_at,
        s.anchor_day, s.alignment, s.net_terms_days, s.next_due_at, s.derived_through_at,
        s.next_change_at, bit_xor(hash_record_extended(ROW(i.number, i.price, i.quantity,
          i.start_at, i.end_at, i.end_is_cancellation, i.credit_unused, i.agreed_end_at,
          i.closed_at, i.start_is_due, i.anchor_at, i.anchor_day, i.alignment), 1))), 1) AS other
    FROM price_intervals i WHERE i.seller = s.seller AND i.subscription = s.id
  ) t ON s.id IS NOT NULL
ORDER BY d.due_at, c.key COLLATE "C" LIMIT $4
"""
_PLAIN: Final = """
SELECT NOT EXISTS (SELECT FROM tax_rates WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM coupon_applications WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM credit_grants WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM sellers WHERE seller = current_seller() AND tax_provider IS NOT NULL)
"""
_ADVANCE: Final = """
UPDATE subscriptions s SET next_due_at = t.next_due_at, derived_through_at = t.derived_through_at,
  next_change_at = t.next_change_at, dirty_from_at = NULL, interim_at = NULL
FROM unnest($1::text[], $2::integer[], $3::integer[]) AS u (id, revision, terms)
  JOIN unnest($4::timestamptz[], $5::timestamptz[], $6::timestamptz[]) WITH ORDINALITY
    AS t (next_due_at, derived_through_at, next_change_at, terms) USING (terms)
WHERE s.seller = current_seller() AND s.id = u.id AND s.revision = u.revision
"""


async def due_with_terms(
    *,
    connection: AsyncConnection,
    due_by: datetime,
    limit: int,
    parked: Sequence[str],
    customers: Sequence[str] | None,
) -> list[Due]:
    """Customers with something due by `due_by`, in the order of (due instant, key)."""
    raw = await driver(connection)
    plain = await are_plain(connection=connection)
    wanted = None if customers is None else list(customers)
    rows = await raw.fetch(_DUE, due_by, list(parked), wanted, limit, plain)
    return [
        Due(
            customer=row[0],
            key=row[1],
            number=row[2],
            party=row[3],
            net_terms_days=row[4],
            po_number=row[5],
            due_at=row[6],
            subscription=row[7],
            contract=row[8],
            revision=row[9],
            intervals=row[10],
            terms=None if row[11] is None else (row[11], row[12]),
        )
        for row in rows
    ]


async def are_plain(*, connection: AsyncConnection) -> bool:
    """Whether the seller has neither taxes nor coupons nor credit that could change a document."""
    raw = await driver(connection)
    return bool(await raw.fetchval(_PLAIN))


async def advance_alike(
    *,
    connection: AsyncConnection,
    subscriptions: Sequence[str],
    revisions: Sequence[int],
    terms: Sequence[int],
    progress: Sequence[tuple[datetime | None, datetime, datetime | None]],
) -> int:
    """Note (next due, derived through, next change) of each subscription's terms, from 0.

    Gives how many subscriptions still had their revision.
    """
    raw = await driver(connection)
    done: str = await raw.execute(
        _ADVANCE,
        list(subscriptions),
        list(revisions),
        [each + 1 for each in terms],
        [due for due, _, _ in progress],
        [derived for _, derived, _ in progress],
        [change for _, _, change in progress],
    )
    return int(done.rpartition(" ")[2])


async def copy_encoded(
    *, connection: AsyncConnection, tables: Sequence[tuple[str, Sequence[str], bytes]]
) -> None:
    """COPY (table, columns, encoded rows), as the loader."""
    async with loading(connection) as raw:
        for table, columns, content in tables:
            # Bare bytes would be taken for the path of a file.
            await raw.copy_to_table(
                table, source=memoryview(content), columns=list(columns), format="binary"
            )
