"""Verb: fold what was measured batch by batch into chunks in the order of customers.

Nothing that a reading gives changes by it. Batches are taken as a set, in the transaction that
writes them into chunks: one that commits late is found by the next folding, whatever its number.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import numpy as np
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database, driver
from metering import chunk_store
from metering.chunk_store import EntryReader, Pile
from metering.chunks import (
    CHUNK_EVENTS,
    Entries,
    chosen_entries,
    cut_into_chunks,
    depth,
    earliest,
    joined_entries,
    lowest,
    taken_back,
)
from metering.columns import MeterColumns
from metering.store import SubjectNumbers, columns_of_events, decode_payload, load_meters
from plans.model import Meter


class FoldLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When to fold, and how much in one transaction."""

    least_batches: int = 64
    least_events: int = 50_000
    """Fewer batches than that, of fewer events than that, wait for others."""
    most_rows: int = 8_000
    most_events: int = 500_000
    most_payloads: int = 16
    most_depth: int = 8
    chunk_events: int = CHUNK_EVENTS


FOLD_LIMITS: Final = FoldLimits()


class Folded(msgspec.Struct, kw_only=True):
    """What was done, in numbers of batches and chunks."""

    measured: int = 0
    """Batches measured for meters made later."""
    batches: int = 0
    """Batches folded into chunks."""
    merged: int = 0
    """Chunks merged into others."""
    written: int = 0
    """Chunks written."""


async def fold_usage(
    *, database: Database, seller: int, limits: FoldLimits = FOLD_LIMITS, steps: int = 1_000_000
) -> Folded:
    """Fold until nothing is left to fold, or for so many steps of one transaction each.

    One at a time for a seller: where another folds, nothing is done.
    """
    done = Folded()
    work = (_measure_lacking, _fold_batches, _merge_chunks)
    for step in work:
        more = True
        while more and steps > 0:
            steps -= 1
            async with _alone(database, seller) as connection:
                if connection is None:
                    return done
                more = await step(connection, limits, done)
    return done


@asynccontextmanager
async def _alone(database: Database, seller: int) -> AsyncIterator[AsyncConnection | None]:
    async with database.transaction(seller=seller) as connection:
        alone = await chunk_store.hold_alone(await driver(connection))
        yield connection if alone else None


async def _measure_lacking(connection: AsyncConnection, limits: FoldLimits, done: Folded) -> bool:
    """Measure some batches for the meters that were made later; False when none is left."""
    raw = await driver(connection)
    meters = await load_meters(raw)
    numbers = [meter.number for meter in meters]
    found = await chunk_store.lacking_batches(raw, meters=numbers, limit=limits.most_payloads)
    for row in await chunk_store.hold_batches(raw, batches=found):
        events = decode_payload(row["payload"])
        voided = await chunk_store.find_voided(raw, batch=row["batch"])
        measures: list[MeterColumns] = []
        voids: list[tuple[int, int, int]] = []
        for meter in meters:
            if meter.number in row["meters"]:
                continue
            columns = columns_of_events(events, meter)
            if columns is None:
                continue
            measures.append(columns)
            for ordinal in sorted(voided):
                if columns_of_events(events[ordinal : ordinal + 1], meter) is not None:
                    before = columns_of_events(events[: ordinal + 1], meter)
                    assert before is not None
                    voids.append((meter.number, ordinal, before.events - 1))
        await chunk_store.insert_measures(
            raw,
            batch=row["batch"],
            meters=sorted({*row["meters"], *numbers}),
            measures=measures,
            voids=voids,
        )
    done.measured += len(found)
    return bool(found)


