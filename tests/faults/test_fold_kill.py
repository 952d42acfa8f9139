"""Folding that is killed, again and again, loses nothing and doubles nothing."""

import asyncio
import random
import signal

import pytest

from metering.fold_usage import fold_usage
from tests.database.test_fold_usage import (
    CUSTOMERS,
    SMALL,
    inbox,
    left,
    seen,
    some_events,
    some_meters,
)
from tests.metering_world import world
from tests.processes import SECONDS, program, python

__all__ = ["world"]
pytestmark = pytest.mark.slow
FOLD = """
import asyncio, sys
from metering.fold_usage import FoldLimits, fold_usage
from tests.faults.billing_kills import mortal

LIMITS = FoldLimits(least_batches=1, most_rows=12, most_events=9, most_depth=2, chunk_events=3)

async def main():
    dsn, seller, *death = sys.argv[1:]
    async with mortal(dsn, *death) as database:
        await fold_usage(database=database, seller=int(seller), limits=LIMITS)

asyncio.run(main())
"""


def fold_and_die(dsn, seller, *, commits, delay_seconds):
    """Fold in a process that dies so long after it began so many commits."""
    with program(python(FOLD, dsn, str(seller), str(commits), str(delay_seconds))) as process:
        assert process.wait() == -signal.SIGKILL


async def test_what_is_killed_in_the_middle_loses_and_doubles_nothing(world, database_url):
    chance = random.Random(5)
    meters = await some_meters(world, "early")
    customers = [await world.customer(each) for each in CUSTOMERS]
    for turn in range(20):
        await world.send(some_events(chance, f"t{turn}"))
    before, waiting = await seen(world, meters, customers), await inbox(world)
    for commits, delay in ((3, 0), (9, 0), (5, 0.01), (12, 0.01), (1, 0.2)):
        death = {"commits": commits, "delay_seconds": delay and chance.uniform(0, delay)}
        await asyncio.to_thread(fold_and_die, database_url, world.seller, **death)
        assert await seen(world, meters, customers) == before
        assert await inbox(world) == waiting
        if commits == 3:
            assert await left(world, "event_measures"), "there was nothing under way"
    async with asyncio.timeout(SECONDS):
        while await left(world, "event_measures"):
            await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
    assert await seen(world, meters, customers) == before
