"""Columns as PostgreSQL's binary COPY format, without a loop over rows."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

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
    of one width are uint8 of shape (n, width). Rows keep their order: those whose values are as
    wide are encoded together, and put back into their places.
    """
    ragged = [column.lengths for column in columns if isinstance(column, Ragged)]
    if not ragged:
        return _HEADER + _encode_alike(columns, ()).tobytes() + _TRAILER
    widths = np.stack(ragged, axis=1)
    kinds, kind = np.unique(widths, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    if len(kinds) == 1:
        return _HEADER + _encode_alike(columns, kinds[0].tolist()).tobytes() + _TRAILER
    rows = np.empty(len(kind), dtype=np.object_)
    for number, lengths in enumerate(kinds.tolist()):
        chosen = np.flatnonzero(kind == number)
        encoded = _encode_alike([_taken(column, chosen) for column in columns], lengths)
        rows[chosen] = encoded.view(f"V{encoded.itemsize}").tolist()
    return b"".join([_HEADER, *rows.tolist(), _TRAILER])


def _taken(column: Column, chosen: NDArray[np.intp]) -> Column:
    if isinstance(column, Ragged):
        return Ragged(content=column.content[chosen], lengths=column.lengths[chosen])
    return column[chosen]


def _encode_alike(columns: Sequence[Column], lengths: Sequence[int]) -> NDArray[np.void]:
    """Rows that all have the same widths; `lengths` are those of the ragged columns."""
    left = iter(lengths)
    fields: list[tuple[str, Any]] = [("count", ">i2")]
    values: list[tuple[int, NDArray[Any] | None]] = []
    for number, column in enumerate(columns):
        fields.append((f"length{number}", ">i4"))
        value: NDArray[Any] | None
        if isinstance(column, Ragged):
            width = next(left)
            value = column.content[:, :width] if width > 0 else None
        else:
            width, value = column.itemsize * int(np.prod(column.shape[1:])), column
        if value is not None:
            kind = value.dtype.newbyteorder(">")
            fields.append((f"value{number}", (kind, value.shape[1:])))
        values.append((width, value))
    first = columns[0]
    count = len(first.lengths if isinstance(first, Ragged) else first)
    rows = np.empty(count, dtype=fields)
    rows["count"] = len(columns)
    for number, (width, value) in enumerate(values):
        rows[f"length{number}"] = width
        if value is not None:
            rows[f"value{number}"] = value
    return rows


def same(value: str, *, count: int) -> _Bytes:
    """One text for each of so many rows."""
    encoded = np.frombuffer(value.encode(), dtype=np.uint8)
    return np.broadcast_to(encoded, (count, len(encoded)))


def texts(values: Sequence[str | None]) -> Column:
    """Texts, or none, as a column: of one width where all are as wide, else ragged."""
    encoded = [b"" if value is None else value.encode() for value in values]
    if b"\0" in b"".join(encoded):
        message = "a text with NUL cannot be stored"
        raise ValueError(message)
    packed = np.array(encoded, dtype=np.bytes_)
    content = packed.view(np.uint8).reshape(len(encoded), packed.itemsize)
    lengths = np.array(
        [
            _NULL if value is None else len(text)
            for value, text in zip(values, encoded, strict=True)
        ],
        dtype=np.int32,
    )
    if len(lengths) and int(lengths.min()) == int(lengths.max()) == packed.itemsize:
        return content
    return Ragged(content=content, lengths=lengths)


def nulls(*, count: int) -> Ragged:
    """No value in any of so many rows."""
    return Ragged(
        content=np.empty((count, 0), dtype=np.uint8),
        lengths=np.full(count, _NULL, dtype=np.int32),
    )


def numerics(nanos: _Ints) -> Ragged:
    """Numbers of nine decimals, given in 10^-9 units, as values of type numeric."""
    count = len(nanos)
    whole, fraction = np.divmod(np.abs(nanos), 10**9)
    digits = np.empty((count, 6), dtype=np.int64)  # to the base 10,000: three of each half
    fraction = fraction * 1_000
    for place in (2, 1, 0):
        whole, digits[:, place] = np.divmod(whole, 10_000)
        fraction, digits[:, 3 + place] = np.divmod(fraction, 10_000)
    used = digits != 0
    some = used.any(axis=1)
    begin = np.where(some, used.argmax(axis=1), 0)
    end = np.where(some, 6 - used[:, ::-1].argmax(axis=1), 0)
    content = np.zeros((count, 10), dtype=">i2")
    content[:, 0] = end - begin
    content[:, 1] = np.where(some, 2 - begin, 0)
    content[:, 2] = np.where(nanos < 0, 0x4000, 0)
    content[:, 3] = 9
    places = np.minimum(begin[:, None] + np.arange(6), 5)
    content[:, 4:] = np.take_along_axis(digits, places, axis=1)
    lengths = (8 + 2 * (end - begin)).astype(np.int32)
    return Ragged(content=content.view(np.uint8).reshape(count, 20), lengths=lengths)


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