async def _fold_batches(connection: AsyncConnection, limits: FoldLimits, done: Folded) -> bool:
    """Fold some batches; False when so few are left that they may wait."""
    raw = await driver(connection)
    meters = {meter.number: meter for meter in await load_meters(raw)}
    ready = await chunk_store.waiting_batches(raw, rows=limits.most_rows, meters=list(meters))
    total = np.cumsum([row["events"] for row in ready])
    if not ready or (len(ready) < limits.least_batches and total[-1] < limits.least_events):
        return False
    ready = ready[: max(1, int(np.searchsorted(total, limits.most_events, side="right")))]
    batches = {row["batch"]: row for row in ready}
    rows = await chunk_store.take_measures(raw, meters=list(meters), batches=list(batches))
    subjects = SubjectNumbers(connection=connection)
    arrivals: list[Entries] = []
    groups: dict[tuple[int, str], list[Any]] = {}
    for row in rows:
        groups.setdefault((row["meter"], batches[row["batch"]]["backfill"]), []).append(row)
    for (number, backfill), group in sorted(groups.items(), key=lambda each: each[0]):
        reader = EntryReader(meter=meters[number], subjects=subjects)
        parts: list[Entries] = []
        for row in sorted(group, key=lambda each: each["batch"]):
            received = chunk_store.micros_received(batches[row["batch"]])
            parts.append(await reader.read(row, received_micros=received))
        entries = reader.named(joined_entries(parts))
        arrivals.append(entries)
        pile = Pile(meter=number, backfill=backfill, month=0, level=1)
        done.written += await _write(raw, entries=entries, pile=pile, limits=limits)
    await _fold_inbox(raw, batches=list(batches), arrivals=arrivals)
    done.batches += len(batches)
    return True


async def _fold_inbox(raw: Any, *, batches: Sequence[int], arrivals: Sequence[Entries]) -> None:
    """Keep in the inbox, of batches that no run has looked at, whom they touch from when on."""
    seen = await chunk_store.fold_inbox(raw, batches=batches)
    if not seen:
        return
    fresh = np.array(sorted(seen), dtype=np.int64)
    customer, at = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for entries in arrivals:
        mine = np.isin(entries.batch, fresh)
        customer.append(entries.customer[mine])
        at.append(entries.time_micros[mine])
    columns = earliest(np.concatenate(customer), np.concatenate(at))
    if columns["customers"]:
        await chunk_store.insert_arrived(raw, batch=min(seen), **columns)


async def _write(raw: Any, *, entries: Entries, pile: Pile, limits: FoldLimits) -> int:
    """Write entries as chunks, without those that were taken back; give how many chunks."""
    void_batches, void_positions = await chunk_store.find_voids(raw, meter=pile.meter)
    voided = taken_back(
        batch=entries.batch,
        position=entries.position,
        void_batches=void_batches,
        void_positions=void_positions,
    )
    if len(voided):
        kept = np.ones(len(entries.customer), dtype=np.bool_)
        kept[voided] = False
        entries = chosen_entries(entries, np.flatnonzero(kept))
    if not len(entries.customer):
        return 0
    chunks = cut_into_chunks(entries, size=limits.chunk_events)
    return await chunk_store.insert_chunks(raw, pile=pile, chunks=chunks)


async def _merge_chunks(connection: AsyncConnection, limits: FoldLimits, done: Folded) -> bool:
    """Merge some chunks of a pile that is too deep; False when none is."""
    raw = await driver(connection)
    for pile in await chunk_store.crowded_piles(raw, chunks=limits.most_depth):
        ranges = await chunk_store.chunk_ranges(raw, pile=pile)
        if depth(ranges) < limits.most_depth:
            continue
        chosen = lowest(ranges, events=limits.most_events)
        meters: dict[int, Meter] = {meter.number: meter for meter in await load_meters(raw)}
        subjects = SubjectNumbers(connection=connection)
        reader = EntryReader(meter=meters[pile.meter], subjects=subjects)
        rows = await chunk_store.take_chunks(raw, chunks=chosen)
        entries = reader.named(joined_entries([await reader.read(row) for row in rows]))
        higher = msgspec.structs.replace(pile, level=pile.level + 1)
        done.written += await _write(raw, entries=entries, pile=higher, limits=limits)
        done.merged += len(chosen)
        return True
    return False
