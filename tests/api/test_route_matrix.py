"""Every route × every wrong key, and × every object of somebody else."""

import json
import secrets
from typing import Any

import httpx
import pytest

from api.app import handlers_of
from api.auth import declared_scope
from plans.api_keys import Scope
from tests.api.routes import PUBLIC, ROWS, address, filled
from tests.api.world import World

pytestmark = pytest.mark.anyio
TABLES = """
    SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    AND c.relkind IN ('r', 'p') ORDER BY 1
"""


async def fingerprint(raw: Any) -> dict[str, str]:
    """A hash over all rows of each table."""
    return {
        row["relname"]: await raw.fetchval(
            f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) "
            f'FROM "{row["relname"]}" t'
        )
        for row in await raw.fetch(TABLES)
    }


async def ask(world: World, route: tuple[str, str], ids: dict[str, str], key: str) -> Any:
    method, path = route
    row = ROWS[route]
    fields = {} if row.body is None else {"json": filled(row.body, ids)}
    fields |= {"params": filled(row.query, ids)} if row.query else {}
    method = "POST" if method == "*" else method
    return await world.send(method, address(path, row, ids), key=key, **fields)


def guarded() -> list[tuple[str, str]]:
    return [route for route, row in ROWS.items() if row.scope is not PUBLIC]


async def test_every_route_has_a_row_and_every_row_a_route(world: World) -> None:
    found = {(method, path) for method, path, _ in handlers_of(world.app)}
    assert found == set(ROWS)


async def test_every_route_declares_the_scope_of_its_row(world: World) -> None:
    wrong = {
        (method, path): (declared, ROWS[method, path].scope)
        for method, path, handler in handlers_of(world.app)
        if (method, path) in ROWS
        and (declared := declared_scope(handler)) != ROWS[method, path].scope
    }
    assert not wrong


async def test_public_routes_answer_without_a_key(world: World) -> None:
    for route, row in ROWS.items():
        if row.scope is PUBLIC:
            answer = await ask(world, route, world.ours.ids, "")
            assert answer.status_code == row.status, route


async def test_the_right_key_succeeds(billed_world: World) -> None:
    ours = billed_world.ours
    wrong: dict[tuple[str, str], str] = {}
    for route in guarded():
        row = ROWS[route]
        answer = await ask(billed_world, route, ours.ids, ours.keys[str(row.scope)])
        if answer.status_code != row.status:
            wrong[route] = f"{answer.status_code} {answer.text[:300]}"
    assert not wrong


async def test_wrong_keys_are_refused_and_change_nothing(
    billed_world: World, superuser: Any
) -> None:
    world = billed_world
    unknown = f"usk_test_{secrets.token_urlsafe(32)}"
    ours = world.ours.keys
    before = await fingerprint(superuser)
    for route in guarded():
        for key, code in (
            ("", "missing_key"),
            ("garbage", "invalid_key"),
            (unknown, "invalid_key"),
            (ours["admin"].replace("usk_test_", "usk_live_"), "invalid_key"),
            (ours["admin"] + "A", "invalid_key"),
            (ours["revoked"], "revoked_key"),
            (ours["expired"], "expired_key"),
        ):
            answer = await ask(world, route, world.ours.ids, key)
            assert (answer.status_code, answer.json()["code"]) == (401, code), route
            assert answer.headers["www-authenticate"] == "Bearer"
        for scope in Scope:
            if scope.value not in (ROWS[route].scope, "admin"):
                answer = await ask(world, route, world.ours.ids, ours[scope.value])
                assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope"), route
    assert await fingerprint(superuser) == before


async def drop_policies(raw: Any) -> None:
    """Leave the statements' own filters as the only wall."""
    for row in await raw.fetch(TABLES):
        await raw.execute(f'ALTER TABLE "{row["relname"]}" NO FORCE ROW LEVEL SECURITY')
        await raw.execute(f'ALTER TABLE "{row["relname"]}" DISABLE ROW LEVEL SECURITY')


WALLS = pytest.mark.parametrize("walls", ["policies and filters", "filters alone"])


@WALLS
async def test_lists_hold_the_own_objects_alone(
    billed_world: World, superuser: Any, walls: str
) -> None:
    world = billed_world
    if walls == "filters alone":
        await drop_policies(superuser)
    ours = set(world.ours.ids.values()) | {world.ours.id}
    for route in guarded():
        if route[0] == "GET" and not ROWS[route].path:
            answer = await ask(world, route, world.theirs.ids, world.theirs.keys["admin"])
            assert answer.status_code == 200, route
            assert not [identity for identity in ours if identity in answer.text], route


@WALLS
async def test_objects_of_another_seller_are_not_there(
    billed_world: World, superuser: Any, walls: str
) -> None:
    world = billed_world
    if walls == "filters alone":
        await drop_policies(superuser)
    strangers = {
        name: f"{identity.partition('_')[0]}_{'0' * 26}"
        for name, identity in world.ours.ids.items()
    }
    before = await fingerprint(superuser)
    for route in guarded():
        row = ROWS[route]
        names = set(row.path.values()) | {
            name for name in strangers if "{" + name + "}" in json.dumps([row.query, row.body])
        }
        for name in names:
            answers: list[httpx.Response] = []
            for foreign in (world.ours.ids[name], strangers[name]):
                ids = world.theirs.ids | {name: foreign}
                answer = await ask(world, route, ids, world.theirs.keys["admin"])
                allowed = (404,) if name in row.path.values() else (404, 422)
                assert answer.status_code in allowed, (route, name)
                answers.append(answer)
            real, random = (
                answer.text.replace(foreign, "…")
                for answer, foreign in zip(
                    answers, (world.ours.ids[name], strangers[name]), strict=True
                )
            )
            assert real == random, (route, name)
    assert await fingerprint(superuser) == before
