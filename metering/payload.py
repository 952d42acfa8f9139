"""The payload of a batch: its events as one JSON array, and where in it each of them ends."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import numpy as np

_encoder: Final = msgspec.json.Encoder()
_NEWLINE: Final = ord("\n")
_COMMA: Final = ord(",")


class Payload(msgspec.Struct, frozen=True):
    """n events as JSON; `ends` has n 32-bit little-endian integers, the places after each event."""

    text: bytes
    ends: bytes


def encode_payload(events: Sequence[Any]) -> Payload:
    """The payload of events whose time is set."""
    lines = bytearray(_encoder.encode_lines(events))
    ends = np.flatnonzero(np.frombuffer(lines, dtype=np.uint8) == _NEWLINE)
    if len(ends) != len(events):  # what a sender wrote may hold line ends of its own
        items = [_encoder.encode(each) for each in events]
        lines = bytearray(b"\n".join(items) + b"\n")
        ends = np.cumsum([len(each) + 1 for each in items]) - 1
    np.frombuffer(lines, dtype=np.uint8)[ends] = _COMMA
    return Payload(b"[" + lines[:-1] + b"]", (ends + 1).astype("<i4").tobytes())


def slice_of(ends: bytes, *, ordinal: int) -> tuple[int, int]:
    """(start, length) of an event in its payload.

    `ends` are the bytes of the ends of the event before it, if there is one, and of its own.
    """
    places = np.frombuffer(ends, dtype="<i4").tolist()
    start = places[0] + 1 if ordinal else 1
    return start, places[-1] - start
