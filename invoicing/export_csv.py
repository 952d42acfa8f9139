"""Write a table of the seller's as CSV, in pieces."""

from collections.abc import AsyncGenerator

from engine.db import Database
from invoicing.export_bounds import bounds_of
from invoicing.export_store import stream_table
from invoicing.export_table import COLUMNS, ExportKind, format_row, write_csv
from plans.seller_store import load_seller


async def export_csv(
    *,
    database: Database,
    seller: int,
    kind: ExportKind,
    start: str | None,
    end: str | None,
) -> AsyncGenerator[bytes, None]:
    """The header row, then the rows a thousand at a time, all of one snapshot.

    The transaction is open for as long as the pieces are taken. Errors: `invalid_body` for a
    `start` or `end` that is neither a day nor an instant, before the first piece.
    """
    columns = COLUMNS[kind]
    async with database.transaction(seller=seller, snapshot=True) as connection:
        home = await load_seller(connection=connection)
        bounds = bounds_of(start=start, end=end, timezone=home.timezone)
        yield write_csv([list(columns)])
        async for rows in stream_table(connection=connection, kind=kind, bounds=bounds):
            yield write_csv([format_row(dict(row), columns=columns) for row in rows])
