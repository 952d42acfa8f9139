"""Two processes take the same ids at the same time, in commits of one round trip and of many."""

import asyncio
import uuid
from datetime import timedelta

import pytest

from tests.database.test_ingest import stored_ids
from tests.metering_world import NOW, World, event, running, world

__all__ = ["world"]


def ids(count: int, *, form: str) -> list[str]:
    if form == "text":
        return [f"{number:06}" for number in range(count)]
    return [str(uuid.UUID(int=7 << 76 | 2 << 62 | number << 80)) for number in range(count)]


@pytest.mark.parametrize("form", ["uuid", "text"])
@pytest.mark.parametrize("size", [1, 3, 300])
async def test_rivals_share_each_id_once(world, form, size):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    named = ids(6 * size, form=form)
    bodies = [[event(each) for each in named[at : at + size]] for at in range(0, 6 * size, size)]
    restamped = [
        [event(each, at=NOW - timedelta(days=2)) for each in reversed(named[at : at + size])]
        for at in range(0, 6 * size, size)
    ]
    async with running(world.database) as one, running(world.database) as other:
        first = World(database=world.database, seller=world.seller, ingester=one)
        second = World(database=world.database, seller=world.seller, ingester=other)
        sent = [each.send(body) for body in bodies for each in (first, second)]
        sent += [each.send(body) for body in restamped for each in (second, first)]
        answers = await asyncio.gather(*sent)
    assert sum(each.accepted for each in answers) == len(named)
    assert sum(each.duplicates for each in answers) == 3 * len(named)
    assert sorted(await stored_ids(world)) == sorted(named)
    assert await world.total(meter, customer) == str(len(named))


@pytest.mark.parametrize("size", [2, 400])
async def test_of_two_payloads_of_an_id_one_stays_and_the_other_is_told(world, size):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    named = ids(size, form="uuid")
    async with running(world.database) as one, running(world.database) as other:
        first = World(database=world.database, seller=world.seller, ingester=one)
        second = World(database=world.database, seller=world.seller, ingester=other)
        answers = await asyncio.gather(
            first.send([event(each, value=1) for each in named]),
            second.send([event(each, value=2) for each in named]),
        )
    assert sorted(each.accepted for each in answers) == [0, size]
    assert {each.code for answer in answers for each in answer.rejected} == {"conflict"}
    kept = 1 if answers[0].accepted else 2
    assert await world.total(meter, customer) == str(kept * size)


async def test_repeats_from_anywhere_are_compared_with_what_was_stored(world):
    """Few of a batch are read as slices of it, many with the whole."""
    named = ids(1_000, form="text")
    for at in range(0, 1_000, 100):
        await world.send([event(each, data={"tokens": each}) for each in named[at : at + 100]])
    chosen = [*named[:100], *named[100:1_000:37], named[-1]]
    same = await world.send([event(each, data={"tokens": each}) for each in chosen])
    assert (same.accepted, same.duplicates) == (0, len(chosen))
    changed = await world.send([event(each, data={"tokens": f"{each}0"}) for each in chosen])
    assert (changed.accepted, changed.duplicates) == (0, 0)
    assert [each.id for each in changed.rejected] == chosen
    assert sorted(await stored_ids(world)) == named
