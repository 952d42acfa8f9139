"""Columns as PostgreSQL's binary COPY format, without a loop over rows."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.ids import unix_micros

SINCE: Final = unix_micros(datetime(2000, 1, 1, tzinfo=UTC))
"""From when on PostgreSQL counts the microseconds of an instant."""
_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = -1
_Bytes = NDArray[np.uint8]
_Ints = NDArray[np.int64]


class Ragged(msgspec.Struct, frozen=True, kw_only=True):
    """n values of different widths: value i is the first lengths[i] of content[i]; -1 is null."""

    content: _Bytes
    lengths: NDArray[np.int32]


Column = NDArray[Any] | Ragged
"""Shape (n,) of a number, or (n, k) of a value of k words, of the width of the table's type."""


def encode_copy(columns: Sequence[Column]) -> bytes:
    """n rows of columns, ready for `copy_to_table(format="binary")`.

    The dtype of an array is the width of the type in the table: int16, int32, int64, uint64; texts
    of one width are uint8 of shape (n, width). Every row is laid out as wide as the widest could
    be; then what lies beyond the values is left out.
    """
    fields: list[tuple[Any, ...]] = [("count", ">i2")]
    for number, column in enumerate(columns):
        value = column.content if isinstance(column, Ragged) else column
        kind = value.dtype.newbyteorder(">")
        fields += [(f"length{number}", ">i4"), (f"value{number}", kind, value.shape[1:])]
    first = columns[0]
    rows = np.empty(len(first.lengths if isinstance(first, Ragged) else first), dtype=fields)
    rows["count"] = len(columns)
    kept = None
    for number, column in enumerate(columns):
        if not isinstance(column, Ragged):
            rows[f"length{number}"] = rows.dtype[f"value{number}"].itemsize
            rows[f"value{number}"] = column
            continue
        rows[f"length{number}"] = column.lengths
        rows[f"value{number}"] = column.content
        width = column.content.shape[1]
        if bool((np.maximum(column.lengths, 0) == width).all()):
            continue
        if kept is None:
            kept = np.ones((len(rows), rows.itemsize), dtype=np.bool_)
        begin = sum(rows.dtype[place].itemsize for place in range(2 * number + 2))
        kept[:, begin : begin + width] = np.arange(width) < column.lengths[:, None]
    body = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
    return b"".join([_HEADER, (body if kept is None else body[kept]).data, _TRAILER])


def same(value: str, *, count: int) -> _Bytes:
    """One text for each of so many rows."""
    encoded = np.frombuffer(value.encode(), dtype=np.uint8)
    return np.broadcast_to(encoded, (count, len(encoded)))


def texts(values: Sequence[str | None]) -> Column:
    """Texts, or none, as a column: of one width where all are as wide, else ragged."""
    known = ["" if value is None else value for value in values]
    joined = np.frombuffer("".join(known).encode(), dtype=np.uint8)
    if not joined.all():
        message = "a text with NUL cannot be stored"
        raise ValueError(message)
    lengths = np.fromiter(map(len, known), dtype=np.int32, count=len(known))
    if int(lengths.sum()) < len(joined):  # some characters take more than a byte
        lengths = np.array([len(each.encode()) for each in known], dtype=np.int32)
    width = int(lengths.max(initial=0))
    if width * len(known) == len(joined) and width:
        return joined.reshape(len(known), width)
    content = np.zeros((len(known), width), dtype=np.uint8)
    content[np.arange(width) < lengths[:, None]] = joined
    lengths[[value is None for value in values]] = _NULL
    return Ragged(content=content, lengths=lengths)


def nulls(*, count: int) -> Ragged:
    """No value in any of so many rows."""
    return Ragged(
        content=np.empty((count, 0), dtype=np.uint8),
        lengths=np.full(count, _NULL, dtype=np.int32),
    )


def numerics(nanos: _Ints) -> NDArray[np.int16]:
    """Numbers of nine decimals, given in 10^-9 units, as values of type numeric.

    All of one width: PostgreSQL takes zeros off at either end when it stores them. -2^63
    cannot be given.
    """
    found = np.empty((len(nanos), 10), dtype=np.int16)
    found[:, :4] = [6, 2, 0, 9]  # digits to the base 10,000, the power of the first; sign, decimals
    found[nanos < 0, 2] = 0x4000
    whole, fraction = np.divmod(np.abs(nanos), 10**9)
    fraction *= 1_000
    for place in (6, 5, 4):
        whole, found[:, place] = np.divmod(whole, 10_000)
        fraction, found[:, 3 + place] = np.divmod(fraction, 10_000)
    return found


def decode_words(content: bytes | None, *, columns: int) -> list[_Ints]:
    """Columns of 64 bits, out of what `int8send` and `timestamptz_send` gave, row after row.

    None is no row. Timestamps come as microseconds since 2000.
    """
    words = np.frombuffer(content or b"", dtype=">i8").reshape(-1, columns).astype(np.int64)
    return list(words.T)


def decode_copy(content: bytes, *, columns: int) -> list[_Ints]:
    """Columns of 64 bits without nulls, out of binary COPY.

    Timestamps come as microseconds since 2000. Errors: ValueError for rows of any other shape.
    """
    fields = [("count", ">i2")]
    for number in range(columns):
        fields += [(f"length{number}", ">i4"), (f"value{number}", ">i8")]
    kind = np.dtype(fields)
    body = len(content) - len(_HEADER) - len(_TRAILER)
    if body < 0 or body % kind.itemsize or not content.endswith(_TRAILER):
        raise ValueError("these are no rows of columns of 64 bits")
    rows = np.frombuffer(content, dtype=kind, offset=len(_HEADER), count=body // kind.itemsize)
    for number in range(columns):
        if not bool((rows[f"length{number}"] == rows.dtype[f"value{number}"].itemsize).all()):
            raise ValueError("a column is null, or not of 64 bits")
    return [rows[f"value{number}"].astype(np.int64) for number in range(columns)]
