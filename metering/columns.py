"""What a meter reads from a batch of events, as columns: customer, time, quantity, texts.

The columns are little-endian: customers and times int64, quantities int64 at a common number of
fractional digits, or 128-bit two's complement where one of them needs more (`wide`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.dimensions import MISSING, admitted, encode_combinations, text_of
from metering.formula import value_of, values_of
from metering.values import INT64_MAX, Quantities, parse_value, plain_integers
from plans.expression import is_property, parse_expression
from plans.model import Aggregation, Meter

_WIDE_BYTES: Final = 16


class MeterColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one batch that one meter measures, in their order.

    `unknown` is a JSON list of [position, subject] for subjects that were no customer yet; the
    customers column holds 0 there. A counting meter has no quantities. A meter that keeps
    dimensions has their distinct combinations in `groups` and each event's among them in `codes`;
    what is counted once is the last of them.
    """

    meter: int
    events: int
    first_micros: int
    last_micros: int
    digits: int
    wide: bool
    customers: bytes
    times: bytes
    quantities: bytes
    unknown: bytes
    groups: bytes = b""
    codes: bytes = b""


def has_values(meter: Meter) -> bool:
    """Whether the meter reads a value of each event, rather than that there was one."""
    return meter.aggregation not in {Aggregation.COUNT, Aggregation.UNIQUE_COUNT}


def kept_dimensions(meter: Meter) -> tuple[str, ...]:
    """The properties whose texts are kept beside each event: dimensions, and what is unique."""
    return meter.group_by if meter.unique_by is None else (*meter.group_by, meter.unique_by)


def measures(*, meter: Meter, data: Mapping[str, object]) -> bool:
    """Whether the meter finds in an event that passes its filters what it aggregates."""
    if meter.unique_by is not None:
        return text_of(data.get(meter.unique_by)) != MISSING
    if not has_values(meter):
        return True
    value = meter.value or ""
    if is_property(value):
        return parse_value(data.get(value)) is not None
    return value_of(expression=parse_expression(value), data=data) is not None


def _parsed(
    positions: Sequence[int], values: Sequence[object]
) -> list[tuple[int, tuple[int, int]]]:
    """The positions of plain decimals, with what they say."""
    return [
        (index, pair)
        for index, value in zip(positions, values, strict=True)
        if (pair := parse_value(value)) is not None
    ]


def _encode_quantities(parsed: Sequence[tuple[int, int]]) -> tuple[int, bool, bytes]:
    digits = max(fraction for _, fraction in parsed)
    mantissas = [mantissa * 10 ** (digits - fraction) for mantissa, fraction in parsed]
    if max(map(abs, mantissas)) <= INT64_MAX:
        return digits, False, np.array(mantissas, dtype="<i8").tobytes()
    packed = b"".join(each.to_bytes(_WIDE_BYTES, "little", signed=True) for each in mantissas)
    return digits, True, packed


def encode_integers(values: Quantities) -> tuple[bool, bytes]:
    """(wide, column) of integers at a common number of digits."""
    if values.dtype != object:
        return False, values.astype("<i8").tobytes()
    packed = [int(each).to_bytes(_WIDE_BYTES, "little", signed=True) for each in values.tolist()]
    return True, b"".join(packed)


def decode_quantities(*, quantities: bytes, wide: bool) -> Quantities:
    """The inverse of the encoding: int64, or Python ints (dtype object) of a wide column."""
    if not wide:
        return np.frombuffer(quantities, dtype="<i8").astype(np.int64, copy=False)
    words = np.frombuffer(quantities, dtype=[("low", "<u8"), ("high", "<i8")])
    return words["high"].astype(object) * 2**64 + words["low"].astype(object)


def _read(
    meter: Meter, datas: Sequence[Mapping[str, object]], positions: Sequence[int]
) -> tuple[Sequence[int], int, bool, bytes]:
    """(positions that have what the meter aggregates, digits, wide, quantities)."""
    if meter.unique_by is not None:
        name = meter.unique_by
        named = [at for at in positions if text_of(datas[at].get(name)) != MISSING]
        return named, 0, False, b""
    if not positions or not has_values(meter):
        return positions, 0, False, b""
    name = meter.value or ""
    if is_property(name):
        values = [datas[index].get(name) for index in positions]
        column, digits, pairs = plain_integers(values), 0, ()
        if column is None:
            parsed = _parsed(positions, values)
            positions, pairs = [index for index, _ in parsed], [pair for _, pair in parsed]
    else:
        expression = parse_expression(name)
        positions, column, pairs, digits = values_of(
            expression=expression, datas=datas, positions=positions
        )
    if column is not None:
        return positions, digits, False, column.astype("<i8").tobytes()
    if not pairs:
        return (), 0, False, b""
    return positions, *_encode_quantities(pairs)


def measure_columns(
    *,
    meter: Meter,
    types: Sequence[str],
    subjects: Sequence[str],
    datas: Sequence[Mapping[str, object]],
    customers: NDArray[np.int64],
    times: NDArray[np.int64],
) -> MeterColumns | None:
    """What `meter` measures of n events; None when it measures none of them.

    `customers` holds 0 where the subject is unknown; `times` are microseconds since 1970. An
    event without a value (missing, no plain decimal, divided by zero; for unique counts: without
    a text) is left out: it shows as `bad_value`. So is one that a filter refuses.
    """
    wanted = meter.event_type
    kinds = set(types)
    if wanted not in kinds:
        return None
    positions: Sequence[int] = range(len(types))
    if len(kinds) > 1:
        positions = [index for index, each in enumerate(types) if each == wanted]
    if meter.filters:
        positions = admitted(filters=meter.filters, datas=datas, positions=positions)
    positions, digits, wide, quantities = _read(meter, datas, positions)
    if not positions:
        return None
    chosen = np.array(positions, dtype=np.intp)
    found, at = customers[chosen], times[chosen]
    unknown = [(place, subjects[positions[place]]) for place in np.flatnonzero(found == 0).tolist()]
    groups, codes = b"", b""
    kept = kept_dimensions(meter)
    if kept:
        groups, codes = encode_combinations(names=kept, datas=datas, positions=positions)
    return MeterColumns(
        meter=meter.number,
        events=len(positions),
        first_micros=int(at.min()),
        last_micros=int(at.max()),
        digits=digits,
        wide=wide,
        customers=found.astype("<i8").tobytes(),
        times=at.astype("<i8").tobytes(),
        quantities=quantities,
        unknown=msgspec.json.encode(unknown) if unknown else b"",
        groups=groups,
        codes=codes,
    )
