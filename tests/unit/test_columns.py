"""Columns go out as binary COPY and come back."""

import struct

import numpy as np
import pytest

from engine.columns import Ragged, decode_copy, encode_copy, nulls, same, texts


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


def one_by_one(rows: list[list[bytes | None]]) -> bytes:
    """The same rows, each value by itself."""
    found = b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for row in rows:
        found += struct.pack(">h", len(row))
        for value in row:
            found += struct.pack(">i", -1) if value is None else struct.pack(">i", len(value))
            found += value or b""
    return found + b"\xff\xff"


WORDS: list[list[str | None]] = [
    [],
    [""],
    [None],
    ["a", "b"],
    ["", ""],
    ["one", None, "", "überlang"],
    ["ab", None],
    ["é", "ab"],  # as wide as each other, and not as long
    ["é", "é"],
    [None, None],
]


def test_values_as_wide_as_their_column_need_no_room() -> None:
    words = np.frombuffer(b"abcd", dtype=np.uint8).reshape(2, 2)
    lengths = np.array([2, 2], dtype=np.int32)
    columns = [Ragged(content=words, lengths=lengths), nulls(count=2), same("x", count=2)]
    assert encode_copy(columns) == one_by_one([[b"ab", None, b"x"], [b"cd", None, b"x"]])


@pytest.mark.parametrize("words", WORDS)
def test_rows_of_any_width_are_as_if_encoded_one_by_one(words: list[str | None]) -> None:
    count = len(words)
    numbers = np.arange(count, dtype=np.int32)
    columns = [
        texts(words),
        numbers,
        texts(words[::-1]),
        nulls(count=count),
        same("x", count=count),
    ]
    encoded = [None if word is None else word.encode() for word in words]
    rows = [
        [encoded[at], struct.pack(">i", at), encoded[count - 1 - at], None, b"x"]
        for at in range(count)
    ]
    assert encode_copy(columns) == one_by_one(rows)


def test_texts_as_wide_as_each_other_are_not_ragged() -> None:
    assert not isinstance(texts(["ab", "cd"]), Ragged)
    assert isinstance(texts(["ab", None]), Ragged)


def test_a_text_with_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        texts(["a", "b\0"])
