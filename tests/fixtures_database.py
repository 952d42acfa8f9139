"""Real PostgreSQL for tests: a throw-away server, one migrated template, a fresh clone per test.

The server is the embedded one, started by the product's own launcher. `USANCE_TEST_ADMIN_URL` (a
superuser's address) runs the same tests on a server that is already there. Nothing outlives the
session but, on such a server, the roles and the template, which is named by its migrations.
"""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from importlib import resources
from itertools import count
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

from engine import migrate
from engine.db import PATIENT, Database, open_database
from engine.postgres import start_or_join
from engine.postgres_binaries import OLDEST_MAJOR
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from tests.processes import SECONDS

TEMPLATE_LOCK: Final = 7_305_120
SMALL: Final = {"shared_buffers": "64MB", "max_wal_size": "512MB", "maintenance_work_mem": "32MB"}
MADE_AT: Final = datetime(2026, 1, 1, tzinfo=UTC)
INSTALLED: Final = "usr/lib/postgresql/*/bin"


class Cluster:
    """A server and its migrated template database."""

    def __init__(self, *, admin_dsn: str, template: str) -> None:
        self.admin_dsn = admin_dsn
        self.template = template
        self._numbers = count(1)

    def dsn(self, database: str) -> str:
        """The superuser's address of one database."""
        return urlunsplit(urlsplit(self.admin_dsn)._replace(path=f"/{quote(database, safe='')}"))

    async def make_clone(self) -> str:
        """Create a database with today's schema and no rows; give its name."""
        name = f"usance_test_{os.getpid()}_{next(self._numbers)}"
        await self.run(f"CREATE DATABASE {name} TEMPLATE {self.template} OWNER usance_owner")
        return name

    async def drop(self, name: str) -> None:
        """Drop a database, whoever is still connected to it."""
        await self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def run(self, statement: str) -> None:
        """One statement of the superuser in the maintenance database.

        Where that needs a database which nobody uses, it waits until that is so.
        """
        raw = await asyncpg.connect(self.admin_dsn, timeout=SECONDS)
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    with contextlib.suppress(asyncpg.ObjectInUseError):
                        await raw.execute(statement)
                        return
        finally:
            await raw.close()


def template_name() -> str:
    """A name that changes with any file of the migrations."""
    folder = resources.files("engine").joinpath("migrations")
    digest = hashlib.sha256()
    for part in ("sql", "versions"):
        for file in sorted(folder.joinpath(part).iterdir(), key=lambda one: one.name):
            if file.is_file():
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return f"usance_template_{digest.hexdigest()[:12]}"


async def make_template(*, admin_dsn: str) -> Cluster:
    """Roles and the migrated template, made by whichever process comes first."""
    cluster = Cluster(admin_dsn=admin_dsn, template=template_name())
    raw = await asyncpg.connect(admin_dsn, timeout=60)
    try:
        await raw.execute("SELECT pg_advisory_lock($1)", TEMPLATE_LOCK)
        await migrate.ensure_roles(dsn=admin_dsn, passwords={})
        found = await raw.fetchval(
            "SELECT datistemplate FROM pg_database WHERE datname = $1", cluster.template
        )
        if not found:
            # A run that died half-way left a database that is no template yet.
            await cluster.drop(cluster.template)
            await migrate.ensure_database(dsn=admin_dsn, name=cluster.template)
            await migrate.upgrade(dsn=cluster.dsn(cluster.template))
            await raw.execute(f"ALTER DATABASE {cluster.template} IS_TEMPLATE true")
    finally:
        await raw.close()
    return cluster


def installed_bin_dir() -> Path | None:
    """The newest server installed on this machine that is new enough."""
    majors = {
        int(path.parent.name): path
        for path in Path("/").glob(INSTALLED)
        if path.parent.name.isdigit() and (path / "postgres").exists()
    }
    newest = max(majors, default=0)
    return majors[newest] if newest >= OLDEST_MAJOR else None


@contextlib.contextmanager
def throw_away_server(*, bin_dir: Path | None) -> Iterator[str]:
    """The superuser's address of a server of our own, gone with its files at the end."""
    home = Path(tempfile.mkdtemp(prefix="usance-test-"))
    home.chmod(0o711)  # run as root, the server runs as nobody and walks through here
    try:
        with start_or_join(home=home, bin_dir=bin_dir, throw_away=True, overrides=SMALL) as running:
            yield running.admin_dsn
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return ("asyncio", {"use_uvloop": sys.platform != "win32"})


@pytest.fixture(scope="session")
def clusters() -> Iterator[Callable[[str], Cluster]]:
    """Give a cluster by name, each started when first asked for: default, embedded, installed."""
    started: dict[str, Cluster] = {}
    with contextlib.ExitStack() as stack:

        def start(name: str) -> Cluster:
            given = os.environ.get("USANCE_TEST_ADMIN_URL")
            if name == "default" and given is None:
                return find("embedded")
            if name == "default" and given is not None:
                return asyncio.run(make_template(admin_dsn=given))
            bin_dir = None
            if name == "installed":
                bin_dir = installed_bin_dir()
                if bin_dir is None:
                    pytest.skip(f"no PostgreSQL >= {OLDEST_MAJOR} is installed under {INSTALLED}")
            admin_dsn = stack.enter_context(throw_away_server(bin_dir=bin_dir))
            return asyncio.run(make_template(admin_dsn=admin_dsn))

        def find(name: str) -> Cluster:
            if name not in started:
                started[name] = start(name)
            return started[name]

        yield find


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Cluster:
    """The server of the test; parametrise it indirectly to run on `embedded` and `installed`."""
    return clusters(getattr(request, "param", "default"))


@contextlib.contextmanager
def clone_of(cluster: Cluster) -> Iterator[str]:
    """The superuser's address of a fresh database, dropped at the end. Not for a running loop."""
    name = asyncio.run(cluster.make_clone())
    try:
        yield cluster.dsn(name)
    finally:
        asyncio.run(cluster.drop(name))


@pytest.fixture
def database_url(cluster: Cluster) -> Iterator[str]:
    """The superuser's address of a database of the test's own: today's schema, no rows."""
    with clone_of(cluster) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def module_database_url(cluster: Cluster) -> Iterator[str]:
    """The same, shared by the tests of one module."""
    with clone_of(cluster) as dsn:
        yield dsn


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A pool on the test's own database in the application's role."""
    opened = open_database(dsn=database_url, role="usance_app", waiting=PATIENT)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def superuser(database_url: str) -> AsyncIterator[Any]:
    """An asyncpg connection that no guard by privilege or row-level security binds."""
    raw = await asyncpg.connect(database_url, timeout=60)
    try:
        yield raw
    finally:
        await raw.close()


SELLER: Final = {"legal_name": "Nordwind GmbH", "mode": "live", "currency": "EUR"}
MakeSeller = Callable[..., Awaitable[int]]


@pytest.fixture
def make_seller(database: Database) -> MakeSeller:
    """Set up a seller with `SELLER`'s fields, replaced by what is given; give its number."""

    async def make(**fields: object) -> int:
        draft = msgspec.convert(SELLER | fields, SellerDraft)
        made = await create_seller(database=database, draft=draft, now=MADE_AT)
        return made.seller

    return make
