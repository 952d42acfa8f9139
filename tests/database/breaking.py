"""Try a statement and tell how the database refused it; and what breaks its guards."""

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

WALLS: Final = [
    ("DROP TRIGGER due_updated ON subscriptions", {"guards"}, "subscriptions due_updated"),
    ("DROP TRIGGER in_turn ON outbox", {"guards"}, "outbox in_turn"),
    ("ALTER TABLE postings DISABLE TRIGGER balance", {"guards"}, "postings balance"),
    ("ALTER TABLE invoices ENABLE REPLICA TRIGGER guard", {"guards"}, "invoices guard"),
    ("DROP TRIGGER gapless ON number_series", {"guards"}, "number_series gapless"),
    *(
        (statement, {"row_level_security"}, "meters")
        for statement in (
            "ALTER TABLE meters NO FORCE ROW LEVEL SECURITY",
            "ALTER TABLE meters DISABLE ROW LEVEL SECURITY",
            "DROP POLICY own_rows ON meters",
            "ALTER POLICY own_rows ON meters WITH CHECK (true)",
            "CREATE POLICY wide ON meters USING (true)",
        )
    ),
    ("CREATE TABLE later (seller integer)", {"row_level_security"}, "later"),
    ("GRANT DELETE ON postings TO usance_app", {"roles"}, "usance_app"),
    ("GRANT TRUNCATE ON meters TO usance_app", {"roles"}, "usance_app"),
    ("GRANT SELECT ON postings TO PUBLIC", {"roles"}, "everybody"),
    ("GRANT SELECT ON postings TO usance_loader", {"roles"}, "usance_loader"),
    ("GRANT INSERT (seller) ON postings TO usance_loader", {"roles"}, "usance_loader"),
    ("GRANT INSERT ON postings TO usance_auditor", {"roles"}, "usance_auditor"),
    ("ALTER TABLE meters OWNER TO usance_app", {"roles"}, "usance_app"),
    ("ALTER ROLE usance_app BYPASSRLS", {"roles"}, "usance_app"),
    ("GRANT usance_owner TO usance_app", {"roles"}, "usance_app"),
    ("ALTER ROLE usance_app SET synchronous_commit = off", {"durability"}, "setting of a role"),
    ("SET LOCAL synchronous_commit = off", {"durability"}, "synchronous_commit"),
]
"""(statement that breaks what guards the tables, the audit's checks that tell, what they name)."""


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
