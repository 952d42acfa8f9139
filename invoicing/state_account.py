"""Verb: state a customer's account over a stretch of days, from the journal."""

from datetime import date, datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, invalid_field, not_found
from engine.money import is_currency
from engine.period import local_date, local_midnight
from invoicing.export_bounds import bounds_of
from invoicing.export_table import Bounds
from invoicing.statement_store import (
    account_moves,
    account_sums,
    first_entry_on,
    held_sums,
    open_items,
)
from invoicing.statements import Asked, Statement, Sums, build_account
from plans.model import Seller
from plans.store import find_customer

ROWS_MAX: Final = 2_000
_DAY: Final = timedelta(days=1)


async def state_account(
    *,
    connection: AsyncConnection,
    seller: Seller,
    customer: str,
    start: str | None,
    end: str | None,
    currency: str | None,
    now: datetime,
) -> Statement:
    """The account on the days [start, end) of the seller's calendar, every currency by itself.

    Without `start` from the first entry on, without `end` through today. Call it in a transaction
    that sees one state of the journal. Errors: `not_found`, `invalid_body`, and
    `statement_too_long` above 2,000 rows.
    """
    found = await find_customer(connection=connection, reference=customer)
    if found is None:
        raise not_found(noun="customer", reference=customer)
    if currency is not None and not is_currency(currency):
        detail = f"{currency[:10]!r} is not an ISO 4217 currency"
        raise invalid_field(pointer="/currency", code="unknown_currency", detail=detail)
    start_on, end_on = await _days(
        connection,
        seller,
        bounds=bounds_of(start=start, end=end, timezone=seller.timezone),
        customer=found.id,
        currency=currency,
        now=now,
    )
    asked = Asked(customer=found.id, currency=currency, start_on=start_on, end_on=end_on)
    sums: dict[str, dict[str, Sums]] = {}
    for each in await account_sums(connection=connection, asked=asked):
        sums.setdefault(each.currency, {})[each.account] = each
    moved = await account_moves(connection=connection, asked=asked, limit=ROWS_MAX + 1)
    if len(moved) > ROWS_MAX:
        detail = f"more than {ROWS_MAX:,} entries between {start_on} and {end_on}: ask for less"
        raise BillingError("statement_too_long", detail)
    end_at = local_midnight(on=end_on, timezone=seller.timezone)
    items = await open_items(
        connection=connection, asked=asked, end_at=end_at, timezone=seller.timezone
    )
    held = await held_sums(connection=connection, asked=asked, end_at=end_at)
    return Statement(
        customer=found.key,
        start_on=start_on,
        end_on=end_on,
        accounts=tuple(
            build_account(
                currency=each,
                sums=sums.get(each, {}),
                moved=[one for one in moved if one.currency == each],
                items=[one for one in items if one.currency == each],
                as_of=end_on - _DAY,
                held_minor=held.get(each, 0),
            )
            for each in sorted({*sums, *held}) or [currency or found.currency or seller.currency]
        ),
    )


async def _days(
    connection: AsyncConnection,
    seller: Seller,
    *,
    bounds: Bounds,
    customer: str,
    currency: str | None,
    now: datetime,
) -> tuple[date, date]:
    """The days asked for, by default from the first entry through today."""
    end_on = bounds.end_on or local_date(at=now, timezone=seller.timezone) + _DAY
    start_on = bounds.start_on
    if start_on is None:
        first = await first_entry_on(connection=connection, customer=customer, currency=currency)
        return min(first or end_on, end_on - _DAY), end_on
    if start_on > end_on:
        detail = f"the account is stated through {end_on - _DAY}, which is before {start_on}"
        raise invalid_field(pointer="/from", code="invalid", detail=detail)
    return start_on, end_on
