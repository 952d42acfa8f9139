"""What an event is, beside who, when and how much: properties read as text.

Filters let events pass by such texts; dimensions keep usage apart by them. A combination is the
tuple of an event's texts in the order of the meter's `group_by`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from plans.model import MeterFilter

MISSING: Final = ""
_combinations: Final = msgspec.json.Decoder(list[tuple[str, ...]])


def text_of(value: object) -> str:
    """A property as exact text: a number as it came, a boolean as JSON writes it.

    What is missing, null, a list or an object is the empty text.
    """
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    return str(value) if type(value) is int else MISSING


def passes(*, filters: Sequence[MeterFilter], data: Mapping[str, object]) -> bool:
    """Whether an event with this data passes all the filters."""
    return all(text_of(data.get(each.property)) in each.one_of for each in filters)


def admitted(
    *,
    filters: Sequence[MeterFilter],
    datas: Sequence[Mapping[str, object]],
    positions: Sequence[int],
) -> Sequence[int]:
    """Those of `positions` whose data passes all the filters."""
    for each in filters:
        name, wanted = each.property, frozenset(each.one_of)
        positions = [at for at in positions if text_of(datas[at].get(name)) in wanted]
    return positions


def _texts(values: Sequence[object]) -> Sequence[object]:
    """Each value's text; a column of nothing but strings is that already."""
    return values if set(map(type, values)) == {str} else list(map(text_of, values))


def encode_combinations(
    *,
    names: Sequence[str],
    datas: Sequence[Mapping[str, object]],
    positions: Sequence[int],
) -> tuple[bytes, bytes]:
    """(distinct combinations as JSON, their index for each position as little-endian int32)."""
    return encode_columns([_texts([datas[at].get(name) for at in positions]) for name in names])


def encode_columns(columns: Sequence[Sequence[object]]) -> tuple[bytes, bytes]:
    """The same of a column of texts for each dimension."""
    found: dict[tuple[object, ...], int] = {}
    codes = [found.setdefault(each, len(found)) for each in zip(*columns, strict=True)]
    return msgspec.json.encode(list(found)), np.array(codes, dtype="<i4").tobytes()


class Combinations:
    """Numbers the combinations of `wanted` out of the dimensions `kept`, as batches bring them."""

    def __init__(self, *, kept: Sequence[str], wanted: Sequence[str]) -> None:
        """`wanted` is a choice of `kept`, in any order."""
        self._chosen = [kept.index(name) for name in wanted]
        self._numbers: dict[tuple[str, ...], int] = {}

    def number(self, *, groups: bytes, codes: bytes, events: int) -> NDArray[np.int64]:
        """The number of the combination of each of a batch's events."""
        if not self._chosen:
            self._numbers.setdefault((), 0)
            return np.zeros(events, dtype=np.int64)
        table = np.array(
            [
                self._numbers.setdefault(
                    tuple([each[place] for place in self._chosen]), len(self._numbers)
                )
                for each in _combinations.decode(groups)
            ],
            dtype=np.int64,
        )
        return table[np.frombuffer(codes, dtype="<i4")]

    def texts(self) -> list[tuple[str, ...]]:
        """The combinations met so far, by number."""
        return list(self._numbers)
