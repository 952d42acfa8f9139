"""SQL of tax rates."""

from datetime import datetime
from decimal import Decimal
from typing import Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from plans.tax_rates import TaxRate, TaxRateDraft

_COLUMNS: Final = """id, key, name, trim_scale(percentage)::text AS percentage, inclusive, country,
  region, by_place, archived_at, created_at"""
_EVERY: Final = text(f"""
SELECT {_COLUMNS} FROM tax_rates WHERE seller = current_seller() ORDER BY id
""")
_PAGE: Final = text(f"""
SELECT {_COLUMNS} FROM tax_rates WHERE seller = current_seller()
  AND (CAST(:after AS text) IS NULL OR id > :after) ORDER BY id LIMIT :limit
""")
_ONE: Final = text(f"""
SELECT {_COLUMNS} FROM tax_rates
WHERE seller = current_seller() AND (key = :reference OR id = :reference)
""")
_INSERT: Final = text("""
INSERT INTO tax_rates (id, key, name, percentage, inclusive, country, region, by_place, created_at)
VALUES (:id, :key, :name, :percentage, :inclusive, :country, :region, :by_place, :created_at)
""")
_ARCHIVE: Final = text("""
UPDATE tax_rates SET archived_at = coalesce(archived_at, :now)
WHERE seller = current_seller() AND id = :id
""")


async def every_tax_rate(*, connection: AsyncConnection) -> list[TaxRate]:
    """All rates of the seller, archived ones too, in the order they were made."""
    rows = (await connection.execute(_EVERY)).mappings()
    return [msgspec.convert(dict(row), TaxRate) for row in rows]


async def list_tax_rates(
    *, connection: AsyncConnection, limit: int, after: str | None = None
) -> list[TaxRate]:
    """Up to `limit` rates after the id `after`, in the order they were made."""
    rows = (await connection.execute(_PAGE, {"after": after, "limit": limit})).mappings()
    return [msgspec.convert(dict(row), TaxRate) for row in rows]


async def find_tax_rate(*, connection: AsyncConnection, reference: str) -> TaxRate | None:
    """The rate with that key or id."""
    row = (await connection.execute(_ONE, {"reference": reference})).mappings().one_or_none()
    return None if row is None else msgspec.convert(dict(row), TaxRate)


async def insert_tax_rate(
    *, connection: AsyncConnection, rate_id: str, draft: TaxRateDraft, now: datetime
) -> None:
    """Write a rate; a key already taken violates its unique key."""
    row = msgspec.structs.asdict(draft) | {"id": rate_id, "created_at": now}
    await connection.execute(_INSERT, row | {"percentage": Decimal(draft.percentage)})


async def archive_tax_rate(*, connection: AsyncConnection, rate_id: str, now: datetime) -> None:
    """Let nothing new use the rate."""
    await connection.execute(_ARCHIVE, {"id": rate_id, "now": now})
