"""SQL of who pays for whom: parents of customers, and the customer at the top of them."""

from collections.abc import Sequence
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# One at a time: two customers must not become each other's parents.
_LOCK: Final = text("SELECT pg_advisory_xact_lock(hashtextextended(current_seller()::text, 4209))")
_BELOW: Final = """
WITH RECURSIVE below AS (
  SELECT CAST(:customer AS text) AS id
  UNION SELECT k.id FROM customers k JOIN below b ON k.parent = b.id
  WHERE k.seller = current_seller())
"""
_IS_BELOW: Final = text(_BELOW + "SELECT EXISTS (SELECT FROM below WHERE id = :parent)")
_SET: Final = text("""
UPDATE customers SET parent = :parent, payer = (
  SELECT coalesce(p.payer, p.id) FROM customers p
  WHERE p.seller = current_seller() AND p.id = :parent)
WHERE seller = current_seller() AND id = :customer
""")
# All below, also whose payer stays: who subscribes one of them at this moment waits for its row.
_PASS_DOWN: Final = text(
    _BELOW
    + """
UPDATE customers c SET payer = coalesce(t.payer, t.id)
FROM below b, customers t
WHERE c.seller = current_seller() AND c.id = b.id AND c.id <> :customer
  AND t.seller = c.seller AND t.id = :customer
"""
)
# CASE: coalesce is no index condition behind row-level security, for all the planner knows of it.
MOVE: Final = text(
    _BELOW
    + """
UPDATE subscriptions s SET payer = c.payer, revision = s.revision + 1, bill_key = (
  SELECT p.key FROM customers p WHERE p.seller = current_seller()
    AND p.id = CASE WHEN c.payer IS NULL THEN c.id ELSE c.payer END)
FROM below b JOIN customers c ON c.seller = current_seller() AND c.id = b.id
WHERE s.seller = current_seller() AND s.customer = c.id AND s.payer IS DISTINCT FROM c.payer
"""
)
_PAYERS: Final = text("""
SELECT DISTINCT coalesce(payer, id) AS id FROM customers
WHERE seller = current_seller() AND id = ANY(:customers) ORDER BY id
""")


async def hold_families(*, connection: AsyncConnection) -> None:
    """Let nobody else set a parent or take one away until the transaction ends.

    Whoever writes or locks customers or parties too does so afterwards: two who move what lies
    above one another would each wait for the other.
    """
    await connection.execute(_LOCK)


async def is_below(*, connection: AsyncConnection, customer: str, parent: str) -> bool:
    """Whether `parent` is the customer or has it above."""
    found = await connection.execute(_IS_BELOW, {"customer": customer, "parent": parent})
    return bool(found.scalar_one())


async def set_parent(*, connection: AsyncConnection, customer: str, parent: str | None) -> None:
    """Let the parent, or whoever pays for it, pay for the customer and all below it (ids)."""
    await connection.execute(_SET, {"customer": customer, "parent": parent})
    for statement in (_PASS_DOWN, MOVE):
        await connection.execute(statement, {"customer": customer})


async def payers_of(*, connection: AsyncConnection, customers: Sequence[str]) -> list[str]:
    """The customers (ids) whose documents hold the charges of these, each once."""
    return list((await connection.execute(_PAYERS, {"customers": list(customers)})).scalars())
