"""Addresses of a server for its roles, and whether somebody answers there."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from engine.postgres_files import PostgresError

SUPERUSER = "postgres"


def role_dsn(*, admin_dsn: str, user: str, password: str, database: str | None = None) -> str:
    """The same server for another role, and another database if one is named."""
    parts = urlsplit(admin_dsn)
    hosts = parts.netloc.rpartition("@")[2]
    return urlunsplit(
        parts._replace(
            netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{hosts}",
            path=parts.path if database is None else f"/{quote(database, safe='')}",
        )
    )


def socket_dsn(*, socket_dir: Path, port: int, password: str) -> str:
    """The superuser's address over the Unix socket; asyncpg, libpq and SQLAlchemy all take it."""
    where = quote(str(socket_dir), safe="/")
    return f"postgresql://{SUPERUSER}:{password}@/postgres?host={where}&port={port}"


def answered_version(*, dsn: str, timeout_seconds: float) -> str | None:
    """Connect for real and ask for the version; None when the server takes no connections now.

    Works inside a running event loop too, which it blocks. Raises PostgresError when the server
    refuses our password: waiting would not help.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(lambda: asyncio.run(_ask_version(dsn, timeout_seconds))).result()


async def _ask_version(dsn: str, timeout_seconds: float) -> str | None:
    try:
        connection = await asyncpg.connect(dsn, timeout=max(1, int(timeout_seconds)))
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise PostgresError(
            "postgres_password_refused",
            f"the server does not take our password for '{SUPERUSER}': the secrets directory "
            "under USANCE_HOME is not the one this database was created with.",
        ) from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return None
    try:
        found = connection.get_server_version()
        return f"{found.major}.{found.micro}"
    finally:
        connection.terminate()
