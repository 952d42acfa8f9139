"""Connections, transactions and bulk COPY; the one place that names a seller to the database.

Every transaction of the application runs as `usance_app` under row-level security and names its
seller first, so a statement that forgets its filter still sees one seller's rows only.
"""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

APP_ROLE: Final = "usance_app"
LOADER_ROLE: Final = "usance_loader"
AUDITOR_ROLE: Final = "usance_auditor"
OWNER_ROLE: Final = "usance_owner"
CONNECT_SECONDS: Final = 60
"""How long a command waits for the server to take a connection."""
LISTED: Final = "CAST((SELECT string_to_array({0}, ',')) AS text[])"
"""The ids that parameter `{0}` holds, as `joined` put them. The planner weighs every element of an
array that it sees, which takes longer than to find them; of this one it expects ten, and reads what
they name by index."""
_NAME: Final = re.compile(r"^[a-z_][a-z0-9_]*$")

_SNAPSHOT: Final = re.compile(r"^[0-9A-F-]+$")
_SHARE: Final = text("SELECT pg_export_snapshot()")
_PATIENT: Final = text("""
SELECT set_config('statement_timeout', '0', true),
  set_config('idle_in_transaction_session_timeout', '0', true)
""")
_LOCK: Final = text("SELECT pg_advisory_lock(hashtextextended(:key, 0))")
_TRY_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(hashtextextended(:key, 0))")
_LOCK_WAIT: Final = text("""
SELECT set_config('lock_timeout', :wait, false), set_config('statement_timeout', '0', false)
""")
_SELLER: Final = text("SELECT set_config('app.seller', :seller, true)")


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How long a session waits, in seconds; what takes longer fails and may be tried again.

    The defaults are for whoever has somebody waiting for an answer.
    """

    connect_seconds: int = 10
    """For the server to take a connection."""
    pool_seconds: int = 5
    """For a connection that others of the pool use."""
    lock_seconds: int = 10
    """For what another transaction holds."""


PATIENT: Final = Waiting(connect_seconds=CONNECT_SECONDS, pool_seconds=60, lock_seconds=60)
"""For work that has to be begun again as a whole when it fails."""


class Database:
    """A pool of connections in one role."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        event_store: object | None = None,
        private_addresses: bool = False,
    ) -> None:
        """Wrap an engine; `open_database` makes it.

        `private_addresses` lets what sellers name outside lie in a private network.
        """
        self.engine = engine
        self.event_store = event_store
        self.private_addresses = private_addresses

    @asynccontextmanager
    async def transaction(
        self, *, seller: int | None, snapshot: bool | str = False
    ) -> AsyncIterator[AsyncConnection]:
        """One transaction that sees the rows of `seller` (None: of nobody).

        `snapshot` makes it REPEATABLE READ and read-only: every statement sees the same facts.
        The name that `share_snapshot` gave shows those of another transaction.
        """
        async with self.engine.connect() as connection:
            if snapshot:
                await connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            async with connection.begin():
                if isinstance(snapshot, str):
                    await connection.exec_driver_sql(_same_snapshot(snapshot))
                await connection.execute(_SELLER, {"seller": "" if seller is None else str(seller)})
                yield connection

    @property
    def size(self) -> int:
        """How many connections there may be at once."""
        pool = self.engine.pool
        return pool.size() if isinstance(pool, QueuePool) else 1

    @property
    def spare(self) -> int:
        """How many connections could be taken at once without waiting for one."""
        pool = self.engine.pool
        return pool.size() - pool.checkedout() if isinstance(pool, QueuePool) else 0

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def open_database(
    *,
    dsn: str,
    role: str | None = None,
    pool_size: int = 10,
    statement_timeout_seconds: int = 60,
    waiting: Waiting | None = None,
    event_store: object | None = None,
    private_addresses: bool = False,
) -> Database:
    """A pool on `dsn` (libpq form, a unix socket in `host=`), its sessions acting as `role`.

    `event_store` is where events lie outside PostgreSQL: every connection is told of it.
    """
    patience = waiting or Waiting()
    server_settings = {
        "application_name": "usance",
        "timezone": "UTC",
        "statement_timeout": f"{statement_timeout_seconds}s",
        "lock_timeout": f"{patience.lock_seconds}s",
        "idle_in_transaction_session_timeout": "120s",
        "jit": "off",
    }
    if role is not None:
        server_settings["role"] = role

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                dsn, server_settings=server_settings, timeout=patience.connect_seconds
            )
        except FileNotFoundError as error:
            # A socket that is not there is a server that is not there.
            raise ConnectionRefusedError("the database's socket is not there") from error

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # errors are logged, what people are called is not
        pool_timeout=patience.pool_seconds,
        json_serializer=_to_json,
        json_deserializer=msgspec.json.decode,
        execution_options={"event_store": event_store},
    )
    return Database(engine=engine, event_store=event_store, private_addresses=private_addresses)


