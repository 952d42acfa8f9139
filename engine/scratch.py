"""Databases that live for one run: clones of a migrated template, dropped at the end.

The template is named after the schema it holds, so a changed migration gets a new one and two
processes that want the same one build it once.
"""

import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final

import asyncpg

from engine import migrate
from engine.db import CONNECT_SECONDS, OWNER_ROLE, quote_name

PREFIX: Final = "usance_scratch"
_LOCK: Final = 7_305_120
_TURNS: Final = 10


def database_dsn(*, dsn: str, name: str) -> str:
    """The same server and user, another database."""
    scheme, _, rest = dsn.partition("://")
    place, mark, query = rest.partition("?")
    return f"{scheme}://{place.partition('/')[0]}/{name}{mark}{query}"


def schema_digest() -> str:
    """Twelve hex digits that stand for the migrations as they are now."""
    digest = hashlib.blake2b(digest_size=6)
    folder = resources.files("engine").joinpath("migrations")
    for part in ("sql", "versions"):
        for entry in sorted(folder.joinpath(part).iterdir(), key=lambda item: item.name):
            if entry.name.endswith((".sql", ".py")):
                digest.update(entry.name.encode() + b"\0" + entry.read_bytes() + b"\0")
    return digest.hexdigest()


async def current_revision(*, dsn: str) -> str | None:
    """The revision a database is at; None when it was never migrated."""
    raw = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        if await raw.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        return await raw.fetchval("SELECT version_num FROM alembic_version")
    finally:
        await raw.close()


async def ensure_template(*, dsn: str) -> str:
    """The name of the migrated template on the server of `dsn`, made if it is missing.

    `dsn` must be allowed to create databases and roles.
    """
    name = f"{PREFIX}_template_{schema_digest()}"
    raw = await asyncpg.connect(database_dsn(dsn=dsn, name="postgres"), timeout=CONNECT_SECONDS)
    try:
        await raw.execute("SELECT pg_advisory_lock($1)", _LOCK)
        if await raw.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
            await _build(raw, dsn=dsn, name=name)
        return name
    finally:
        await raw.close()


async def _build(raw: Any, *, dsn: str, name: str) -> None:
    # Built under another name and renamed, so that a template is there whole or not at all.
    building = f"{name}_building"
    await migrate.ensure_roles(dsn=database_dsn(dsn=dsn, name="postgres"), passwords={})
    await _when_free(raw, f"DROP DATABASE IF EXISTS {quote_name(building)} WITH (FORCE)")
    await _when_free(raw, f"CREATE DATABASE {quote_name(building)} OWNER {OWNER_ROLE}")
    await migrate.upgrade(dsn=database_dsn(dsn=dsn, name=building))
    await _when_free(raw, f"ALTER DATABASE {quote_name(building)} RENAME TO {quote_name(name)}")


async def _when_free(raw: Any, statement: str) -> None:
    """Run what needs a database that nobody uses; a session that ends may take its time to go."""
    for _ in range(_TURNS):
        with contextlib.suppress(asyncpg.ObjectInUseError):
            await raw.execute(statement)  # the server itself waits for five seconds
            return
    await raw.execute(statement)


@asynccontextmanager
async def scratch_database(*, dsn: str) -> AsyncIterator[str]:
    """A fresh migrated database on the server of `dsn`; gives its address, drops it after.

    What a process that was killed left behind is dropped by the next one.
    """
    template = await ensure_template(dsn=dsn)
    name = f"{PREFIX}_{os.urandom(8).hex()}"
    # This connection stays open, so that others see by its name that the database is in use.
    raw = await asyncpg.connect(
        database_dsn(dsn=dsn, name="postgres"),
        timeout=CONNECT_SECONDS,
        server_settings={"application_name": name},
    )
    try:
        await _drop_left_behind(raw, template=template)
        await _when_free(raw, f"CREATE DATABASE {quote_name(name)} TEMPLATE {quote_name(template)}")
        try:
            yield database_dsn(dsn=dsn, name=name)
        finally:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await _when_free(raw, f"DROP DATABASE IF EXISTS {quote_name(name)} WITH (FORCE)")
    finally:
        raw.terminate()


async def _drop_left_behind(raw: Any, *, template: str) -> None:
    """Drop scratch databases that nobody works on and templates of other schemas."""
    rows = await raw.fetch(
        """
        SELECT d.datname FROM pg_database d
        WHERE d.datname ~ ('^' || $1 || '_') AND d.datname <> $2
          AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.application_name = d.datname)
        """,
        PREFIX,
        template,
    )
    for row in rows:
        # Without FORCE: one that is being built or cloned just now stays.
        with contextlib.suppress(asyncpg.PostgresError):
            await raw.execute(f"DROP DATABASE IF EXISTS {quote_name(row['datname'])}")
