"""Verb: bring a cluster's roles and a database's schema to the version of this code."""

import re
from importlib import resources
from typing import Any, Final

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

from engine.db import (
    APP_ROLE,
    AUDITOR_ROLE,
    CONNECT_SECONDS,
    LOADER_ROLE,
    OWNER_ROLE,
    quote_name,
)

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_LOCK: Final = 7_305_119


def _literal(secret: str) -> str:
    if _UNSAFE.search(secret):
        message = "a role's password may hold letters, digits, - and _ only"
        raise ValueError(message)
    return f"'{secret}'"


async def ensure_roles(*, dsn: str, passwords: dict[str, str]) -> None:
    """Create the four roles where they are missing and set the login passwords given.

    `dsn` must be allowed to create roles. owner holds the tables, app works, loader copies
    (BYPASSRLS, INSERT only), auditor reads.
    """
    raw = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        async with raw.transaction():
            await raw.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            known = {row["rolname"] for row in await raw.fetch("SELECT rolname FROM pg_roles")}
            wanted = {
                OWNER_ROLE: "NOLOGIN",
                APP_ROLE: "NOINHERIT NOLOGIN",
                LOADER_ROLE: "NOLOGIN BYPASSRLS",
                AUDITOR_ROLE: "NOLOGIN",
            }
            for role, options in wanted.items():
                if role not in known:
                    await raw.execute(f"CREATE ROLE {role} {options}")
            await raw.execute(f"GRANT {LOADER_ROLE} TO {APP_ROLE}")
            for role, secret in passwords.items():
                await raw.execute(
                    f"ALTER ROLE {quote_name(role)} LOGIN PASSWORD {_literal(secret)}"
                )
    finally:
        await raw.close()


async def ensure_database(*, dsn: str, name: str) -> None:
    """Create database `name`, owned by the owner role, where it is missing."""
    raw = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        found = await raw.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name)
        if found is None:
            try:
                await raw.execute(f"CREATE DATABASE {quote_name(name)} OWNER {OWNER_ROLE}")
            except (asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
                return
    finally:
        await raw.close()


async def adopt_database(*, dsn: str) -> None:
    """Let the roles work in a database that somebody else created, for the user of `dsn`.

    That user must own the database or be a superuser; it is made a member of the roles.
    """
    raw = await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)
    try:
        async with raw.transaction():
            await raw.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            for role in (OWNER_ROLE, APP_ROLE, AUDITOR_ROLE):
                if not await raw.fetchval("SELECT pg_has_role($1, 'MEMBER')", role):
                    await raw.execute(f"GRANT {role} TO CURRENT_USER")
            await raw.execute(f"GRANT CREATE, USAGE ON SCHEMA public TO {OWNER_ROLE}")
    finally:
        await raw.close()


def _config() -> Config:
    config = Config()
    folder = resources.files("engine").joinpath("migrations")
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    return config


def head_revision() -> str | None:
    """The newest revision this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def upgrade(*, dsn: str) -> str | None:
    """Run every missing migration as the owner in one transaction; give the revision reached."""
    engine = create_async_engine("postgresql+asyncpg://", async_creator=_connector(dsn))
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            await connection.execute(text(f"SET LOCAL ROLE {OWNER_ROLE}"))
            await connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            await connection.run_sync(_upgrade)
            return await connection.run_sync(_current)
    finally:
        await engine.dispose()


def _connector(dsn: str) -> Any:
    async def connect() -> Any:
        return await asyncpg.connect(dsn, timeout=CONNECT_SECONDS)

    return connect
