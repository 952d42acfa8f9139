"""Verb: measure what meters counted, exactly, from the columns of stored batches."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from metering import store
from metering.aggregation import (
    Block,
    PairNumbers,
    concatenated,
    distinct,
    scale_up,
    tighten,
)
from metering.columns import kept_dimensions
from metering.dimensions import Combinations
from metering.earliest import Earliest, Narrowing
from metering.kept_usage import KeptUsage, may_keep, shortened
from metering.model import EventUsage, GroupedUsage, Measured, Windows
from metering.tallies import Spans, finished, running_aggregate
from metering.values import Quantities
from metering.windowed_events import Sought, since_of
from plans.model import Meter

_Ints = NDArray[np.int64]
_Result = tuple[_Ints, Quantities, int]
"""(lines, mantissa, digits)."""


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """n quantities of one meter, each of a line and of texts[combination]."""

    line: _Ints
    combination: _Ints
    texts: list[tuple[str, ...]]
    quantity: Quantities
    digits: int


async def measure(
    *,
    connection: AsyncConnection,
    meters: Mapping[int, Meter],
    windows: Windows,
    kept: KeptUsage | None = None,
) -> Measured:
    """The quantity of each of n windows, in order; `meters` by number must hold those named.

    Reads every batch that overlaps the windows of a meter once, in bounded memory: ask for all
    lines of a run at once, or have what is expected later measured with them and `kept`; what is
    kept is not read again. Quantities are rounded as their meter says, and none is floored at zero.
    """
    results: list[_Result] = []
    subjects = store.SubjectNumbers(connection=connection)
    for number in distinct(windows.meter.astype(np.int64)).tolist():
        lines = np.flatnonzero(windows.meter == number)
        reading = _Reading(
            connection=connection, meter=meters[number], windows=windows, subjects=subjects
        )
        if kept is None or not may_keep(meters[number]):
            results.append((lines, *await reading.measured(lines)))
        else:
            results += await _kept(reading, lines, kept)
    digits = max((each for _, _, each in results), default=0)
    mantissa = _joined([(values, each) for _, values, each in results], digits=digits)
    order = (
        np.concatenate([lines for lines, _, _ in results]) if results else np.empty(0, dtype=int)
    )
    ordered = np.zeros_like(mantissa)
    ordered[order] = mantissa
    return Measured(mantissa=ordered, digits=digits)


class _Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one meter is asked for, and whom it is asked of."""

    connection: AsyncConnection
    meter: Meter
    windows: Windows
    subjects: store.SubjectNumbers

    async def measured(self, lines: _Ints) -> tuple[Quantities, int]:
        """(mantissa, digits) of some of the windows."""
        aggregate = running_aggregate(meter=self.meter, spans=_spans(self.windows, lines))
        aggregate.grow(lines=len(lines))
        sought = Sought(
            connection=self.connection,
            meter=self.meter,
            windows=self.windows,
            lines=lines,
            since=since_of(self.meter, self.windows, lines),
            subjects=self.subjects,
        )

        def add(block: Block, line: _Ints, position: _Ints) -> None:
            aggregate.add(line=line, span=line, position=position, block=block)

        await sought.count(add)
        return finished(meter=self.meter, aggregate=aggregate)


async def _kept(reading: _Reading, lines: _Ints, kept: KeptUsage) -> list[_Result]:
    """Lines of a meter of which what is known is not read, and the rest with what is expected."""
    meter, windows = reading.meter.number, reading.windows
    places = kept.places(windows=windows, lines=lines)
    found: list[_Result] = []
    if not kept.is_known(meter) and bool(np.any(places >= 0)) and kept.has_room():
        expected = len(kept.customer)
        left = np.flatnonzero(places < 0)
        every = _with_expected(kept, windows, lines[left])
        values, digits = await msgspec.structs.replace(reading, windows=every).measured(
            np.arange(expected + len(left))
        )
        kept.keep(meter=meter, mantissa=values[:expected], digits=digits)
        places[left] = np.arange(expected, expected + len(left))
        return [(lines, *shortened(values[places], digits=digits))]
    if kept.is_known(meter):
        known, values, digits = kept.find(meter=meter, places=places)
        found.append((lines[known], values, digits))
        lines = lines[~known]
    if len(lines):
        found.append((lines, *await reading.measured(lines)))
    return found


