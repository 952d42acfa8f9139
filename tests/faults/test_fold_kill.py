"""Folding that is killed, again and again, loses nothing and doubles nothing."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

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

__all__ = ["world"]
PROJECT = Path(__file__).parents[2]
FOLD = """
import asyncio, sys
from engine.db import open_database
from metering.fold_usage import FoldLimits, fold_usage

LIMITS = FoldLimits(least_batches=1, most_rows=12, most_events=9, most_depth=2, chunk_events=3)

async def main():
    database = open_database(dsn=sys.argv[1], role="usance_app", pool_size=1)
    print("begins", flush=True)
    await fold_usage(database=database, seller=int(sys.argv[2]), limits=LIMITS)
    await database.close()

asyncio.run(main())
"""


def fold_and_kill(dsn, seller, *, after):
    """Whether the process was still folding when it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", FOLD, dsn, str(seller)], cwd=PROJECT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(after)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


async def test_what_is_killed_in_the_middle_loses_and_doubles_nothing(world, database_url):
    chance = random.Random(5)
    meters = await some_meters(world, "early")
    customers = [await world.customer(each) for each in CUSTOMERS]
    for turn in range(20):
        await world.send(some_events(chance, f"t{turn}"))
    before, waiting = await seen(world, meters, customers), await inbox(world)
    killed = 0
    for _ in range(5):
        after = chance.uniform(0.0, 0.25)
        killed += await asyncio.to_thread(fold_and_kill, database_url, world.seller, after=after)
        assert await seen(world, meters, customers) == before
        assert await inbox(world) == waiting
    assert killed, "nothing was under way when the signal came"
    async with asyncio.timeout(60):
        while await left(world, "event_measures"):
            await fold_usage(database=world.database, seller=world.seller, limits=SMALL)
    assert await seen(world, meters, customers) == before
