"""The house: sellers, catalogue, subscriptions, usage, documents, journal, and their guards."""

from engine.migrations.run_sql import run_sql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, then what the database refuses."""
    run_sql("0001_tables.sql")
    run_sql("0001_guards.sql")
