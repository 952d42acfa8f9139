"""Try a statement and tell how the database refused it."""

from typing import Any, Final

import asyncpg
import pytest

NOT_PERMITTED: Final = "42501"
GUARDED: Final = "23001"
CHECKED: Final = "23514"
TAKEN: Final = "23505"
MISSING: Final = "23502"

SELLER_TABLES: Final = """
    SELECT c.relname FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'seller' AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') ORDER BY 1
"""


async def refusal(raw: Any, *statements: str) -> str:
    """The SQLSTATE with which the last statement, or the end of the transaction, was refused."""
    try:
        async with raw.transaction():
            for statement in statements:
                await raw.execute(statement)
            await raw.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    pytest.fail(f"the database took it: {statements}")


async def accepts(raw: Any, *statements: str) -> None:
    """Run the statements with all deferred checks, then undo them."""
    undo = raw.transaction()
    await undo.start()
    for statement in statements:
        await raw.execute(statement)
    await raw.execute("SET CONSTRAINTS ALL IMMEDIATE")
    await undo.rollback()


async def seller_tables(raw: Any) -> list[str]:
    """Every table that has a seller column."""
    return [row["relname"] for row in await raw.fetch(SELLER_TABLES)]
