"""What a meter reads from a batch of events, as columns: customer, time, quantity.

The columns are little-endian: customers and times int64, quantities int64 at a common number of
fractional digits, or 128-bit two's complement where one of them needs more (`wide`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import DECIMAL_PATTERN
from metering.dimensions import admitted, encode_combinations
from plans.model import Aggregation, Meter

_PLAIN: Final = re.compile(DECIMAL_PATTERN, re.ASCII)
_LIMIT: Final = 10**18
_INT64_MAX: Final = 2**63 - 1
_WIDE_BYTES: Final = 16

Quantities = NDArray[np.int64] | NDArray[np.object_]


class MeterColumns(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one batch that one meter measures, in their order.

    `unknown` is a JSON list of [position, subject] for subjects that were no customer yet; the
    customers column holds 0 there. A counting meter has no quantities. A meter that keeps
    dimensions has their distinct combinations in `groups` and each event's among them in `codes`.
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


def parse_value(value: object) -> tuple[int, int] | None:
    """A measured property as (mantissa, fractional digits); None when it is no plain decimal.

    Numbers arrive as int, or as the text of what was no integer; decimal strings count too.
    """
    if type(value) is int:
        return (value, 0) if -_LIMIT < value < _LIMIT else None
    if type(value) is str and _PLAIN.match(value) is not None:
        whole, _, fraction = value.partition(".")
        fraction = fraction.rstrip("0")
        return int(whole + fraction), len(fraction)
    return None


def _plain_integers(values: Sequence[object]) -> NDArray[np.int64] | None:
    """The fast lane: all are integers within bounds."""
    if set(map(type, values)) != {int}:
        return None
    try:
        column = np.array(values, dtype=np.int64)
    except OverflowError:
        return None
    if int(column.max()) >= _LIMIT or int(column.min()) <= -_LIMIT:
        return None
    return column


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
    if max(map(abs, mantissas)) <= _INT64_MAX:
        return digits, False, np.array(mantissas, dtype="<i8").tobytes()
    packed = b"".join(each.to_bytes(_WIDE_BYTES, "little", signed=True) for each in mantissas)
    return digits, True, packed


def decode_quantities(*, quantities: bytes, wide: bool) -> Quantities:
    """The inverse of the encoding: int64, or Python ints (dtype object) of a wide column."""
    if not wide:
        return np.frombuffer(quantities, dtype="<i8").astype(np.int64, copy=False)
    words = np.frombuffer(quantities, dtype=[("low", "<u8"), ("high", "<i8")])
    return words["high"].astype(object) * 2**64 + words["low"].astype(object)


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
    event whose value is missing or no plain decimal is left out: it shows as `bad_value`. So is
    one that a filter refuses.
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
        if not positions:
            return None
    digits, wide, quantities = 0, False, b""
    if meter.aggregation is not Aggregation.COUNT:
        values = [datas[index].get(meter.value or "") for index in positions]
        plain = _plain_integers(values)
        if plain is not None:
            quantities = plain.astype("<i8").tobytes()
        else:
            parsed = _parsed(positions, values)
            if not parsed:
                return None
            positions = [index for index, _ in parsed]
            digits, wide, quantities = _encode_quantities([pair for _, pair in parsed])
    chosen = np.array(positions, dtype=np.intp)
    found, at = customers[chosen], times[chosen]
    unknown = [(place, subjects[positions[place]]) for place in np.flatnonzero(found == 0).tolist()]
    groups, codes = b"", b""
    if meter.group_by:
        groups, codes = encode_combinations(names=meter.group_by, datas=datas, positions=positions)
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
