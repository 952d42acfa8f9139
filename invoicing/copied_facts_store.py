"""SQL that looks again at what documents copy of customers: it may have changed since."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import xor
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import LISTED, driver, joined

# Of a row `{0}` of customers, with its id: so that two cannot stand for one another.
COPIED: Final = (
    "hash_record_extended(ROW({0}.id, {0}.party, {0}.net_terms_days, {0}.po_number,"
    " {0}.invoice_group), 0)"
)
_COPIED_NOW: Final = f"""
SELECT bit_xor({COPIED.format("c")}) FROM customers c
WHERE c.seller = current_seller() AND c.id = ANY({LISTED.format("$1")})
"""
_SAME_GROUPS: Final = """
SELECT count(*) FROM unnest($1::text[], $2::text[]) AS u (id, invoice_group)
  JOIN subscriptions s ON s.seller = current_seller() AND s.id = u.id
  JOIN customers c ON c.seller = s.seller AND c.id = s.customer
WHERE coalesce(s.invoice_group, c.invoice_group, '') = u.invoice_group
"""


async def are_customers_same(
    *, connection: AsyncConnection, customers: Sequence[str], copied: Sequence[int]
) -> bool:
    """Whether what documents copy of each customer (id) is still what was `copied` (hashes)."""
    raw = await driver(connection)
    found = await raw.fetchval(_COPIED_NOW, joined(sorted(customers)))
    return bool((found or 0) == reduce(xor, copied, 0))


async def are_groups_same(*, connection: AsyncConnection, groups: Mapping[str, str]) -> bool:
    """Whether each subscription (id) still has the invoice group that was read, "" for none."""
    raw = await driver(connection)
    found = await raw.fetchval(_SAME_GROUPS, list(groups), list(groups.values()))
    return bool(found == len(groups))
