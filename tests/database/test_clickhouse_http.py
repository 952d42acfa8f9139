"""The event store speaks with a server as the settings name it: over HTTP."""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest

from api.runtime import event_store_finding
from engine.errors import BillingError
from engine.settings import Settings
from metering.clickhouse_store import ClickHouseEvents, open_clickhouse
from tests.clickhouse_engine import clickhouse, database
from tests.clickhouse_front import front
from tests.database.test_correct_event import amend, void
from tests.database.test_ingest import stored_ids
from tests.metering_world import event, world

__all__ = ["clickhouse", "database", "world"]


@pytest.fixture
def served(clickhouse: Any) -> Iterator[tuple[str, list[dict[str, str]]]]:
    name = f"usance_{uuid4().hex}"
    clickhouse.command(f"CREATE DATABASE {name}")
    with front(clickhouse) as (address, seen):
        yield f"{address}/{name}?compress=false", seen


@pytest.fixture
async def event_store(served: Any) -> AsyncIterator[ClickHouseEvents]:
    store = open_clickhouse(url=served[0])
    store.prepare()
    store.prepare()  # what is there stays
    yield store
    store.close()


async def test_usage_over_http(world, served):
    odd = "tab\tand\\ and 'quote'"
    meter = await world.meter("tokens", group_by=("region",))
    customer = await world.customer("acme")
    bodies = [event(f"e{at}", data={"tokens": at, "region": odd}) for at in range(300)]
    assert (await world.send(bodies)).accepted == 300
    again = await world.send([*bodies, event("e0", value=-1)])
    assert (again.accepted, again.duplicates, len(again.rejected)) == (0, 300, 1)
    await void(world, "e299")
    await amend(world, "e0", data={"tokens": "0.5", "region": odd})
    assert await world.total(meter, customer) == str(299 * 298 // 2) + ".5"
    assert sorted(await stored_ids(world))[:2] == ["e0", "e0"]
    told = served[1]
    inserts = [each for each in told if "insert_deduplication_token" in each]
    assert len(inserts) == 2
    assert {each["insert_quorum"] for each in inserts} == {"auto"}
    assert {(each["async_insert"], each["wait_end_of_query"]) for each in inserts} == {("0", "1")}
    reads = [each for each in told if "param_seller" in each]
    assert reads
    assert {each["select_sequential_consistency"] for each in reads} == {"1"}


def test_doctor_says_where_events_are(served, tmp_path):
    finding = event_store_finding(settings=Settings(home=tmp_path, clickhouse_url=served[0]))
    assert finding.level == "ok"
    assert finding.detail.startswith("ClickHouse 2")
    nowhere = "http://u:hunter2@127.0.0.1:9/usance"
    finding = event_store_finding(settings=Settings(home=tmp_path, clickhouse_url=nowhere))
    assert finding.level == "fail"
    assert "hunter2" not in finding.detail
    here = event_store_finding(settings=Settings(home=tmp_path))
    assert (here.level, here.detail) == ("ok", "in the database")


def test_a_server_that_is_not_there_is_told_by_its_code():
    with pytest.raises(BillingError) as caught:
        open_clickhouse(url="http://127.0.0.1:9/usance")
    assert caught.value.code == "event_store_unavailable"
