"""Ids: a prefix and 26 characters of lower-case Crockford base32 (128 bits, time first).

Fresh ids are UUIDv7. Derived ids hold 48 bits of the instant in milliseconds, 64 bits of a hash of
what the document is, and a 16-bit ordinal: the document has ordinal 0, its parts 1, 2, …, so a
billing run that is killed and repeated writes the very same ids.
"""

import hashlib
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
BODY_LENGTH: Final = 26
ORDINAL_MAX: Final = 0xFFFF
_PAIRS: Final = tuple(first + second for first in ALPHABET for second in ALPHABET)
_PAIR_SHIFTS: Final = tuple(range(120, -1, -10))
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def encode_body(value: int) -> str:
    """26 characters for a 128-bit integer; the order of the texts is the order of the integers."""
    return "".join([_PAIRS[(value >> shift) & 1023] for shift in _PAIR_SHIFTS])


def unix_millis(at: datetime) -> int:
    """Whole milliseconds since 1970, exactly (no floating point)."""
    delta = at - _EPOCH
    return delta.days * 86_400_000 + delta.seconds * 1000 + delta.microseconds // 1000


def new_id(*, prefix: str, now: datetime) -> str:
    """A fresh id `prefix_…` from UUIDv7 bits: the instant, then 74 random bits."""
    random_bits = int.from_bytes(os.urandom(10), "big")
    upper = (unix_millis(now) << 16) | 0x7000 | (random_bits & 0xFFF)
    lower = (0b10 << 62) | ((random_bits >> 12) & ((1 << 62) - 1))
    return f"{prefix}_{encode_body((upper << 64) | lower)}"


def derived_body(*, at: datetime, parts: Sequence[str | int]) -> int:
    """The 128 bits of a document that is wholly determined by `parts`; ordinal 0."""
    hashed = int.from_bytes(_hashed(join_parts(parts)), "big")
    return (unix_millis(at) << 80) | (hashed << 16)


def derived_bodies(
    *, millis: Sequence[bytes], before: bytes, names: Sequence[str], after: Sequence[bytes]
) -> bytes:
    """The same of n documents, 16 bytes each, of which only little differs.

    `millis` are six bytes of each instant. A document's parts are `before` and `after`, joined,
    with its name between them.
    """
    return b"".join(
        [
            at + _hashed(before + _framed(name.encode()) + rest) + b"\0\0"
            for at, name, rest in zip(millis, names, after, strict=True)
        ]
    )


def join_parts(parts: Sequence[str | int]) -> bytes:
    """Parts with their lengths, so that no two lists of parts read alike."""
    return b"".join([_framed(str(part).encode()) for part in parts])


def _framed(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def _hashed(joined: bytes) -> bytes:
    return hashlib.blake2b(joined, digest_size=8).digest()


def derived_id(*, prefix: str, body: int, ordinal: int = 0) -> str:
    """The text of a derived document (ordinal 0) or of its part (ordinal ≥ 1)."""
    if not 0 <= ordinal <= ORDINAL_MAX:
        message = f"ordinal {ordinal} is outside 0..{ORDINAL_MAX}"
        raise ValueError(message)
    return f"{prefix}_{encode_body(body | ordinal)}"


class DerivedIds:
    """`derived_id` for a document and its parts, which share all but their last characters."""

    def __init__(self, *, body: int) -> None:
        """`body` is the document's, from `derived_body`."""
        self._begin = encode_body(body)[:-4]
        self._end = body & 0xFFFFF  # four characters: 4 bits of the document, 16 of the ordinal

    def find(self, prefix: str, ordinal: int = 0) -> str:
        """The id of the document itself (ordinal 0), or of what it counts as `ordinal`."""
        assert 0 <= ordinal <= ORDINAL_MAX, "documents of more parts are refused"
        last = self._end + ordinal
        return f"{prefix}_{self._begin}{_PAIRS[last >> 10]}{_PAIRS[last & 1023]}"


def unix_micros(at: datetime) -> int:
    """Whole microseconds since 1970, exactly."""
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds
