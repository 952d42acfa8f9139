"""A POST with an Idempotency-Key happens once, whoever repeats it and whenever."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from api.idempotency_store import forget_answers
from tests.api.world import World

pytestmark = pytest.mark.anyio
NEW = {"key": "new", "name": "New"}


def under(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


async def test_the_same_request_gets_the_same_answer(world: World) -> None:
    first = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    again = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert first.headers["content-type"] == again.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


async def test_another_body_or_path_under_the_same_key_is_refused(world: World) -> None:
    await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    other = {"key": "new", "name": "Other"}
    for path, body in (("/v1/customers", other), ("/v1/meters", NEW)):
        answer = await world.send("POST", path, json=body, headers=under("a"))
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_mismatch")


async def test_keys_of_two_sellers_do_not_meet(world: World) -> None:
    ours = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    theirs = await world.send(
        "POST", "/v1/customers", json=NEW, headers=under("a"), key=world.theirs.keys["admin"]
    )
    assert ours.status_code == theirs.status_code == 201
    assert ours.json()["id"] != theirs.json()["id"]


async def test_a_refused_request_keeps_nothing_and_may_be_repaired(world: World) -> None:
    bad = await world.send("POST", "/v1/customers", json={"key": "new"}, headers=under("a"))
    assert bad.status_code == 422
    taken = await world.send(
        "POST", "/v1/customers", json={"key": "acme", "name": "A"}, headers=under("a")
    )
    assert (taken.status_code, taken.json()["code"]) == (409, "key_taken")
    good = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    assert good.status_code == 201


async def test_of_many_at_once_one_is_executed(world: World, superuser: Any) -> None:
    answers = await asyncio.gather(
        *(world.send("POST", "/v1/customers", json=NEW, headers=under("a")) for _ in range(8))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert await superuser.fetchval("SELECT count(*) FROM customers WHERE key = 'new'") == 1


async def test_without_a_key_the_second_one_finds_the_name_taken(world: World) -> None:
    assert (await world.send("POST", "/v1/customers", json=NEW)).status_code == 201
    again = await world.send("POST", "/v1/customers", json=NEW)
    assert (again.status_code, again.json()["code"]) == (409, "key_taken")


async def test_work_whose_answer_cannot_be_kept_did_not_happen(
    world: World, superuser: Any
) -> None:
    await superuser.execute("ALTER TABLE idempotency_keys ADD CHECK (key <> 'cursed')")
    answer = await world.send("POST", "/v1/customers", json=NEW, headers=under("cursed"))
    assert answer.status_code == 500
    assert (await world.send("GET", "/v1/customers/new")).status_code == 404


async def test_a_key_is_forgotten_after_thirty_days(world: World) -> None:
    await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    world.clock.move(timedelta(days=30) - timedelta(seconds=1))
    again = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    assert again.status_code == 201
    world.clock.move(timedelta(seconds=1))
    fresh = await world.send("POST", "/v1/customers", json=NEW, headers=under("a"))
    assert (fresh.status_code, fresh.json()["code"]) == (409, "key_taken")
    async with world.database.transaction(seller=world.ours.number) as connection:
        assert await forget_answers(connection=connection, now=world.clock.now) == 1
        assert await forget_answers(connection=connection, now=world.clock.now) == 0


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "naïve"])
async def test_keys_that_cannot_stand(world: World, key: str) -> None:
    answer = await world.send(
        "POST", "/v1/customers", json=NEW, headers={"idempotency-key": key.encode("latin-1")}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_idempotency_key")