def _with_expected(kept: KeptUsage, windows: Windows, lines: _Ints) -> Windows:
    """What is expected of a meter, and after that some lines: of each who, from when and until."""
    customer = np.concatenate([kept.customer, windows.customer[lines]])
    return Windows(
        meter=np.zeros(len(customer), dtype=np.int32),
        customer=customer,
        start_micros=np.concatenate([kept.start_micros, windows.start_micros[lines]]),
        end_micros=np.concatenate([kept.end_micros, windows.end_micros[lines]]),
    )


async def measure_groups(
    *,
    connection: AsyncConnection,
    meters: Mapping[int, Meter],
    windows: Windows,
    dimensions: Sequence[Sequence[str]],
) -> GroupedUsage:
    """The quantity of each combination of values within each of n windows.

    dimensions[i] names those by which line i is kept apart: some of its meter's `group_by`, in
    any order, or none. Each combination is aggregated from its own events. Memory grows with the
    combinations, not with the events.
    """
    parts: list[_Part] = []
    subjects = store.SubjectNumbers(connection=connection)
    for meter, names, lines in _alike(meters=meters, windows=windows, dimensions=dimensions):
        combinations = Combinations(kept=kept_dimensions(meter), wanted=names)
        pairs = PairNumbers()
        aggregate = running_aggregate(meter=meter, spans=_spans(windows, lines))
        async for block, line, position in Sought(
            connection=connection,
            meter=meter,
            windows=windows,
            lines=lines,
            since=since_of(meter, windows, lines),
            subjects=subjects,
            combinations=combinations,
        ).find():
            assert block.combination is not None
            pair = pairs.find(line=line, combination=block.combination[position])
            aggregate.grow(lines=len(pairs))
            aggregate.add(line=pair, span=line, position=position, block=block)
        line, combination = pairs.halves()
        quantity, digits = finished(meter=meter, aggregate=aggregate)
        shown = aggregate.has_usage()
        parts.append(
            _Part(
                line=lines[line[shown]],
                combination=combination[shown],
                texts=combinations.texts(),
                quantity=quantity[shown],
                digits=digits,
            )
        )
    line, dimension, texts = _rows(parts)
    digits = max((part.digits for part in parts), default=0)
    order = np.lexsort((dimension, line))
    mantissa = _joined([(part.quantity, part.digits) for part in parts], digits=digits)
    return GroupedUsage(
        line=line[order],
        dimension=dimension[order],
        dimensions=texts,
        mantissa=mantissa[order],
        digits=digits,
    )


async def measure_events(
    *,
    connection: AsyncConnection,
    meters: Mapping[int, Meter],
    windows: Windows,
    dimensions: Sequence[Sequence[str]],
) -> EventUsage:
    """The value of every event within each of n windows, by combination and in order of time.

    The arguments are those of `measure_groups`; the meter's aggregation is left aside, and an
    event of a counting meter is 1. All the events are held in memory: ask for few lines at once.
    """
    parts: list[_Part] = []
    times: list[_Ints] = []
    batches: list[_Ints] = []
    subjects = store.SubjectNumbers(connection=connection)
    for meter, names, lines in _alike(meters=meters, windows=windows, dimensions=dimensions):
        combinations = Combinations(kept=kept_dimensions(meter), wanted=names)
        found: list[_Part] = []
        async for block, line, position in Sought(
            connection=connection,
            meter=meter,
            windows=windows,
            lines=lines,
            since=windows.start_micros[lines],
            subjects=subjects,
            combinations=combinations,
        ).find():
            found.append(_values(block, line=lines[line], position=position))
            times.append(block.time_micros[position])
            batches.append(block.batch[position])
        texts = combinations.texts()
        parts += [msgspec.structs.replace(part, texts=texts) for part in found]
    line, dimension, texts = _rows(parts)
    digits = max((part.digits for part in parts), default=0)
    mantissa = _joined([(part.quantity, part.digits) for part in parts], digits=digits)
    # Stable: within a batch the events stay in the order in which they were stored.
    order = np.lexsort((_flat(batches), _flat(times), dimension, line))
    line, dimension = line[order], dimension[order]
    fresh = np.ones(len(order), dtype=np.bool_)
    fresh[1:] = (line[1:] != line[:-1]) | (dimension[1:] != dimension[:-1])
    first = np.flatnonzero(fresh)
    return EventUsage(
        line=line[first],
        dimension=dimension[first],
        dimensions=texts,
        offsets=np.append(first, len(order)),
        mantissa=mantissa[order],
        digits=digits,
    )


