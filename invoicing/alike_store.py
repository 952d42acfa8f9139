"""SQL of posting what was derived together."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver, joined, loading

_PLAIN: Final = """
SELECT NOT EXISTS (SELECT FROM tax_rates WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM coupon_applications WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM credit_grants WHERE seller = current_seller())
  AND NOT EXISTS (SELECT FROM sellers WHERE seller = current_seller() AND tax_provider IS NOT NULL)
"""
_ADVANCE: Final = """
UPDATE subscriptions s SET next_due_at = t.next_due_at, derived_through_at = t.derived_through_at,
  next_change_at = t.next_change_at, dirty_from_at = NULL, interim_at = NULL
FROM unnest(string_to_array($1, ','), string_to_array($2, ',')::integer[],
    string_to_array($3, ',')::integer[]) AS u (id, revision, terms)
  JOIN unnest($4::timestamptz[], $5::timestamptz[], $6::timestamptz[]) WITH ORDINALITY
    AS t (next_due_at, derived_through_at, next_change_at, terms) USING (terms)
WHERE s.seller = current_seller() AND s.id = u.id AND s.revision = u.revision
"""


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
    # Ids and rows were made in one order: so written, one page comes after the other.
    rows = sorted(zip(subscriptions, revisions, terms, strict=True))
    raw = await driver(connection)
    done: str = await raw.execute(
        _ADVANCE,
        joined([subscription for subscription, _, _ in rows]),
        ",".join([str(revision) for _, revision, _ in rows]),
        ",".join([str(each + 1) for _, _, each in rows]),
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
