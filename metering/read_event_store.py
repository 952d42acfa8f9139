"""Verb: read from a store outside PostgreSQL what a meter counts, as the blocks measuring takes.

The store filters and tells each identity once; which batches count, and what of them was taken
back, is what PostgreSQL said in one look, before.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import driver
from metering.aggregation import Block, scale_up, tighten
from metering.chunks import taken_back
from metering.columns import has_values, kept_dimensions
from metering.dimensions import Combinations, encode_columns
from metering.event_stores import EventStore, Page, Question
from metering.formula import values_of
from metering.intake import micros_of
from metering.store import SubjectNumbers, seller_of
from metering.values import Quantities, parse_value
from plans.expression import is_property, parse_expression, properties_of
from plans.model import LateUsage, Meter

_ORDINAL_BITS: Final = 16
"""A batch and an ordinal in it make the one number by which `latest` breaks ties."""
_Ints = NDArray[np.int64]


class Commits(msgspec.Struct, kw_only=True):
    """The batches that count, with when each came and which of its ordinals were taken back."""

    received: dict[int, int] = msgspec.field(default_factory=dict)
    voids: list[tuple[int, int]] = msgspec.field(default_factory=list)

    def add(self, row: Any) -> None:
        """One more of them: a row with `batch`, `received_at` and the ordinals `voided`."""
        self.received[row["batch"]] = micros_of(row["received_at"])
        self.voids.extend((row["batch"], ordinal) for ordinal in row["voided"])


class _Columns(msgspec.Struct, frozen=True, kw_only=True):
    """What of a page counts: the positions, and what the meter makes of them."""

    positions: _Ints
    quantity: Quantities | None
    digits: int


async def read_blocks(
    *,
    store: EventStore,
    connection: AsyncConnection,
    meter: Meter,
    span: tuple[int, int],
    customers: tuple[int, int],
    commits: Commits,
    subjects: SubjectNumbers,
    combinations: Combinations | None,
    members: Combinations | None,
) -> AsyncGenerator[Block, None]:
    """The events of a meter in the span of microseconds that belong to the commits."""
    seller = await seller_of(await driver(connection))
    kept = kept_dimensions(meter) if combinations is not None or members is not None else ()
    value = meter.value if has_values(meter) else None
    bare = value is not None and is_property(value)
    inputs: tuple[str, ...] = ()
    if value is not None and not bare:
        inputs = tuple(sorted(properties_of(parse_expression(value))))
    question = Question(
        event_type=meter.event_type,
        start_micros=span[0],
        end_micros=span[1],
        customers=customers,
        filters=meter.filters,
        value=value if bare else None,
        present=meter.unique_by,
        properties=(*kept, *inputs),
    )
    batches = np.array(sorted(commits.received), dtype=np.int64)
    came = np.array([commits.received[each] for each in batches.tolist()], dtype=np.int64)
    async with aclosing(store.read(seller=seller, question=question)) as pages:
        async for page in pages:
            place = _counted(page, batches=batches, voids=sorted(commits.voids))
            columns = _columns(page, place=place, value=value, bare=bare, inputs=inputs)
            chosen = columns.positions
            if not len(chosen):
                continue
            at = chosen.tolist()
            batch = page.batches[chosen]
            groups, codes = b"", b""
            if kept:
                texts = [[column[each] for each in at] for column in page.texts[: len(kept)]]
                groups, codes = encode_columns(texts)
            late = meter.late_usage is LateUsage.IGNORE
            yield Block(
                customer=await _customers(page, chosen, subjects),
                time_micros=page.times[chosen],
                batch=(batch << _ORDINAL_BITS) | page.ordinals[chosen],
                quantity=columns.quantity,
                digits=columns.digits,
                combination=_numbered(combinations, groups, codes, len(at)),
                member=_numbered(members, groups, codes, len(at)),
                received_micros=came[np.searchsorted(batches, batch)] if late else None,
            )


def _numbered(
    combinations: Combinations | None, groups: bytes, codes: bytes, events: int
) -> _Ints | None:
    if combinations is None:
        return None
    return combinations.number(groups=groups, codes=codes, events=events)


def _counted(page: Page, *, batches: _Ints, voids: Sequence[tuple[int, int]]) -> _Ints:
    """The places of the events that belong to a commit and were not taken back."""
    near = np.minimum(np.searchsorted(batches, page.batches), len(batches) - 1)
    counts = batches[near] == page.batches
    voided = taken_back(
        batch=page.batches,
        position=page.ordinals,
        void_batches=[batch for batch, _ in voids],
        void_positions=[ordinal for _, ordinal in voids],
    )
    counts[voided] = False
    return np.flatnonzero(counts)


def _columns(
    page: Page, *, place: _Ints, value: str | None, bare: bool, inputs: Sequence[str]
) -> _Columns:
    """What the meter reads at these places; events without a value of an expression are left."""
    if value is None:
        return _Columns(positions=place, quantity=None, digits=0)
    if bare:
        quantity, digits = _decimals(page, place)
        return _Columns(positions=place, quantity=quantity, digits=digits)
    texts = page.texts[len(page.texts) - len(inputs) :]
    chosen = [[column[at] for at in place.tolist()] for column in texts]
    datas: list[Mapping[str, object]] = [
        dict(zip(inputs, each, strict=True)) for each in zip(*chosen, strict=True)
    ]
    if not inputs:
        datas = [{}] * len(place)
    positions, column, pairs, digits = values_of(
        expression=parse_expression(value), datas=datas, positions=range(len(datas))
    )
    if column is None:
        digits = max((each for _, each in pairs), default=0)
        found = [mantissa * 10 ** (digits - each) for mantissa, each in pairs]
        column = tighten(np.array(found, dtype=object))
    return _Columns(
        positions=place[np.array(positions, dtype=np.intp)], quantity=column, digits=digits
    )


def _decimals(page: Page, place: _Ints) -> tuple[Quantities, int]:
    """The plain decimals at these places at a common number of digits."""
    mantissas, digits = page.mantissas[place], page.digits[place].copy()
    wide = {
        index: pair
        for index, at in enumerate(place.tolist())
        if page.wide[at] and (pair := parse_value(page.wide[at])) is not None
    }
    for index, (_, fraction) in wide.items():
        digits[index] = fraction
    most = int(digits.max(initial=0))
    column: Quantities = np.zeros(len(place), dtype=np.int64)
    for fraction in np.unique(digits).tolist():
        mine = digits == fraction
        scaled = scale_up(mantissas[mine], power=most - fraction)
        if scaled.dtype == object and column.dtype != object:
            column = column.astype(object)
        column[mine] = scaled
    if wide:
        column = column.astype(object)
        for index, (mantissa, fraction) in wide.items():
            column[index] = mantissa * 10 ** (most - fraction)
    return tighten(column), most


async def _customers(page: Page, chosen: _Ints, subjects: SubjectNumbers) -> _Ints:
    """The customers at these places, today's numbers filled in."""
    customers = page.customers[chosen]
    unknown = np.flatnonzero(customers == 0)
    if len(unknown):
        names = [str(page.strangers[each]) for each in chosen[unknown].tolist()]
        numbers = await subjects.find(names)
        customers[unknown] = [numbers[each] for each in names]
    return customers
