"""The content of all tables of a seller, as a digest of each: equal digests are equal bytes."""

import hashlib

import asyncpg

from engine.db import quote_name

# When a run began and ended, how often it swept and billed one by one, and the place of an event
# in the outbox, whose numbers a commit that failed takes with it: all that a crash may change.
MAY_DIFFER = {
    "billing_runs": "SELECT seller, id, as_of, status, documents, lines FROM billing_runs",
    "billing_state": "SELECT seller FROM billing_state",
    "run_fallbacks": "SELECT seller, run, reason FROM run_fallbacks",
    "outbox": "SELECT seller, id, type, object, version, occurred_at FROM outbox",
}
TABLES = """
SELECT CAST(c.relname AS text) FROM pg_class c
WHERE c.relnamespace = CAST('public' AS regnamespace) AND c.relkind IN ('r', 'p')
  AND c.relname <> 'alembic_version' ORDER BY 1
"""


async def digests(dsn):
    """(rows, SHA-256) of every table by name, its rows in the order of their text."""
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        return {row[0]: await digest(raw, row[0]) for row in await raw.fetch(TABLES)}
    finally:
        await raw.close()


async def digest(raw, table):
    content = hashlib.sha256()

    async def take(part):
        content.update(part)

    rows = MAY_DIFFER.get(table, f"SELECT * FROM {quote_name(table)}")
    told = await raw.copy_from_query(
        f'SELECT CAST(r AS text) COLLATE "C" FROM ({rows}) AS r ORDER BY 1', output=take
    )
    return int(told.split()[-1]), content.hexdigest()
