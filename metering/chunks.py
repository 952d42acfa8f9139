"""Entries of a meter from many batches, in the order of customers and times, cut into chunks. Pure.

An entry is one measured event: its customer, time and value, and where in which batch it stood.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.aggregation import concatenated, scale_up, tighten
from metering.columns import encode_integers
from metering.values import Quantities

CHUNK_EVENTS: Final = 8_192
_Ints = NDArray[np.int64]


class Entries(msgspec.Struct, frozen=True, kw_only=True):
    """n entries of one meter, with what is common to them.

    `customer` is 0 where `stranger` is the index of a subject in `subjects`, else that is -1.
    `code` numbers a combination in `texts`; a meter that keeps no dimensions has none.
    """

    customer: _Ints
    time_micros: _Ints
    batch: _Ints
    position: _Ints
    stranger: _Ints
    subjects: Sequence[str]
    quantity: Quantities | None
    digits: int
    code: _Ints | None
    texts: Sequence[tuple[str, ...]]
    received_micros: _Ints | None


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in order, as little-endian columns; `month` counts from January 1970 in UTC.

    `first` and `last` are (customer, microseconds) of the first and the last entry.
    """

    month: int
    events: int
    first_micros: int
    last_micros: int
    first: tuple[int, int]
    last: tuple[int, int]
    digits: int
    wide: bool
    customers: bytes
    times: bytes
    batches: bytes
    positions: bytes
    quantities: bytes
    unknown: bytes
    groups: bytes
    codes: bytes
    received: bytes


def joined_entries(parts: Sequence[Entries]) -> Entries:
    """One after the other; all of them number the same `texts` and `subjects`."""
    digits = max(part.digits for part in parts)
    first = parts[0]
    quantity = None
    if first.quantity is not None:
        quantity = concatenated(
            [
                scale_up(part.quantity, power=digits - part.digits)
                for part in parts
                if part.quantity is not None
            ]
        )
    return Entries(
        customer=np.concatenate([part.customer for part in parts]),
        time_micros=np.concatenate([part.time_micros for part in parts]),
        batch=np.concatenate([part.batch for part in parts]),
        position=np.concatenate([part.position for part in parts]),
        stranger=np.concatenate([part.stranger for part in parts]),
        subjects=first.subjects,
        quantity=quantity,
        digits=digits,
        code=_joined([part.code for part in parts]),
        texts=first.texts,
        received_micros=_joined([part.received_micros for part in parts]),
    )


def _joined(columns: Sequence[_Ints | None]) -> _Ints | None:
    there = [column for column in columns if column is not None]
    return np.concatenate(there) if there else None


def chosen_entries(entries: Entries, order: NDArray[np.intp]) -> Entries:
    """The entries at these places, in their order."""
    return msgspec.structs.replace(
        entries,
        customer=entries.customer[order],
        time_micros=entries.time_micros[order],
        batch=entries.batch[order],
        position=entries.position[order],
        stranger=entries.stranger[order],
        quantity=None if entries.quantity is None else entries.quantity[order],
        code=None if entries.code is None else entries.code[order],
        received_micros=None if entries.received_micros is None else entries.received_micros[order],
    )


def taken_back(
    *, batch: _Ints, position: _Ints, void_batches: Sequence[int], void_positions: Sequence[int]
) -> NDArray[np.intp]:
    """The places of the entries that a void names; `void_batches` ascend."""
    if not void_batches or not len(batch):
        return np.empty(0, dtype=np.intp)
    known = np.array(void_batches, dtype=np.int64)
    near = np.minimum(np.searchsorted(known, batch), len(known) - 1)
    perhaps = np.flatnonzero(known[near] == batch)
    voids = frozenset(zip(void_batches, void_positions, strict=True))
    pairs = zip(batch[perhaps].tolist(), position[perhaps].tolist(), strict=True)
    return perhaps[[pair in voids for pair in pairs]] if len(perhaps) else perhaps


def month_numbers(time_micros: _Ints) -> _Ints:
    """The UTC month of each instant, counted from January 1970."""
    return time_micros.astype("M8[us]").astype("M8[M]").astype(np.int64)


