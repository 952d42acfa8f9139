"""Verb: measure all raw events again and compare with what billing reads. Reads only."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.block_store import stream_blocks
from metering.columns import decode_quantities, has_values, kept_dimensions, measure_columns
from metering.intake import times_of
from metering.raw_store import (
    RawPage,
    Unreadable,
    batch_span,
    find_streams,
    identity_sums,
    replaced_events,
    stream_raw,
)
from metering.store import SubjectNumbers, load_meters
from metering.usage_sums import Texts, UsageSums
from metering.verify_usage_keys import (
    FORMS,
    Bounds,
    Identities,
    Replaced,
    ends_told,
    times_told,
)
from plans.model import LateUsage, Meter

_BEYOND: Final = 2**62
_MOST_NAMES: Final = 200_000
_FACTOR: Final = 0x165667B19E3779F9
_Ints = NDArray[np.int64]


class _At(msgspec.Struct, gc=False):
    time: datetime


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


class DifferingBatches(msgspec.Struct, frozen=True, kw_only=True):
    """Batches of which something else is kept than their events say, and what."""

    first_batch: int
    last_batch: int
    detail: str


class VerifiedUsage(msgspec.Struct, frozen=True, kw_only=True):
    """How many raw events were read again, and where they differ."""

    events: int
    differing: tuple[DifferingUsage | DifferingBatches, ...]


async def verify_usage(
    *, connection: AsyncConnection, report: Callable[[int], None] | None = None
) -> VerifiedUsage:
    """Compare the raw events of the transaction's seller with all that is kept of them.

    Whatever counts is in both: customer, time, value and dimensions of each event, for every meter
    and by ranges of batches; and for every event, whether it counts or not, its identity and its
    place. Events outside PostgreSQL are left to `verify_events`. Works in a snapshot, in bounded
    memory; `report` hears how many events are done.
    """
    raw = await driver(connection)
    span = await batch_span(raw)
    if span is None:
        return VerifiedUsage(events=0, differing=())
    work = _Verifying(connection, await load_meters(raw), span, await replaced_events(raw))
    async for page in stream_raw(raw):
        if isinstance(page, Unreadable):
            work.leave_out(page)
            continue
        await work.take(page)
        if report is not None:
            report(work.events)
    return await work.answer()


class _Verifying:
    """What is compared so far."""

    def __init__(
        self,
        connection: AsyncConnection,
        meters: tuple[Meter, ...],
        span: tuple[int, int],
        replaced: Sequence[Any],
    ) -> None:
        self.events = 0
        self._connection, self._meters, self._span = connection, meters, span
        first, last = span
        self._wanted = {meter.number: UsageSums(first=first, last=last) for meter in meters}
        self._identities = Identities(first=first, last=last, replaced=Replaced(replaced))
        self._subjects = SubjectNumbers(connection=connection)
        self._streams: dict[str, tuple[int, int, int]] = {}
        self._differing: list[DifferingUsage | DifferingBatches] = []

    def leave_out(self, page: Unreadable) -> None:
        """A batch whose events nobody can tell."""
        self._identities.excuse(page.batch)
        self._differing.append(
            DifferingUsage(
                meter="",
                first_batch=page.batch,
                last_batch=page.batch,
                events=page.found,
                measured=page.events,
            )
        )

    async def take(self, page: RawPage) -> None:
        """A page of events."""
        times = times_of(page.events)
        subjects = [each.subject for each in page.events]
        self._measure(page, subjects, times, await self._numbers(subjects))
        sources = {each.source for each in page.events}
        self._identities.add(page, await self._streams_of(sources))
        for detail, batches in (
            ("says another first or last time than its events", times_told(page, times)),
            ("does not say where its events end", ends_told(page)),
        ):
            self._differing += [
                DifferingBatches(first_batch=batch, last_batch=batch, detail=detail)
                for batch in batches
            ]
        self.events += len(page.events)

    def _measure(
        self, page: RawPage, subjects: Sequence[str], times: _Ints, numbers: _Ints
    ) -> None:
        """Count what the meters make of a page of events."""
        events = page.events
        types = [each.type for each in events]
        datas = [each.data for each in events]
        places = np.arange(1, len(events) + 1)  # in the place of customers: who was measured
        for meter in self._meters:
            columns = measure_columns(
                meter=meter,
                types=types,
                subjects=subjects,
                datas=datas,
                customers=places,
                times=times,
            )
            if columns is None:
                continue
            at = np.frombuffer(columns.customers, dtype="<i8") - 1
            counts = page.counts[at]
            at, kept = at[counts], kept_dimensions(meter)
            quantity = texts = None
            if has_values(meter):
                decoded = decode_quantities(quantities=columns.quantities, wide=columns.wide)
                quantity = decoded[counts]
            if kept:
                hashes = Texts(kept=kept)
                texts = hashes.number(
                    groups=columns.groups, codes=columns.codes, events=columns.events
                )[counts]
            received = None
            if meter.late_usage is LateUsage.IGNORE:
                received = times_of([_At(row["received_at"]) for row in page.rows])
                received = received[page.row[at]]
            self._wanted[meter.number].add(
                batch=page.batch[at],
                customer=numbers[at],
                time_micros=times[at],
                quantity=quantity,
                digits=columns.digits,
                texts=_with_received(texts, received),
            )

    async def _numbers(self, subjects: Sequence[str]) -> _Ints:
        known = await self._subjects.find(())
        if len(known) > _MOST_NAMES:
            self._subjects = SubjectNumbers(connection=self._connection)
            known = await self._subjects.find(())
        try:
            return np.fromiter(map(known.__getitem__, subjects), np.int64, len(subjects))
        except KeyError:
            known = await self._subjects.find(subjects)
            return np.fromiter(map(known.__getitem__, subjects), np.int64, len(subjects))

    async def _streams_of(self, sources: set[str]) -> dict[str, tuple[int, int, int]]:
        missing = sources.difference(self._streams)
        if missing and len(self._streams) > _MOST_NAMES:
            self._streams, missing = {}, sources
        if missing:
            found: dict[tuple[str, str], int] = {}
            for source, form, stream in await find_streams(
                await driver(self._connection), sources=missing
            ):
                found[source, form] = stream
            for source in missing:
                uuid, text, amendment = (found.get((source, form), 0) for form in FORMS)
                self._streams[source] = (uuid, text, amendment)
        return self._streams

    async def answer(self) -> VerifiedUsage:
        """Compare with what billing reads, and with the identities."""
        first, last = self._span
        for meter in self._meters:
            found = UsageSums(first=first, last=last)
            bounds = await _read(self._connection, meter, found)
            self._differing += [
                DifferingBatches(first_batch=begin, last_batch=end, detail=f"{meter.key}: {detail}")
                for begin, end, detail in bounds.wrong
            ]
            self._differing += [
                DifferingUsage(
                    meter=meter.key,
                    first_batch=begin,
                    last_batch=end,
                    events=said,
                    measured=measured,
                )
                for begin, end, said, measured in self._wanted[meter.number].differences(found)
            ]
        kept = await identity_sums(
            await driver(self._connection),
            first=first,
            width=self._identities.width,
            ranges=self._identities.ranges,
        )
        self._differing += [
            DifferingBatches(first_batch=begin, last_batch=end, detail=detail)
            for begin, end, detail in self._identities.differences(kept)
        ]
        return VerifiedUsage(events=self.events, differing=tuple(self._differing))


def _with_received(texts: _Ints | None, received: _Ints | None) -> _Ints | None:
    """What is told of an event beside its value: where the meter asks for it, when it came."""
    if received is None:
        return texts
    mixed = received * _FACTOR
    return mixed if texts is None else texts + mixed


async def _read(connection: AsyncConnection, meter: Meter, sums: UsageSums) -> Bounds:
    """Count what billing would read of a meter; gives what of it does not lie where it says."""
    kept, bounds = kept_dimensions(meter), Bounds()
    async for block in stream_blocks(
        connection=connection,
        meter=meter,
        start_micros=-_BEYOND,
        end_micros=_BEYOND,
        customers=(0, _BEYOND),
        subjects=SubjectNumbers(connection=connection),
        combinations=Texts(kept=kept) if kept else None,
        everywhere=False,
        look=bounds.look,
    ):
        sums.add(
            batch=block.batch,
            customer=block.customer,
            time_micros=block.time_micros,
            quantity=block.quantity,
            digits=block.digits,
            texts=_with_received(block.combination, block.received_micros),
        )
    return bounds