async def be_patient(*, connection: AsyncConnection) -> None:
    """Let statements and the pauses between them take their time in this transaction."""
    await connection.execute(_PATIENT)


async def share_snapshot(*, connection: AsyncConnection) -> str:
    """A name by which other transactions see the facts of this one, for as long as it goes on."""
    return str((await connection.execute(_SHARE)).scalar_one())


def _same_snapshot(name: str) -> str:
    if _SNAPSHOT.match(name) is None:
        message = f"{name!r} is not the name of a snapshot"
        raise ValueError(message)
    return f"SET TRANSACTION SNAPSHOT '{name}'"


@asynccontextmanager
async def exclusive(*, database: Database, name: str, wait_seconds: int) -> AsyncIterator[bool]:
    """Hold the advisory lock `name` on a connection of its own; yields False if it stays taken.

    The lock ends with the connection, and that with the block: nothing of it returns to the pool,
    however the block ends. It keeps workers out of each other's way; what must never happen twice
    is guarded in the transactions themselves.
    """
    async with database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        try:
            await connection.execute(_LOCK_WAIT, {"wait": f"{wait_seconds}s"})
            yield await _locked(connection, name)
        finally:
            await connection.invalidate()


async def is_free(*, connection: AsyncConnection, name: str) -> bool:
    """Whether nobody holds the lock `name` of `exclusive`: then it is held by this transaction."""
    return bool((await connection.execute(_TRY_LOCK, {"key": name})).scalar_one())


async def _locked(connection: AsyncConnection, name: str) -> bool:
    try:
        await connection.execute(_LOCK, {"key": name})
    except DBAPIError as error:
        if isinstance(error.orig and error.orig.__cause__, asyncpg.LockNotAvailableError):
            return False
        raise
    return True


def joined(ids: Sequence[str]) -> str:
    """Ids as one parameter, for `LISTED`: of an array the driver looks at every element twice.

    Sorted, they are found in an index in one pass: sorting them costs the server ten times as much.
    """
    text = ",".join(ids)
    if text.count(",") != max(len(ids) - 1, 0):
        raise ValueError("an id has no comma")
    return text


async def driver(connection: AsyncConnection) -> Any:
    """The asyncpg connection under a SQLAlchemy one, inside the same transaction."""
    raw = await connection.get_raw_connection()
    return raw.driver_connection


@asynccontextmanager
async def loading(connection: AsyncConnection) -> AsyncIterator[Any]:
    """Act as the loader, which may COPY into tables with row-level security and cannot read.

    Only inside `transaction()`: the seller of every row is the one the transaction named. When
    the body fails the transaction is over, and its end resets the role.
    """
    raw = await driver(connection)
    await raw.execute(f"SET LOCAL ROLE {LOADER_ROLE}")
    yield raw
    await raw.execute("RESET ROLE")


async def begin(
    raw: Any,
    *,
    seller: int,
    load: bool = False,
) -> None:
    """Begin a transaction of `seller` in one round trip, for a caller that ends it itself.

    `load` acts as the loader from the start.
    """
    role = f"; SET LOCAL ROLE {LOADER_ROLE}" if load else ""
    await raw.execute(f"BEGIN; SELECT set_config('app.seller', '{int(seller)}', true){role}")


async def become_loader(raw: Any) -> None:
    """Act as the loader until the transaction ends."""
    await raw.execute(f"SET LOCAL ROLE {LOADER_ROLE}")


async def copy_rows(
    raw: Any,
    *,
    table: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
) -> None:
    """Binary COPY of `rows` into `table` through a connection got from `loading`."""
    await raw.copy_records_to_table(table, columns=list(columns), records=rows)


def quote_name(name: str) -> str:
    """A plain lower-case identifier for DDL; anything else is refused."""
    if _NAME.match(name) is None:
        message = f"{name!r} is not a plain identifier"
        raise ValueError(message)
    return name
