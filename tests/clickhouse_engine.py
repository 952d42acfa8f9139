"""The real ClickHouse engine in this process, by the same client the product speaks through."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import clickhouse_connect
import pytest

from engine.db import PATIENT, Database, open_database
from metering.clickhouse_store import ClickHouseEvents


@pytest.fixture(scope="session")
def clickhouse() -> Iterator[Any]:
    """One engine a process: it keeps what it holds in memory until the process ends."""
    client = clickhouse_connect.get_client(interface="chdb", path=":memory:")
    yield client
    client.close()


def fresh_store(client: Any) -> ClickHouseEvents:
    """A store in a database of its own."""
    database = f"usance_{uuid4().hex}"
    client.command(f"CREATE DATABASE {database}")
    store = ClickHouseEvents(client=client, database=database)
    store.prepare()
    return store


@pytest.fixture
def event_store(clickhouse: Any) -> ClickHouseEvents:
    return fresh_store(clickhouse)


@pytest.fixture
async def database(database_url: str, event_store: ClickHouseEvents) -> AsyncIterator[Database]:
    """What the fixture of this name is elsewhere, with its events in ClickHouse."""
    opened = open_database(
        dsn=database_url, role="usance_app", event_store=event_store, waiting=PATIENT
    )
    try:
        yield opened
    finally:
        await opened.close()
