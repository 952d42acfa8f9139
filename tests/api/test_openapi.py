"""The description tells the truth: complete, served without other hosts, and fuzzed against."""

import asyncio
import concurrent.futures
import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app, handlers_of
from api.auth import declared_scope
from engine.db import PATIENT, open_database
from tests.api.routes import PUBLIC, ROWS, address, filled
from tests.api.world import World, bill, open_world
from tests.processes import SECONDS

pytestmark = pytest.mark.slow
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
EXAMPLES = 25


@pytest.mark.anyio
async def test_every_guarded_operation_is_described_with_its_problems(world: World) -> None:
    document = (await world.send("GET", "/openapi.json", key="")).json()
    assert document["openapi"].startswith("3.1")
    ids: list[str] = []
    for method, path, handler in handlers_of(world.app):
        if declared_scope(handler) is None or method == "*":
            continue
        operation = document["paths"][path][method.lower()]
        ids.append(operation["operationId"])
        assert operation["summary"], path
        assert {"401", "403", "500", "503"} <= set(operation["responses"]), path
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == ["application/problem+json"]
        named = {one["name"] for one in operation.get("parameters", [])}
        assert set(re.findall(r"{(\w+)}", path)) <= named
        assert ("Idempotency-Key" in named) == (
            method == "POST" and handler.opt.get("idempotent", True)
        )
    assert len(ids) == len(set(ids))


@pytest.mark.anyio
async def test_the_page_needs_nobody_else(world: World) -> None:
    page = await world.send("GET", "/docs", key="")
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert not re.search(r"(src|href)=\"(https?:)?//", page.text)
    for method, path, handler in handlers_of(world.app):
        if declared_scope(handler) is not None and method != "*":
            assert path in page.text


class Background:
    """The application in an event loop of its own, asked from any thread."""

    def __init__(self, *, dsn: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stop = asyncio.Event()
        ready: concurrent.futures.Future[World] = concurrent.futures.Future()
        self._life = asyncio.run_coroutine_threadsafe(self._live(dsn, ready), self._loop)
        concurrent.futures.wait((ready, self._life), return_when="FIRST_COMPLETED", timeout=SECONDS)
        self.world = ready.result(timeout=0) if ready.done() else self._life.result(timeout=0)

    async def _live(self, dsn: str, ready: "concurrent.futures.Future[World]") -> Any:
        opened = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
        async with open_world(opened) as world:
            await bill(world, world.ours)
            await bill(world, world.theirs)
            ready.set_result(world)
            await self._stop.wait()
        await opened.close()

    def _wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result(timeout=SECONDS)

    def ask(self, **fields: Any) -> httpx.Response:
        return self._wait(self.world.client.request(**fields))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._life.result(timeout=SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=SECONDS)
        self._loop.close()


@pytest.fixture(scope="module")
def background(module_database_url: str) -> Iterator[Background]:
    opened = Background(dsn=module_database_url)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def schema(background: Background) -> Any:
    document = background.ask(method="GET", url="/openapi.json").json()
    return schemathesis.openapi.from_dict(document)


def operations() -> list[tuple[str, str]]:
    """(method, path) of every described route; no database is asked for this."""
    idle = open_database(dsn="postgresql://nobody@/none", role=None)
    app = create_app(database=idle, clock=lambda: pytest.fail("nobody asks for the time"))
    return sorted(
        (method, path)
        for method, path, handler in handlers_of(app)
        if declared_scope(handler) is not None and method != "*"
    )


def test_what_succeeds_is_answered_as_described(background: Background, schema: Any) -> None:
    theirs = background.world.theirs
    for (method, path), row in ROWS.items():
        if row.scope is PUBLIC:
            continue
        answer = background.ask(
            method=method,
            url=address(path, row, theirs.ids),
            headers={"authorization": f"Bearer {theirs.keys['admin']}"},
            json=filled(row.body, theirs.ids),
            params=filled(row.query, theirs.ids),
        )
        assert answer.status_code == row.status, (method, path, answer.text)
        schema[path][method].validate_response(answer)


@pytest.mark.parametrize("operation", operations(), ids=lambda one: f"{one[0]} {one[1]}")
def test_whatever_is_sent_is_answered_as_described(
    background: Background, schema: Any, operation: tuple[str, str]
) -> None:
    method, path = operation
    strategy = schema[path][method].as_strategy()
    key, ids = background.world.ours.keys["admin"], background.world.ours.ids
    row = ROWS[operation]
    names, query = row.path, filled(row.query, ids)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        checks = list(CHECKS)
        if (names or row.fixed or query) and seen.total() % 2:
            # Every other time it is about an object that is there.
            for parameter, name in names.items():
                case.path_parameters[parameter] = ids[name]
            case.path_parameters.update(row.fixed)
            case.query = {**(case.query or {}), **(query or {})}
            checks.remove(negative_data_rejection)
        sent = case.as_transport_kwargs(base_url="http://usance")
        headers = httpx.Headers(dict(sent.pop("headers") or {}))
        headers["authorization"] = f"Bearer {key}"
        body = {
            "json": sent.get("json"),
            "content": sent.get("data"),
        }
        answer = background.ask(
            method=sent["method"],
            url=sent["url"],
            params=sent.get("params"),
            headers=headers,
            **{name: value for name, value in body.items() if value is not None},
        )
        seen[answer.status_code] += 1
        case.validate_response(answer, checks=checks)

    seen: Counter[int] = Counter()
    run()
    assert not seen[401]
    assert seen[200] or method != "GET"