def _values(block: Block, *, line: _Ints, position: _Ints) -> _Part:
    """The chosen events of a block, their texts to be told later."""
    assert block.combination is not None
    ones = np.ones(len(position), dtype=np.int64)
    return _Part(
        line=line,
        combination=block.combination[position],
        texts=[],
        quantity=ones if block.quantity is None else block.quantity[position],
        digits=block.digits,
    )


def _alike(
    *, meters: Mapping[int, Meter], windows: Windows, dimensions: Sequence[Sequence[str]]
) -> Iterator[tuple[Meter, tuple[str, ...], _Ints]]:
    """(meter, names, lines) of lines that one reading answers."""
    alike: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for index, (number, names) in enumerate(zip(windows.meter.tolist(), dimensions, strict=True)):
        alike.setdefault((number, tuple(names)), []).append(index)
    for (number, names), lines in sorted(alike.items()):
        yield meters[number], names, np.array(lines, dtype=np.int64)


def _spans(windows: Windows, lines: _Ints) -> Spans:
    start, end = windows.start_micros[lines], windows.end_micros[lines]
    whole = end - start if windows.whole_micros is None else windows.whole_micros[lines]
    return Spans(start=start, end=end, whole=np.maximum(whole, 1))


def _rows(parts: Sequence[_Part]) -> tuple[_Ints, _Ints, tuple[tuple[str, ...], ...]]:
    """(line, index of the combination) of all parts in turn, and the sorted combinations."""
    used = [(part, distinct(part.combination)) for part in parts]
    met = {part.texts[number] for part, numbers in used for number in numbers.tolist()}
    texts = tuple(sorted(met))
    place = {each: index for index, each in enumerate(texts)}
    columns: list[_Ints] = []
    for part, numbers in used:
        table = np.array([place[part.texts[each]] for each in numbers.tolist()], dtype=np.int64)
        columns.append(table[np.searchsorted(numbers, part.combination)])
    return _flat([part.line for part in parts]), _flat(columns), texts


def _flat(columns: Sequence[_Ints]) -> _Ints:
    return np.concatenate(columns) if columns else np.empty(0, dtype=np.int64)


def _joined(quantities: Sequence[tuple[Quantities, int]], *, digits: int) -> Quantities:
    """(mantissa, digits) pairs as one column of `digits`, in 64 bits if all of them fit."""
    return concatenated(
        [tighten(scale_up(values, power=digits - each)) for values, each in quantities]
    )


async def sweep_inbox(
    *, connection: AsyncConnection, take: bool = True
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(customers, earliest event time in microseconds) in batches that no run has looked at.

    The batches are taken off the inbox in the caller's transaction: when it rolls back, the next
    run finds them again. Without `take` they stay. Subjects that are no customer are left out.
    """
    taken = await store.take_inbox(connection=connection, take=take)
    return await earliest_usage(connection=connection, taken=taken)


async def earliest_usage(
    *,
    connection: AsyncConnection,
    taken: Sequence[Any],
    before: datetime | None = None,
    narrowing: Narrowing | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same of batches that were taken; of events `before` an instant, if one is given.

    With `narrowing` customers may be left out that have no event before their own instant.
    """
    earliest = Earliest()
    async for customers, times in store.stream_inbox(
        connection=connection, taken=taken, before=before
    ):
        earliest.add(customers=customers, times=times)
        if narrowing is not None and earliest.added > narrowing.events:
            earliest.bound(await narrowing.read())
            narrowing = None
    return earliest.found()
