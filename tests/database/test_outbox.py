"""The outbox is read in an order that stays: whatever commits late comes behind the cursor."""

import asyncio
import random

from sqlalchemy import text

from invoicing.entry_store import tell
from invoicing.outbox_store import list_outbox
from tests.billing_world import at
from tests.processes import SECONDS

NOW = at("2026-01-10")


def events(*names):
    return [(f"evt_{name}", "thing.happened", f"obj_{name}", 1) for name in names]


async def read(database, seller, after=0, **given):
    async with database.transaction(seller=seller) as connection:
        found = await list_outbox(
            connection=connection, limit=1000, after=after, types=None, **given
        )
        if not found:
            return [], after
        rows = await connection.execute(
            text("SELECT position FROM outbox WHERE id = :id"), {"id": found[-1].id}
        )
        return [each.id for each in found], rows.scalar_one()


async def test_who_tells_later_waits_for_who_told_before_and_has_not_committed(
    database, make_seller
):
    seller, other = await make_seller(), await make_seller()
    first_told, may_commit = asyncio.Event(), asyncio.Event()

    async def slow():
        async with database.transaction(seller=seller) as connection:
            await tell(connection=connection, events=events("slow"), now=NOW)
            first_told.set()
            await may_commit.wait()

    async def quick():
        await first_told.wait()
        async with database.transaction(seller=seller) as connection:
            await tell(connection=connection, events=events("quick"), now=NOW)

    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        group.create_task(slow())
        rival = group.create_task(quick())
        await first_told.wait()
        async with database.transaction(seller=other) as connection:
            await tell(connection=connection, events=events("elsewhere"), now=NOW)
        assert await read(database, seller) == ([], 0)
        assert not rival.done()
        may_commit.set()
    assert (await read(database, seller))[0] == ["evt_slow", "evt_quick"]
    assert (await read(database, other))[0] == ["evt_elsewhere"]


async def test_a_reader_beside_many_writers_misses_nothing_and_sees_nothing_twice(
    database, make_seller
):
    seller, moments = await make_seller(), random.Random(11)

    async def write(number):
        for turn in range(10):
            async with database.transaction(seller=seller) as connection:
                names = [f"{number}-{turn}-{part}" for part in range(moments.randint(1, 3))]
                await tell(connection=connection, events=events(*names), now=NOW)
                await asyncio.sleep(moments.uniform(0, 0.01))
                if moments.random() < 0.2:
                    await connection.rollback()

    seen, after = [], 0
    writers = asyncio.gather(*(write(number) for number in range(4)))
    while not writers.done():
        found, after = await read(database, seller, after)
        seen += found
    await writers
    found, after = await read(database, seller, after)
    seen += found
    assert seen == (await read(database, seller))[0]
    assert len(seen) == len(set(seen)) > 40