def cut_into_chunks(entries: Entries, *, size: int = CHUNK_EVENTS) -> Iterator[Chunk]:
    """Chunks of about `size` entries: of one month each, strangers apart.

    What one batch holds of one customer at one instant is never parted, so that the order in
    which it was stored decides within a chunk.
    """
    month = month_numbers(entries.time_micros)
    keys = (entries.position, entries.batch, entries.time_micros, entries.customer, month)
    order = np.lexsort(keys)
    entries, month = chosen_entries(entries, order), month[order]
    known = entries.customer > 0
    begins = _changes(month) | _changes(known.astype(np.int64))
    fresh = begins | _changes(entries.customer) | _changes(entries.time_micros)
    places = np.flatnonzero(fresh | _changes(entries.batch))
    edges = [*np.flatnonzero(begins).tolist(), len(order)]
    for start, end in itertools.pairwise(edges):
        begin = start
        while begin < end:
            near = int(np.searchsorted(places, begin + size))
            stop = min(int(places[near]) if near < len(places) else end, end)
            yield _encoded(entries, month=int(month[begin]), begin=begin, stop=stop)
            begin = stop


def _changes(column: _Ints) -> NDArray[np.bool_]:
    changed = np.ones(len(column), dtype=np.bool_)
    changed[1:] = column[1:] != column[:-1]
    return changed


def _encoded(entries: Entries, *, month: int, begin: int, stop: int) -> Chunk:
    part = slice(begin, stop)
    customer, at = entries.customer[part], entries.time_micros[part]
    stranger = entries.stranger[part]
    unknown = [
        (place, entries.subjects[int(stranger[place])])
        for place in np.flatnonzero(stranger >= 0).tolist()
    ]
    wide, quantities = False, b""
    if entries.quantity is not None:
        wide, quantities = encode_integers(tighten(entries.quantity[part]))
    groups, codes = b"", b""
    if entries.code is not None:
        met, place = np.unique(entries.code[part], return_inverse=True)
        groups = msgspec.json.encode([entries.texts[each] for each in met.tolist()])
        codes = place.astype("<i4").tobytes()
    received = entries.received_micros
    return Chunk(
        month=month,
        events=stop - begin,
        first_micros=int(at.min()),
        last_micros=int(at.max()),
        first=(int(customer[0]), int(at[0])),
        last=(int(customer[-1]), int(at[-1])),
        digits=entries.digits,
        wide=wide,
        customers=customer.astype("<i8").tobytes(),
        times=at.astype("<i8").tobytes(),
        batches=entries.batch[part].astype("<i8").tobytes(),
        positions=entries.position[part].astype("<i4").tobytes(),
        quantities=quantities,
        unknown=msgspec.json.encode(unknown) if unknown else b"",
        groups=groups,
        codes=codes,
        received=b"" if received is None else received[part].astype("<i8").tobytes(),
    )


class ChunkRange(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chunk lies: from `first` to `last`, pairs of (customer, microseconds)."""

    chunk: int
    events: int
    first: tuple[int, int]
    last: tuple[int, int]


def depth(ranges: Sequence[ChunkRange]) -> int:
    """How many chunks lie over one another at most; those that only touch do not."""
    steps = [(each.first, 1) for each in ranges if each.first < each.last]
    steps += [(each.last, -1) for each in ranges if each.first < each.last]
    deepest = current = 0
    for _, step in sorted(steps):
        current += step
        deepest = max(deepest, current)
    return deepest


def lowest(ranges: Sequence[ChunkRange], *, events: int) -> list[int]:
    """The chunks to merge next: from the lowest customer on, of about so many events."""
    chosen: list[int] = []
    total = 0
    for each in sorted(ranges, key=lambda one: (one.first, one.last)):
        if total + each.events > events and len(chosen) > 1:
            break
        chosen.append(each.chunk)
        total += each.events
    return chosen


def earliest(customer: _Ints, time_micros: _Ints) -> Mapping[str, bytes]:
    """The known customers, each once, and the earliest time of each, as columns."""
    order = np.lexsort((time_micros, customer))
    order = order[customer[order] > 0]
    who, at = customer[order], time_micros[order]
    first = np.flatnonzero(_changes(who))
    return {
        "customers": who[first].astype("<i8").tobytes(),
        "times": at[first].astype("<i8").tobytes(),
    }
