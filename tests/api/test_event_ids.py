"""An event of any id can be taken back and corrected."""

import pytest

from tests.api.world import World


@pytest.mark.parametrize("name", ["a/b", ".", "..", "a b?c#d%2F&e=f", "größe/ü", "void"])
async def test_it_is_corrected_and_taken_back(world: World, name: str) -> None:
    event = {"id": name, "type": "completion", "subject": "acme", "data": {"tokens": 5}}
    sent = await world.send("POST", "/v1/events", json=[event])
    assert sent.json()["accepted"] == 1
    amended = await world.send(
        "POST", "/v1/events/amend", params={"id": name}, json={"data": {"tokens": 7}}
    )
    assert amended.status_code == 200, amended.text
    assert (amended.json()["id"], amended.json()["data"]) == (name, {"tokens": 7})
    voided = await world.send("POST", "/v1/events/void", params={"id": name}, json={})
    assert (voided.status_code, voided.json()["status"]) == (200, "voided")
    listed = (await world.send("GET", "/v1/events")).json()["data"]
    assert {one["status"] for one in listed} == {"voided"}


async def test_an_id_must_be_named(world: World) -> None:
    answer = await world.send("POST", "/v1/events/void", json={})
    assert answer.status_code == 400
    assert [each["pointer"] for each in answer.json()["errors"]] == ["/id"]
