"""Columns of numbers as PostgreSQL's binary COPY format, without a loop over rows."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"


def encode_copy(columns: Sequence[NDArray[Any]]) -> bytes:
    """n rows of fixed-width columns without nulls, ready for `copy_to_table(format="binary")`.

    A column has shape (n,), or (n, k) for values of k words such as a UUID of two 64-bit words.
    Its dtype is the width of the type in the table: int16, int32, int64, uint64.
    """
    fields: list[tuple[str, Any]] = [("count", ">i2")]
    for number, column in enumerate(columns):
        kind = column.dtype.newbyteorder(">")
        fields.append((f"length{number}", ">i4"))
        fields.append((f"value{number}", (kind, column.shape[1:])))
    rows = np.empty(len(columns[0]), dtype=fields)
    rows["count"] = len(columns)
    for number, column in enumerate(columns):
        rows[f"length{number}"] = column.itemsize * int(np.prod(column.shape[1:], dtype=np.int64))
        rows[f"value{number}"] = column
    return _HEADER + rows.tobytes() + _TRAILER
