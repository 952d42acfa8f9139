"""Verb: measure all raw events again and compare with what billing reads. Reads only."""

from collections.abc import Callable
from typing import Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.block_store import stream_blocks
from metering.columns import decode_quantities, has_values, kept_dimensions, measure_columns
from metering.intake import times_of
from metering.raw_store import RawPage, Unreadable, batch_span, stream_raw
from metering.store import SubjectNumbers, load_meters
from metering.usage_sums import Texts, UsageSums
from plans.model import Meter

_BEYOND: Final = 2**62
_MOST_SUBJECTS: Final = 200_000


class DifferingUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Batches of which billing would measure something else than their events say.

    `meter` is its key, or nothing for a batch that cannot be read; the counts are of the events
    that the meter measures.
    """

    meter: str
    first_batch: int
    last_batch: int
    events: int
    measured: int


class VerifiedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How many raw events were measured again, and where they differ."""

    events: int
    differing: tuple[DifferingUsage, ...]


async def verify_usage(
    *, connection: AsyncConnection, report: Callable[[int], None] | None = None
) -> VerifiedUsage:
    """Compare, for every meter of the transaction's seller, the raw events with their columns.

    Whatever counts is in both: customer, time, value and dimensions of each event, by ranges of
    batches. Events outside PostgreSQL are left to `verify_events`. Works in a snapshot, in bounded
    memory; `report` hears how many events are done.
    """
    raw = await driver(connection)
    meters = await load_meters(raw)
    span = await batch_span(raw)
    if span is None:
        return VerifiedUsage(events=0, differing=())
    first, last = span
    wanted = {meter.number: UsageSums(first=first, last=last) for meter in meters}
    subjects = SubjectNumbers(connection=connection)
    differing: list[DifferingUsage] = []
    events = 0
    async for page in stream_raw(raw):
        if isinstance(page, Unreadable):
            differing.append(_unreadable(page))
            continue
        known = await subjects.find({each.subject for each in page.events})
        numbers = np.array([known[each.subject] for each in page.events], dtype=np.int64)
        if len(known) > _MOST_SUBJECTS:
            subjects = SubjectNumbers(connection=connection)
        _measure(page, numbers, meters, wanted)
        events += len(page.events)
        if report is not None:
            report(events)
    for meter in meters:
        found = UsageSums(first=first, last=last)
        await _read(connection, meter, found)
        differing += [
            DifferingUsage(
                meter=meter.key, first_batch=begin, last_batch=end, events=said, measured=measured
            )
            for begin, end, said, measured in wanted[meter.number].differences(found)
        ]
    return VerifiedUsage(events=events, differing=tuple(differing))


def _unreadable(page: Unreadable) -> DifferingUsage:
    return DifferingUsage(
        meter="",
        first_batch=page.batch,
        last_batch=page.batch,
        events=page.found,
        measured=page.events,
    )


def _measure(
    page: RawPage,
    numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    meters: tuple[Meter, ...],
    sums: dict[int, UsageSums],
) -> None:
    """Count what the meters make of a page of events."""
    events = page.events
    times = times_of(events)
    types = [each.type for each in events]
    subjects = [each.subject for each in events]
    datas = [each.data for each in events]
    places = np.arange(1, len(events) + 1)  # in the place of customers: they tell who was measured
    for meter in meters:
        columns = measure_columns(
            meter=meter, types=types, subjects=subjects, datas=datas, customers=places, times=times
        )
        if columns is None:
            continue
        at = np.frombuffer(columns.customers, dtype="<i8") - 1
        counts = page.counts[at]
        at, kept = at[counts], kept_dimensions(meter)
        quantity = texts = None
        if has_values(meter):
            quantity = decode_quantities(quantities=columns.quantities, wide=columns.wide)[counts]
        if kept:
            hashes = Texts(kept=kept)
            texts = hashes.number(
                groups=columns.groups, codes=columns.codes, events=columns.events
            )[counts]
        sums[meter.number].add(
            batch=page.batch[at],
            customer=numbers[at],
            time_micros=times[at],
            quantity=quantity,
            digits=columns.digits,
            texts=texts,
        )


async def _read(connection: AsyncConnection, meter: Meter, sums: UsageSums) -> None:
    """Count what billing would read of a meter."""
    kept = kept_dimensions(meter)
    async for block in stream_blocks(
        connection=connection,
        meter=meter,
        start_micros=-_BEYOND,
        end_micros=_BEYOND,
        customers=(0, _BEYOND),
        subjects=SubjectNumbers(connection=connection),
        combinations=Texts(kept=kept) if kept else None,
        everywhere=False,
    ):
        sums.add(
            batch=block.batch,
            customer=block.customer,
            time_micros=block.time_micros,
            quantity=block.quantity,
            digits=block.digits,
            texts=block.combination,
        )
