"""A migration is a SQL file: readable as such, run as one script."""

from importlib import resources
from typing import Any

from alembic import op


def run_sql(name: str) -> None:
    """Run `sql/<name>` on the migration's connection, in its transaction."""
    script = resources.files("engine.migrations").joinpath("sql", name).read_text("utf-8")
    adapted: Any = op.get_bind().connection.dbapi_connection

    async def execute(raw: Any) -> None:
        await raw.execute(script)

    adapted.run_async(execute)
