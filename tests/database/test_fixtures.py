"""The fixtures hand every test a database of its own."""

import pytest
from sqlalchemy import text


@pytest.mark.parametrize("turn", [1, 2])
async def test_a_clone_begins_empty_and_is_the_tests_own(turn, database, make_seller):
    assert await make_seller() == 1
    async with database.transaction(seller=1) as connection:
        found = await connection.execute(text("SELECT legal_name FROM sellers"))
        assert found.scalars().all() == ["Nordwind GmbH"]


@pytest.mark.parametrize("cluster", ["embedded", "installed"], indirect=True, scope="session")
async def test_each_server_carries_the_schema(cluster, database, make_seller):
    assert await make_seller() == 1


async def test_the_pool_acts_as_the_application(database):
    async with database.transaction(seller=None) as connection:
        role = await connection.execute(text("SELECT current_user, session_user"))
        assert role.one() == ("usance_app", "postgres")
