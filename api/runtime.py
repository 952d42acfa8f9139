"""From settings to a database that is ready: what every command and the server stand on.

Settings name a server or none; without one the embedded server is started or joined. An embedded
database is brought to the current schema by itself, one of the caller's is only looked at.
"""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Final

import msgspec

from engine.db import APP_ROLE, AUDITOR_ROLE, PATIENT, Database, Waiting, open_database
from engine.errors import BillingError, ErrorKind
from engine.migrate import adopt_database, ensure_database, ensure_roles, head_revision, upgrade
from engine.postgres import ExternalDatabase, RunningServer, resolve, role_dsn, role_password
from engine.postgres_doctor import Finding
from engine.scratch import current_revision, database_dsn
from engine.settings import SettingError, Settings, without_password
from metering.event_stores import EventStore

DATABASE_NAME: Final = "usance"


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers and the addresses of Usance's database on it."""

    settings: Settings
    server: RunningServer | ExternalDatabase
    admin_dsn: str
    """May create roles and databases; only migrations and scratch databases use it."""
    app_dsn: str
    auditor_dsn: str
    event_store: EventStore | None = None
    """Where events lie outside the database."""

    def open(self) -> Database:
        """A pool that works as the application's role, under row-level security."""
        return self._open(dsn=self.app_dsn, role=APP_ROLE, event_store=self.event_store)

    def open_to_serve(self) -> Database:
        """The same for a process that answers others: it waits no longer than is of use to them."""
        seconds = self.settings.wait_seconds
        waiting = Waiting()
        if seconds:
            waiting = Waiting(connect_seconds=seconds, pool_seconds=seconds, lock_seconds=seconds)
        return self._open(
            dsn=self.app_dsn, role=APP_ROLE, event_store=self.event_store, waiting=waiting
        )

    def open_for_audit(self) -> Database:
        """A pool that may read every seller and write nothing."""
        return self._open(dsn=self.auditor_dsn, role=AUDITOR_ROLE, event_store=self.event_store)

    def open_scratch(self, *, dsn: str) -> Database:
        """A pool on another database of the same server, in the application's role.

        It keeps its events itself: its sellers have the numbers of others elsewhere.
        """
        return self._open(dsn=dsn, role=APP_ROLE, event_store=None)

    def _open(
        self, *, dsn: str, role: str, event_store: EventStore | None, waiting: Waiting = PATIENT
    ) -> Database:
        return open_database(
            dsn=dsn,
            role=role,
            pool_size=self.settings.pool_max_size,
            statement_timeout_seconds=self.settings.statement_timeout_seconds,
            waiting=waiting,
            event_store=event_store,
            private_addresses=self.settings.private_addresses,
        )


@contextlib.contextmanager
def runtime(*, settings: Settings) -> Iterator[Runtime]:
    """Start or join the server for the length of the block; nothing is migrated yet.

    From the main thread, outside an event loop. Raises PostgresError when there is no server, and
    `event_store_unavailable` when a ClickHouse that the settings name does not answer.
    """
    with resolve(settings=settings) as server, _event_store(settings=settings) as events:
        if isinstance(server, ExternalDatabase):
            dsns = dict.fromkeys((APP_ROLE, AUDITOR_ROLE), server.admin_dsn)
            admin = server.admin_dsn
        else:
            admin = database_dsn(dsn=server.admin_dsn, name=DATABASE_NAME)
            dsns = {
                role: role_dsn(
                    admin_dsn=server.admin_dsn,
                    user=role,
                    password=role_password(home=settings.home, role=role),
                    database=DATABASE_NAME,
                )
                for role in (APP_ROLE, AUDITOR_ROLE)
            }
        yield Runtime(
            settings=settings,
            server=server,
            admin_dsn=admin,
            app_dsn=dsns[APP_ROLE],
            auditor_dsn=dsns[AUDITOR_ROLE],
            event_store=events,
        )


@contextlib.contextmanager
def _event_store(*, settings: Settings, prepare: bool = True) -> Iterator[EventStore | None]:
    if settings.clickhouse_url is None:
        yield None
        return
    try:
        clickhouse = importlib.import_module("metering.clickhouse_store")
    except ModuleNotFoundError as error:
        raise SettingError(
            variable="USANCE_CLICKHOUSE_URL",
            detail=f"needs what `pip install usance[clickhouse]` brings: {error}",
        ) from error
    store = clickhouse.open_clickhouse(url=settings.clickhouse_url)
    try:
        if prepare:
            store.prepare()
        yield store
    finally:
        store.close()


def event_store_finding(*, settings: Settings) -> Finding:
    """Where events lie, and whether what the settings name there answers."""
    if settings.clickhouse_url is None:
        return Finding(name="events", level="ok", detail="in the database")
    shown = without_password(dsn=settings.clickhouse_url)
    try:
        with _event_store(settings=settings, prepare=False) as store:
            assert store is not None
            version = store.server_version()
    except BillingError as error:
        advice = "start it, or correct USANCE_CLICKHOUSE_URL"
        return Finding(name="events", level="fail", detail=error.detail, advice=advice)
    return Finding(name="events", level="ok", detail=f"ClickHouse {version}, {shown}")


async def make_ready(*, started: Runtime) -> None:
    """Bring an embedded database to the current schema; check that another one is there.

    Raises `database_behind` when the caller's own database needs `usance migrate` first.
    """
    if isinstance(started.server, ExternalDatabase):
        revision, head = await current_revision(dsn=started.admin_dsn), head_revision()
        if revision != head:
            raise BillingError(
                "database_behind",
                f"The database is at schema {revision or 'none'}, this program needs {head}: "
                "run `usance migrate` first.",
                kind=ErrorKind.UNAVAILABLE,
            )
        return
    await bring_up_to_date(started=started)


async def bring_up_to_date(*, started: Runtime) -> str | None:
    """Create roles, database and tables where they are missing; give the revision reached."""
    server, passwords = started.server, dict[str, str]()
    if isinstance(server, RunningServer):
        for role in (APP_ROLE, AUDITOR_ROLE):
            passwords[role] = role_password(home=started.settings.home, role=role)
        await ensure_roles(dsn=server.admin_dsn, passwords=passwords)
        await ensure_database(dsn=server.admin_dsn, name=DATABASE_NAME)
    else:
        await ensure_roles(dsn=started.admin_dsn, passwords=passwords)
        await adopt_database(dsn=started.admin_dsn)
    return await upgrade(dsn=started.admin_dsn)
