"""Scenarios of usage, their events in ClickHouse: the same books, byte for byte."""

import asyncio
import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from api.app import create_app
from api.check_scenarios import Result, run_scenario
from api.in_process import Client, lifespan
from api.scenario_file import read_scenario
from engine.db import PATIENT, open_database
from metering.event_stores import EventStore
from metering.ingest import PATIENT_SECONDS
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from tests.clickhouse_engine import clickhouse, fresh_store
from tests.fixtures_database import Cluster, clone_of

__all__ = ["clickhouse"]

HERE = Path(__file__).parent
WALL = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROOMS = ("corrections", "metering", "usage")
PATHS = [
    path
    for room in ROOMS
    for path in sorted((HERE / room).rglob("*.scenario.yaml"))
    if any(step.verb == "usage" for step in read_scenario(path=path).steps)
]
# All are played before the first is told.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Where events lie and which keys open the door is not what must be the same.
APART = ("event_", "backfill_batches", "api_keys", "alembic_version")

_ROWS = "SELECT CAST(t AS text) FROM {} t ORDER BY 1"
Books = Mapping[str, Sequence[str]]


async def play(*, paths: Sequence[Path], dsn: str, store: EventStore | None) -> dict[str, Result]:
    """One scenario after the other, so that whatever is numbered is numbered alike."""
    database = open_database(dsn=dsn, role="usance_app", event_store=store, waiting=PATIENT)
    try:
        application = create_app(
            database=database, clock=lambda: WALL, commit_seconds=PATIENT_SECONDS
        )
        results: dict[str, Result] = {}
        async with lifespan(application=application):

            async def make_seller(clock_at: datetime) -> Client:
                draft = SellerDraft(legal_name="Scenario", country="US", clock_at=clock_at)
                made = await create_seller(database=database, draft=draft, now=WALL)
                return Client(application=application, key=made.secret)

            for path in paths:
                scenario = read_scenario(path=path)
                results[path.name] = await run_scenario(scenario=scenario, make_seller=make_seller)
        return results
    finally:
        await database.close()


async def books(dsn: str) -> Books:
    """All rows of all tables as the server writes them."""
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        # How long a run worked goes by the clock on the wall.
        await raw.execute("UPDATE billing_runs SET worked_micros = 0, progress_at = NULL")
        names = await raw.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
        )
        return {
            name: [row[0] for row in await raw.fetch(_ROWS.format(name))]
            for (name,) in names
            if not name.startswith(APART)
        }
    finally:
        await raw.close()


async def count(dsn: str, statement: str) -> int:
    raw = await asyncpg.connect(dsn, timeout=60)
    try:
        return await raw.fetchval(statement)
    finally:
        await raw.close()


def drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random bits of fresh ids come in the same order in every run."""
    numbers, system = itertools.count(1), os.urandom
    monkeypatch.setattr(
        os, "urandom", lambda size: next(numbers).to_bytes(10) if size == 10 else system(size)
    )


@pytest.fixture(scope="module")
def both(cluster: Cluster, clickhouse: Any) -> tuple[dict[str, Result], Books, Books]:
    """(results on ClickHouse, the books there, the books with all in PostgreSQL)."""
    with ExitStack() as stack:
        here, there = (stack.enter_context(clone_of(cluster)) for _ in range(2))
        for dsn, store in ((here, None), (there, fresh_store(clickhouse))):
            with pytest.MonkeyPatch.context() as monkeypatch:
                drawn_alike(monkeypatch)
                results = asyncio.run(play(paths=PATHS, dsn=dsn, store=store))
        where = "SELECT count(*) FROM event_batches WHERE payload IS NULL"
        assert asyncio.run(count(there, where)) > len(PATHS) // 2
        assert asyncio.run(count(there, "SELECT count(*) FROM event_keys")) == 0
        assert asyncio.run(count(here, where)) == 0
        return results, asyncio.run(books(there)), asyncio.run(books(here))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.relative_to(HERE).as_posix())
def test_scenario_on_clickhouse(path: Path, both: Any) -> None:
    result = both[0][path.name]
    told = "\n".join([*result.reasons, *map(str, result.differences)])
    assert result.outcome == "passed", told


def test_the_books_are_the_same_byte_for_byte(both: Any) -> None:
    _, there, here = both
    assert len(here["invoices"]) > len(PATHS) // 2
    assert len(here["postings"]) > len(here["invoices"])
    assert there.keys() == here.keys()
    for name, rows in here.items():
        assert there[name] == rows, name
