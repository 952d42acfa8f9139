"""Work of our own in another thread, beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def begin_in_thread(work: Callable[[], Result]) -> asyncio.Future[Result]:
    """Begin with it. Whoever does not wait for it is not told that it failed either."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    future.add_done_callback(_retrieve)
    return future


def _retrieve(future: asyncio.Future[Result]) -> None:
    if not future.cancelled():
        future.exception()
