"""Sessions that try to break the books: each logs in as its role and ends without a trace.

Every test of this folder that takes `books` runs on the embedded server and on an installed one.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from engine.migrate import ensure_roles
from engine.postgres_address import role_dsn
from tests.books import write_books
from tests.fixtures_database import Cluster, clone_of

PASSWORDS: Final = {"usance_app": "app-test", "usance_auditor": "auditor-test"}
SERVERS: Final = ("embedded", "installed")


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, clusters: Callable[[str], Cluster]) -> Cluster:
    """Each server of our own in turn; the installed one is skipped where there is none."""
    return clusters(request.param)


@pytest.fixture(scope="module")
async def books(server: Cluster, books_url: str) -> str:
    """The superuser's address of a database with the books of sellers 1 and 2."""
    await ensure_roles(dsn=server.admin_dsn, passwords=PASSWORDS)
    raw = await asyncpg.connect(books_url, timeout=60)
    try:
        assert await write_books(raw, id="sel_a") == 1
        assert await write_books(raw, id="sel_b") == 2
    finally:
        await raw.close()
    return books_url


@pytest.fixture(scope="module")
def books_url(server: Cluster) -> Iterator[str]:
    with clone_of(server) as dsn:
        yield dsn


@asynccontextmanager
async def logged_in(dsn: str, *, role: str | None, seller: int | None) -> AsyncIterator[Any]:
    """A session of `role` (None: the superuser) in one transaction that is rolled back."""
    if role is not None:
        dsn = role_dsn(admin_dsn=dsn, user=role, password=PASSWORDS[role])
    raw = await asyncpg.connect(dsn, timeout=60)
    transaction = raw.transaction()
    try:
        await transaction.start()
        named = "" if seller is None else str(seller)
        await raw.execute("SELECT set_config('app.seller', $1, true)", named)
        yield raw
    finally:
        await raw.close(timeout=5)


@pytest.fixture
async def app(books: str) -> AsyncIterator[Any]:
    """The application, acting for seller 1."""
    async with logged_in(books, role="usance_app", seller=1) as raw:
        yield raw


@pytest.fixture
async def nobody(books: str) -> AsyncIterator[Any]:
    """The application before it named a seller."""
    async with logged_in(books, role="usance_app", seller=None) as raw:
        yield raw


@pytest.fixture
async def auditor(books: str) -> AsyncIterator[Any]:
    async with logged_in(books, role="usance_auditor", seller=None) as raw:
        yield raw


@pytest.fixture
async def root(books: str) -> AsyncIterator[Any]:
    """The superuser, whom only triggers and constraints bind."""
    async with logged_in(books, role=None, seller=1) as raw:
        yield raw
