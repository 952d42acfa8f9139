"""Places for requests that work for long: as many at once as leave all others their connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from engine.errors import BillingError, ErrorKind

WAIT_SECONDS: Final = 10
"""For a place; whoever waits here holds nothing that anybody else waits for."""


class Places:
    """Of one process whose pool has `connections`: whoever has none waits, holding nothing.

    A key holds a connection while its request is worked on, work holds up to two: a lock and a
    transaction. Of a pool of 12, all of them together leave two. What a billing run does ahead of
    that it does where a connection is to spare. A seller has no more places than leave one to the
    others, but two to work in: it can still resume or stop what it waits for.
    """

    def __init__(self, *, connections: int) -> None:
        """Nobody is inside."""
        work, keys = max(2, connections // 4), max(1, connections // 3)
        self._work = _Room(places=work, of_a_seller=max(2, work - 1))
        self._keys = _Room(places=keys, of_a_seller=max(1, keys - 1))

    @asynccontextmanager
    async def for_a_key(self, *, seller: int) -> AsyncIterator[None]:
        """Hold a place for a seller's key. Errors: `unavailable` when none is free in time."""
        async with self._keys.enter(seller=seller):
            yield

    @asynccontextmanager
    async def for_work(self, *, seller: int) -> AsyncIterator[None]:
        """Hold a place for long work. Errors: `unavailable` when none is free in time."""
        async with self._work.enter(seller=seller):
            yield


class _Room:
    """Places, some of them at most of one seller."""

    def __init__(self, *, places: int, of_a_seller: int) -> None:
        self._of_a_seller = of_a_seller
        self._places = asyncio.Semaphore(places)
        self._sellers: dict[int, asyncio.Semaphore] = {}
        self._asking: dict[int, int] = {}

    @asynccontextmanager
    async def enter(self, *, seller: int) -> AsyncIterator[None]:
        """Whoever waits behind others of its own seller takes no turn from anybody else."""
        mine = self._sellers.setdefault(seller, asyncio.Semaphore(self._of_a_seller))
        self._asking[seller] = self._asking.get(seller, 0) + 1
        try:
            async with AsyncExitStack() as taken:
                async with _patience():
                    for places in (mine, self._places):
                        await places.acquire()
                        taken.callback(places.release)
                yield
        finally:
            self._asking[seller] -= 1
            if not self._asking[seller]:
                del self._asking[seller], self._sellers[seller]


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            yield
    except TimeoutError as error:
        detail = "other long requests are being worked on; send the same request again"
        raise BillingError("unavailable", detail, kind=ErrorKind.UNAVAILABLE) from error
