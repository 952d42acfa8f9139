"""SQL of customers that were billed one by one, though they might have been billed together."""

from collections.abc import Sequence
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.model import Fallback

_NOTE: Final = text("""
INSERT INTO run_fallbacks AS f (run, reason, detail, times, customers)
VALUES (:run, :reason, :detail, 1, :customers)
ON CONFLICT (seller, run, reason) DO UPDATE SET detail = excluded.detail, times = f.times + 1,
  customers = f.customers + excluded.customers
""")
_LIST: Final = text("""
SELECT run, reason, detail, times, customers FROM run_fallbacks
WHERE seller = current_seller() AND run = ANY(:runs) ORDER BY run, reason
""")
_SUMS: Final = text("SELECT seller_id, reason, times, customers FROM billing_fallbacks()")


class FallbackSum(msgspec.Struct, frozen=True, kw_only=True):
    """All of one reason, of one seller (its id)."""

    seller_id: str
    reason: str
    times: int
    customers: int


async def note_fallback(
    *, connection: AsyncConnection, run: str, reason: str, detail: str, customers: int
) -> None:
    """Note that so many customers are billed one by one."""
    row = {"run": run, "reason": reason, "detail": detail[:500], "customers": customers}
    await connection.execute(_NOTE, row)


async def list_fallbacks(
    *, connection: AsyncConnection, runs: Sequence[str]
) -> dict[str, tuple[Fallback, ...]]:
    """Those of each of the runs, by reason."""
    found: dict[str, tuple[Fallback, ...]] = {}
    for row in await connection.execute(_LIST, {"runs": list(runs)}):
        one = Fallback(
            reason=row.reason, detail=row.detail, times=row.times, customers=row.customers
        )
        found[row.run] = (*found.get(row.run, ()), one)
    return found


async def sum_fallbacks(*, connection: AsyncConnection) -> list[FallbackSum]:
    """Those of all runs of all sellers."""
    rows = await connection.execute(_SUMS)
    return [msgspec.convert(dict(row), FallbackSum, strict=False) for row in rows.mappings()]
