"""Much usage is counted in another thread while more of it is read."""

import asyncio
import contextlib
import gc
import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from metering import block_store
from metering.aggregation import Block
from metering.model import Windows
from metering.windowed_events import Sought
from plans.model import Aggregation, Meter

METER = Meter(
    id="mtr_1",
    number=1,
    key="calls",
    event_type="call",
    aggregation=Aggregation.COUNT,
    name=None,
    value=None,
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
)
MUCH, LITTLE = 20_000, 3
SIZES = [LITTLE, MUCH, LITTLE, MUCH, MUCH, LITTLE]


def windows(count):
    """Of `count` customers, numbered from 1, from 0 to 10 microseconds each."""
    starts = np.zeros(count, dtype=np.int64)
    return Windows(
        meter=np.ones(count, dtype=np.int32),
        customer=np.arange(1, count + 1),
        start_micros=starts,
        end_micros=starts + 10,
    )


def block(size):
    """An event of each of four customers in turn, the last of whom has no window."""
    places = np.arange(size, dtype=np.int64)
    return Block(
        customer=1 + places % 4,
        time_micros=places % 10,
        batch=places,
        quantity=None,
        digits=0,
    )


def sought(monkeypatch, blocks):
    async def stream_blocks(**arguments):
        del arguments
        for each in blocks:
            if isinstance(each, Exception):
                raise each
            yield each

    monkeypatch.setattr(block_store, "stream_blocks", stream_blocks)
    lines = np.arange(3)
    return Sought(
        connection=None,
        meter=METER,
        windows=windows(3),
        lines=lines,
        since=np.zeros(3, dtype=np.int64),
        subjects=None,
    )


async def test_each_event_is_counted_once_and_in_turn(monkeypatch):
    counts, sizes, threads = np.zeros(3, dtype=np.int64), [], set()

    def add(block, line, position):
        counts[:] += np.bincount(line, minlength=3)
        sizes.append(len(block.customer))
        threads.add(threading.get_ident())
        assert len(line) == len(position)

    await sought(monkeypatch, [block(size) for size in SIZES]).count(add)
    told = np.concatenate([block(size).customer for size in SIZES])
    assert counts.tolist() == [int(np.count_nonzero(told == who)) for who in (1, 2, 3)]
    assert sizes == SIZES
    assert len(threads) > 1
    assert threading.get_ident() in threads


async def test_what_is_found_is_what_is_counted(monkeypatch):
    blocks = [block(size) for size in SIZES]
    counted = []
    await sought(monkeypatch, blocks).count(lambda *found: counted.append(found))
    found = [each async for each in sought(monkeypatch, blocks).find()]
    for (one, line, position), (other, same_line, same_position) in zip(
        counted, found, strict=True
    ):
        assert one is other
        assert np.array_equal(line, same_line)
        assert np.array_equal(position, same_position)


@pytest.mark.parametrize("sizes", [[MUCH], [LITTLE], [MUCH, MUCH]])
async def test_a_failure_to_count_is_told(monkeypatch, sizes):
    def fail(*found):
        raise ValueError(len(found))

    with pytest.raises(ValueError, match="3"):
        await sought(monkeypatch, [block(size) for size in sizes]).count(fail)


async def test_a_failure_to_read_is_told(monkeypatch):
    blocks = [block(MUCH), ConnectionResetError("gone")]
    with pytest.raises(ConnectionResetError, match="gone"):
        await sought(monkeypatch, blocks).count(lambda *found: None)


async def test_who_is_cancelled_while_much_is_counted_reads_no_more(monkeypatch):
    closed, begun, go_on = [], asyncio.Event(), threading.Event()

    async def stream_blocks(**arguments):
        del arguments
        try:
            yield block(MUCH)
            begun.set()
            yield block(MUCH)
        finally:
            closed.append(True)

    one = sought(monkeypatch, [])
    monkeypatch.setattr(block_store, "stream_blocks", stream_blocks)
    counting = asyncio.create_task(one.count(lambda *found: go_on.wait(60)))
    await begun.wait()
    counting.cancel()
    await asyncio.wait({counting})
    go_on.set()
    assert counting.cancelled()
    assert closed == [True]


async def test_of_two_failures_the_other_is_not_told_as_forgotten(monkeypatch):
    told, failed = [], threading.Event()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    def fail(*found):
        failed.set()
        raise ValueError(len(found))

    async def stream_blocks(**arguments):
        del arguments
        yield block(MUCH)
        await asyncio.to_thread(failed.wait, 60)
        raise ConnectionResetError

    one = sought(monkeypatch, [])
    monkeypatch.setattr(block_store, "stream_blocks", stream_blocks)
    with contextlib.suppress(ConnectionResetError):
        await one.count(fail)
    await asyncio.get_running_loop().shutdown_default_executor()
    gc.collect()
    assert told == []
