"""Verb: measure what meters counted, exactly, from the columns of stored batches."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import store
from metering.aggregation import Tally, WindowIndex, scale_up, tighten
from metering.model import Measured, Windows
from plans.model import Meter


async def measure(
    *, connection: AsyncConnection, meters: Mapping[int, Meter], windows: Windows
) -> Measured:
    """The quantity of each of n windows, in order; `meters` by number must hold those named.

    Reads every batch that overlaps the windows of a meter once, in bounded memory: ask for all
    lines of a run at once. Nothing is rounded and nothing floored at zero.
    """
    results: list[tuple[NDArray[np.intp], Tally]] = []
    subjects = store.SubjectNumbers(connection=connection)
    for number in np.unique(windows.meter).tolist():
        lines = np.flatnonzero(windows.meter == number)
        start, end = windows.start_micros[lines], windows.end_micros[lines]
        meter = meters[number]
        tally = Tally(aggregation=meter.aggregation, lines=len(lines))
        results.append((lines, tally))
        real = start < end
        if not bool(np.any(real)):
            continue
        index = WindowIndex(customer=windows.customer[lines], start_micros=start, end_micros=end)
        async for block in store.stream_blocks(
            connection=connection,
            meter=meter,
            start_micros=int(start[real].min()),
            end_micros=int(end[real].max()),
            subjects=subjects,
        ):
            for line, position in index.find(
                customer=block.customer, time_micros=block.time_micros
            ):
                tally.add(line=line, position=position, block=block)
    digits = max((tally.digits for _, tally in results), default=0)
    parts = [
        (lines, tighten(scale_up(tally.mantissa, power=digits - tally.digits)))
        for lines, tally in results
    ]
    exact = object if any(part.dtype == object for _, part in parts) else np.int64
    mantissa = np.zeros(len(windows.meter), dtype=exact)
    for lines, part in parts:
        mantissa[lines] = part
    return Measured(mantissa=mantissa, digits=digits)


async def sweep_inbox(
    *, connection: AsyncConnection, take: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(customers, earliest event time in microseconds) in batches that no run has looked at.

    The batches are taken off the inbox in the caller's transaction: when it rolls back, the next
    run finds them again. Without `take` they stay. Subjects that are no customer are left out.
    """
    customers = np.empty(0, dtype=np.int64)
    times = np.empty(0, dtype=np.int64)
    async for more_customers, more_times in store.stream_inbox(connection=connection, take=take):
        customers = np.concatenate((customers, more_customers))
        times = np.concatenate((times, more_times))
        order = np.lexsort((times, customers))
        customers, times = customers[order], times[order]
        customers, first = np.unique(customers, return_index=True)
        times = times[first]
    return customers, times
