"""Scratch databases: migrated, apart from each other, gone at the end."""

import asyncpg
import pytest

from engine.migrate import head_revision
from engine.scratch import current_revision, database_dsn, ensure_template, scratch_database
from tests.fixtures_database import Cluster

pytestmark = pytest.mark.anyio
STRAY = "usance_scratch_0123456789abcdef"


async def scratch_names(dsn: str) -> set[str]:
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        rows = await raw.fetch("SELECT datname FROM pg_database WHERE datname ~ '^usance_scratch_'")
        return {row["datname"] for row in rows}
    finally:
        await raw.close()


async def test_each_is_migrated_apart_and_gone_at_the_end(cluster: Cluster) -> None:
    template = await ensure_template(dsn=cluster.admin_dsn)
    before = await scratch_names(cluster.admin_dsn)
    assert template in before
    async with (
        scratch_database(dsn=cluster.admin_dsn) as first,
        scratch_database(dsn=cluster.admin_dsn) as second,
    ):
        assert first != second
        assert await current_revision(dsn=first) == head_revision()
        assert len(await scratch_names(cluster.admin_dsn) - before) == 2
    assert await scratch_names(cluster.admin_dsn) == before


async def test_what_a_killed_process_left_is_dropped(cluster: Cluster) -> None:
    await cluster.run(f"CREATE DATABASE {STRAY}")
    async with scratch_database(dsn=cluster.admin_dsn):
        assert STRAY not in await scratch_names(cluster.admin_dsn)


async def test_a_database_without_tables_has_no_revision(cluster: Cluster) -> None:
    assert await current_revision(dsn=cluster.admin_dsn) is None


def test_only_the_database_in_an_address_changes() -> None:
    dsn = "postgresql://u:p@/postgres?host=/run/pg&port=5432"
    assert database_dsn(dsn=dsn, name="x") == "postgresql://u:p@/x?host=/run/pg&port=5432"
    assert database_dsn(dsn="postgresql://u@h:1/a", name="x") == "postgresql://u@h:1/x"
