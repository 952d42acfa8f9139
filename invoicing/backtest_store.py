"""SQL of backtests: subscriptions by what they share, and what is posted of them. Reads only."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from invoicing.terms_store import INSTANT, INTERVAL

ID_LENGTH: Final = 30
"""Of the ids of price intervals: a prefix and 26 characters."""

# Everything is hashed that decides which charges there are: what was agreed, and every act since.
_TERMS: Final = f"""hash_record_extended(ROW(s.currency, s.timezone,
    {INSTANT.format("s.starts_at")}, {INSTANT.format("s.ends_at")},
    {INSTANT.format("s.anchor_at")}, s.anchor_day, s.alignment,
    {INSTANT.format("s.cancelled_at")}, {INSTANT.format("s.trial_ends_at")},
    s.plan, s.quantities, s.overrides,
    (SELECT bit_xor({INTERVAL})
      FROM price_intervals i WHERE i.seller = s.seller AND i.subscription = s.id),
    (SELECT bit_xor(hash_record_extended(ROW(h.number, h.kind,
        {INSTANT.format("h.effective_at")}, {INSTANT.format("h.recorded_at")},
        h.plan, h.quantities, h.overrides, h.prorate, h.invoice_now), {{seed}}))
      FROM subscription_changes h WHERE h.seller = s.seller AND h.subscription = s.id
        AND h.undone_at IS NULL)), {{seed}})"""
_ONE: Final = f"""
SELECT s.id, s.key, s.customer, coalesce(s.payer, s.customer) AS bill_to, c.number,
  (SELECT string_agg(i.id, '' ORDER BY i.number) FROM price_intervals i
    WHERE i.seller = s.seller AND i.subscription = s.id) AS intervals,
  {_TERMS.format(seed=0)} AS one, {_TERMS.format(seed=1)} AS other
FROM subscriptions s JOIN customers c ON c.seller = s.seller AND c.id = s.customer
WHERE s.seller = current_seller() AND s.starts_at < $2 AND
"""
# Two halves, each with its own index: few subscriptions have another payer than their customer.
_MEMBERS: Final = (
    f"{_ONE} s.customer = ANY($1::text[]) AND s.payer IS NULL UNION ALL"
    f" {_ONE} s.payer IS NOT NULL AND s.payer = ANY($1::text[]) ORDER BY id"
)
_VOID: Final = text("""
SELECT id FROM invoices WHERE seller = current_seller() AND status = 'void'
UNION ALL SELECT id FROM credit_notes WHERE seller = current_seller() AND status = 'void'
""")
_POSTED: Final = """
SELECT u.member, sum(l.amount_minor)::text AS amount_minor
FROM unnest($1::integer[], $2::text[], $3::timestamptz[], $4::timestamptz[])
    AS u (member, interval, low, high)
  JOIN line_items l ON l.seller = current_seller() AND l.price_interval = u.interval
    AND l.charge_start_at >= u.low AND l.charge_start_at < u.high
WHERE l.document <> ALL($5::text[])
GROUP BY u.member
"""
_OWN: Final = text("""
SELECT id FROM prices WHERE seller = current_seller() AND plan = ANY(:plans)
  AND subscription IS NOT NULL
""")


class Member(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A subscription: who it is of and who pays (ids), and its terms, equal where charges are.

    `number` is its customer's in the event store; `intervals` are the ids of its price intervals
    one after the other.
    """

    id: str
    key: str
    customer: str
    bill_to: str
    number: int
    intervals: str
    terms: tuple[int, int]

    def interval(self, place: int) -> str:
        """The id of the interval at that place."""
        return self.intervals[ID_LENGTH * place : ID_LENGTH * (place + 1)]


async def members_of(
    *, connection: AsyncConnection, customers: Sequence[str], before: datetime
) -> list[Member]:
    """Subscriptions billed to those customers (ids) that began before the instant, by id."""
    raw = await driver(connection)
    rows = await raw.fetch(_MEMBERS, list(customers), before)
    return [
        Member(
            id=row[0],
            key=row[1],
            customer=row[2],
            bill_to=row[3],
            number=row[4],
            intervals=row[5] or "",
            terms=(row[6], row[7]),
        )
        for row in rows
    ]


async def void_documents(*, connection: AsyncConnection) -> list[str]:
    """The ids of documents that count nothing."""
    return list((await connection.execute(_VOID)).scalars())


async def posted_sums(
    *,
    connection: AsyncConnection,
    reaches: Sequence[tuple[int, str, datetime, datetime]],
    void: Sequence[str],
) -> dict[int, int]:
    """Minor units posted for (member, interval id, from, before) of charges, by member."""
    if not reaches:
        return {}
    raw = await driver(connection)
    columns = [list(column) for column in zip(*reaches, strict=True)]
    rows = await raw.fetch(_POSTED, *columns, list(void))
    return {row[0]: int(row[1]) for row in rows}


async def own_prices_of(*, connection: AsyncConnection, plans: Sequence[str]) -> frozenset[str]:
    """The ids of prices that subscriptions have of their own in the place of those plans'."""
    return frozenset((await connection.execute(_OWN, {"plans": list(plans)})).scalars())
