"""`GET /v1/outbox`: pages that go on where they ended, for one seller, by type."""

import pytest

from tests.api.world import BY_HAND, World

pytestmark = pytest.mark.anyio


async def page(world: World, *, cursor=None, key=None, **query):
    query |= {} if cursor is None else {"cursor": cursor}
    return await world.send("GET", "/v1/outbox", key=key, params=query)


async def write(world: World, key=None):
    made = await world.send("POST", "/v1/invoices", key=key, json=BY_HAND)
    assert made.status_code == 201, made.text
    return made.json()["id"]


async def test_who_asks_again_gets_what_came_since(world: World) -> None:
    start = (await page(world)).json()["cursor"]
    first, second = await write(world), await write(world)
    seen, cursor = [], start
    while True:
        answer = (await page(world, cursor=cursor, limit=1)).json()
        seen += [event["object"] for event in answer["data"]]
        assert answer["cursor"] is not None
        cursor = answer["cursor"]
        if answer["next_cursor"] is None:
            break
        assert answer["next_cursor"] == cursor
    assert seen == [first, second]
    empty = (await page(world, cursor=cursor)).json()
    assert empty == {"data": [], "next_cursor": None, "cursor": cursor}
    await write(world, key=world.theirs.keys["admin"])
    third = await write(world)
    (event,) = (await page(world, cursor=cursor)).json()["data"]
    assert (event["object"], event["type"], event["data"]["customer"]) == (
        third,
        "invoice.issued",
        "acme",
    )
    one = (await page(world, cursor=start, type="invoice.issued,x")).json()["data"]
    assert [event["object"] for event in one] == [first, second, third]
    assert (await page(world, cursor=start, type="credit_note.issued")).json()["data"] == []


async def test_a_cursor_of_somebody_else_is_none(world: World) -> None:
    await write(world, key=world.theirs.keys["admin"])
    theirs = (await page(world, key=world.theirs.keys["admin"])).json()["cursor"]
    for cursor in (theirs, "nothing"):
        refused = await page(world, cursor=cursor)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_cursor")
