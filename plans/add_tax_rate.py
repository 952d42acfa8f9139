"""Verb: make a tax rate known."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.ids import new_id
from plans.catalog import refuse_invalid
from plans.tax_rate_store import find_tax_rate, insert_tax_rate
from plans.tax_rates import TaxRate, TaxRateDraft, tax_rate_errors


async def add_tax_rate(
    *, connection: AsyncConnection, draft: TaxRateDraft, now: datetime, wall_now: datetime
) -> TaxRate:
    """Add a rate. Errors: `invalid_body`; a key already taken violates its unique key."""
    refuse_invalid(tax_rate_errors(draft))
    rate_id = new_id(prefix="txr", now=wall_now)
    await insert_tax_rate(connection=connection, rate_id=rate_id, draft=draft, now=now)
    made = await find_tax_rate(connection=connection, reference=rate_id)
    assert made is not None
    return made
