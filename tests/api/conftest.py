"""The application on a database of the test's own."""

from collections.abc import AsyncIterator

import pytest

from engine.db import Database
from tests.api.world import World, bill, open_world


@pytest.fixture
async def world(database: Database) -> AsyncIterator[World]:
    """Two sellers with the same catalogue, and a client."""
    async with open_world(database) as opened:
        yield opened


@pytest.fixture
async def billed_world(world: World) -> World:
    """The same, both sellers with documents of every kind."""
    await bill(world, world.ours)
    await bill(world, world.theirs)
    return world
