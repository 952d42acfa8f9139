"""Places for long requests: what a seller leaves to others, and that all are given back."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from api.places import Places
from api.unit_of_work import UnitOfWork
from tests.api.world import World

pytestmark = pytest.mark.anyio

ENTRANCES = [(Places.for_work, [1, 1, 2, 3]), (Places.for_a_key, [1, 1, 1, 2, 3])]


async def settle() -> None:
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("enter", "wanted"), ENTRANCES)
async def test_a_seller_leaves_a_place_to_others(
    enter: Callable[..., contextlib.AbstractAsyncContextManager[None]], wanted: list[int]
) -> None:
    places = Places(connections=12)
    entered: list[int] = []

    async def work(seller: int) -> None:
        async with enter(places, seller=seller):
            entered.append(seller)
            await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(work(seller)) for seller in (1, 1, 1, 1, 1, 2, 3)]
    await settle()
    assert entered == wanted[:-1]
    tasks[0].cancel()
    await settle()
    assert entered == wanted
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    async with enter(places, seller=1), enter(places, seller=1):
        pass


async def test_a_request_whose_connection_has_gone_gives_its_place_back(
    world: World, superuser: Any
) -> None:
    places = Places(connections=1)
    for _ in range(3):
        unit = UnitOfWork(database=world.database, places=places)
        await unit.find_place(seller=1)
        connection = await unit.connection(seller=world.ours.number)
        backend = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        await superuser.execute("SELECT pg_terminate_backend($1, 60000)", backend)
        with contextlib.suppress(DBAPIError):
            await unit.abandon()
    async with places.for_work(seller=1):
        pass
