"""The events of a meter that lie in windows, block by block."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.threads import begin_in_thread
from metering import block_store, store
from metering.aggregation import Block
from metering.dimensions import Combinations
from metering.model import Windows
from metering.window_index import WindowIndex
from plans.model import Aggregation, Meter

_EVER_MICROS: Final = -(2**62)
_FEW: Final = 10_000
"""So many events are counted before another thread has begun with them."""
_Ints = NDArray[np.int64]
_Reach = tuple[tuple[int, int], int, int]
"""(lowest and highest customer, start, end)."""


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a meter: the events in the windows of some `lines`, from `since` on.

    An empty window has none.
    """

    connection: AsyncConnection
    meter: Meter
    windows: Windows
    lines: _Ints
    since: _Ints
    subjects: store.SubjectNumbers
    combinations: Combinations | None = None

    async def find(self) -> AsyncIterator[tuple[Block, _Ints, _Ints]]:
        """(block, places among `lines`, positions in the block) of the events."""
        index, reach = self._indexed()
        if reach is None:
            return
        async with aclosing(self._blocks(reach)) as blocks:
            async for block in blocks:
                for line, position in self._places(index, block):
                    yield block, line, position

    async def count(self, add: Callable[[Block, _Ints, _Ints], None]) -> None:
        """The same for `add`, which is called in a thread while the next block is read.

        It may still be when this was cancelled, or could not go on reading.
        """
        index, reach = self._indexed()
        if reach is None:
            return

        def count_block(block: Block) -> None:
            for line, position in self._places(index, block):
                add(block, line, position)

        counting: asyncio.Future[None] | None = None
        async with aclosing(self._blocks(reach)) as blocks:
            async for block in blocks:
                if counting is not None:
                    await counting
                    counting = None
                if len(block.customer) < _FEW:
                    count_block(block)
                else:
                    counting = begin_in_thread(partial(count_block, block))
        if counting is not None:
            await counting

    def _blocks(self, reach: _Reach) -> AsyncGenerator[Block, None]:
        return block_store.stream_blocks(
            connection=self.connection,
            meter=self.meter,
            customers=reach[0],
            start_micros=reach[1],
            end_micros=reach[2],
            subjects=self.subjects,
            combinations=self.combinations,
        )

    def _places(self, index: WindowIndex, block: Block) -> Iterator[tuple[_Ints, _Ints]]:
        closes = self.windows.closes_micros
        for line, position in index.find(customer=block.customer, time_micros=block.time_micros):
            if closes is None or block.received_micros is None:
                yield line, position
                continue
            in_time = block.received_micros[position] < closes[self.lines[line]]
            yield line[in_time], position[in_time]

    def _indexed(self) -> tuple[WindowIndex, _Reach | None]:
        """The windows, and between which customers and instants they lie; None if nowhere.

        On its own, so that the columns it is made of are not held while events are read.
        """
        lines, windows = self.lines, self.windows
        end = windows.end_micros[lines]
        real = windows.start_micros[lines] < end
        start = np.where(real, self.since, end)
        index = WindowIndex(customer=windows.customer[lines], start_micros=start, end_micros=end)
        if not bool(np.any(real)):
            return index, None
        known = windows.customer[lines][real]
        customers = int(known.min()), int(known.max())
        return index, (customers, int(start[real].min()), int(end[real].max()))


def since_of(meter: Meter, windows: Windows, lines: _Ints) -> _Ints:
    """From when on events count for each window: for a level, from before it begins."""
    start = windows.start_micros[lines]
    if meter.aggregation is not Aggregation.WEIGHTED_SUM:
        return start
    if meter.carry_over:
        return np.full(len(lines), _EVER_MICROS, dtype=np.int64)
    return start if windows.since_micros is None else np.minimum(start, windows.since_micros[lines])
