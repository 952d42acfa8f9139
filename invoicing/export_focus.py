"""Write what customers were billed as FOCUS cost and usage data, in pieces."""

from collections.abc import AsyncGenerator

from engine.db import Database
from engine.errors import not_found
from invoicing.export_bounds import bounds_of
from invoicing.export_table import format_row, write_csv
from invoicing.focus import FOCUS_COLUMNS, focus_rows
from invoicing.focus_store import find_account, stream_focus_lines
from plans.seller_store import load_seller


async def export_focus(
    *,
    database: Database,
    seller: int,
    customer: str | None,
    start: str | None,
    end: str | None,
) -> AsyncGenerator[bytes, None]:
    """The header row, then the rows of the documents issued in [start, end), of one snapshot.

    `customer` (key or id) is who was billed; None is everybody. Errors, before the first
    piece: `not_found`, and `invalid_body` for a `start` or `end` that is no day or instant.
    """
    async with database.transaction(seller=seller, snapshot=True) as connection:
        home = await load_seller(connection=connection)
        bounds = bounds_of(start=start, end=end, timezone=home.timezone)
        account = None
        if customer is not None:
            account = await find_account(connection=connection, customer=customer)
            if account is None:
                raise not_found(noun="customer", reference=customer)
        yield write_csv([list(FOCUS_COLUMNS)])
        async for lines in stream_focus_lines(
            connection=connection, customer=account, bounds=bounds
        ):
            yield write_csv(
                [
                    format_row(row, columns=FOCUS_COLUMNS)
                    for line in lines
                    for row in focus_rows(line, timezone=home.timezone)
                ]
            )
