"""The numbers under which commits are stored, in the order of their use."""

import asyncio
from typing import Any, Final

from metering.batch_store import take_batch_numbers

_NUMBER_SECONDS: Final = 1.0


class BatchNumbers:
    """Batch numbers in the order of their use, for all committers of a process.

    Numbers are fetched a few at a time and dropped when they grow old, so that those of several
    processes stay in step to about a second. Unused ones leave a gap, which is no harm.
    """

    def __init__(self) -> None:
        """Nothing is fetched yet."""
        self._lock = asyncio.Lock()
        self._numbers: list[int] = []
        self._good_until = 0.0

    async def take(self, raw: Any) -> int:
        """The next number; `raw` is asked when none is left."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if not self._numbers or now >= self._good_until:
                self._numbers = await take_batch_numbers(raw)
                self._good_until = now + _NUMBER_SECONDS
            return self._numbers.pop()
