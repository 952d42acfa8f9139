"""Columns go out as binary COPY and come back."""

import numpy as np
import pytest

from engine.columns import decode_copy, encode_copy, nulls


def test_what_is_encoded_is_decoded() -> None:
    columns = [np.array([1, -2, 2**62]), np.array([5, 6, 7])]
    found = decode_copy(encode_copy(columns), columns=2)
    assert [each.tolist() for each in found] == [each.tolist() for each in columns]
    assert [each.tolist() for each in decode_copy(encode_copy([columns[0][:0]]), columns=1)] == [[]]


@pytest.mark.parametrize(
    "content",
    [
        encode_copy([np.array([1, 2], dtype=np.int32)]),
        encode_copy([nulls(count=3)]),
        encode_copy([np.array([1])])[:-1],
        encode_copy([np.array([1], dtype=np.int32), np.array([1], dtype=np.int32)]),
        b"",
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        decode_copy(content, columns=1)
