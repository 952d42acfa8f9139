"""Who an event is: its key, the digest of its payload, and when a repeat is the same event.

Identity is (source, id) for ever; the time is no part of it. An id that is a canonical lower-case
UUID keeps its own 128 bits, any other text is hashed to as many. The two forms live in streams of
their own, so that they cannot meet.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import IntEnum
from hashlib import blake2b
from typing import Final, cast
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.model import EventIn, StoredEvent

_UUID_LENGTH: Final = 36
_DASHES: Final = (8, 13, 18, 23)
_HYPHENS: Final = np.array(_DASHES)
_HEX: Final = np.array([each for each in range(_UUID_LENGTH) if each not in _DASHES])
_NIBBLES: Final = np.full(256, 255, dtype=np.uint8)
_NIBBLES[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)
_exact: Final = msgspec.json.Decoder(float_hook=Decimal)


class Verdict(IntEnum):
    """What becomes of one event of a group; those up to KEPT count as accepted."""

    NEW = 0
    KEPT = 1
    DUPLICATE = 2
    CONFLICT = 3
    TOO_OLD = 4
    TOO_FAR_AHEAD = 5
    UNSURE = 6
    BACKFILL_NOT_OPEN = 7


class StoredKey(msgspec.Struct, frozen=True, gc=False):
    """Where the event that took a key is stored."""

    batch: int
    ordinal: int


def _uuid_words(ids: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """(is canonical, two words) of n texts of 36 characters."""
    raw = "".join(ids).encode("ascii", "replace")
    dashes = b"-" * len(ids)
    if raw.count(b"-") == len(ids) * len(_DASHES) and all(
        raw[at::_UUID_LENGTH] == dashes for at in _DASHES
    ):
        with suppress(ValueError):
            packed = bytes.fromhex(raw.replace(b"-", b"").decode("ascii"))
            if len(packed) == 16 * len(ids) and raw == raw.lower():  # fromhex steps over spaces
                words = np.frombuffer(packed, dtype=">u8").reshape(len(ids), 2)
                return np.ones(len(ids), dtype=np.bool_), words.astype(np.uint64)
    matrix = np.frombuffer(raw, dtype=np.uint8).reshape(len(ids), _UUID_LENGTH)
    nibbles = _NIBBLES[matrix[:, _HEX]]
    valid = (matrix[:, _HYPHENS] == ord("-")).all(axis=1) & (nibbles < 16).all(axis=1)
    packed = (nibbles[:, 0::2] << 4) | (nibbles[:, 1::2] & 15)
    return valid, np.ascontiguousarray(packed).view(">u8").astype(np.uint64)


def event_keys(ids: Sequence[str]) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """(is a UUID, key as two 64-bit words) of n ids: shapes (n,) and (n, 2)."""
    if ids and set(map(len, ids)) == {_UUID_LENGTH}:
        is_uuid, words = _uuid_words(ids)
        if is_uuid.all():
            return is_uuid, words
    is_uuid = np.zeros(len(ids), dtype=np.bool_)
    words = np.zeros((len(ids), 2), dtype=np.uint64)
    likely = [index for index, each in enumerate(ids) if len(each) == _UUID_LENGTH]
    if likely:
        valid, found = _uuid_words([ids[index] for index in likely])
        chosen = np.array(likely, dtype=np.intp)
        is_uuid[chosen], words[chosen] = valid, found
    others = np.flatnonzero(~is_uuid)
    if len(others):
        hashed = b"".join(
            [blake2b(ids[index].encode(), digest_size=16).digest() for index in others.tolist()]
        )
        words[others] = np.frombuffer(hashed, dtype=">u8").reshape(len(others), 2)
    return is_uuid, words


def event_key(event_id: str) -> tuple[bool, UUID]:
    """(is a UUID, key) of one id."""
    is_uuid, words = event_keys([event_id])
    return bool(is_uuid[0]), UUID(bytes=words[0].astype(">u8").tobytes())


def amendment_key(event_id: str, *, revision: int) -> UUID:
    """The key of the nth amendment of an id, in the stream of its source's amendments."""
    told = f"{revision} {event_id}".encode()
    return UUID(bytes=blake2b(told, digest_size=16).digest())


def _same_json(one: object, other: object) -> bool:
    """Equal as canonical JSON: numbers by value, objects whatever the order of their keys."""
    pending = [(one, other)]
    while pending:
        left, right = pending.pop()
        if isinstance(left, bool) or isinstance(right, bool):
            if left is not right:
                return False
        elif isinstance(left, dict) and isinstance(right, dict):
            first = cast("dict[str, object]", left)
            second = cast("dict[str, object]", right)
            if first.keys() != second.keys():
                return False
            pending.extend((value, second[key]) for key, value in first.items())
        elif isinstance(left, list) and isinstance(right, list):
            items, others = cast("list[object]", left), cast("list[object]", right)
            if len(items) != len(others):
                return False
            pending.extend(zip(items, others, strict=True))
        elif left != right:
            return False
    return True


def same_payload(one: EventIn | StoredEvent, other: EventIn | StoredEvent) -> bool:
    """Whether two events say the same: type, subject and data, the time left aside."""
    if one.type != other.type or one.subject != other.subject:
        return False
    if one.data == other.data:
        return True
    return _same_json(_exact.decode(one.data), _exact.decode(other.data))


class Settled(msgspec.Struct, frozen=True):
    """The verdicts of a group; `unsure` names the events to be compared in full.

    Each unsure entry is (place, place of the event that came first), or for a stored one
    (place, (batch, ordinal)).
    """

    verdicts: NDArray[np.int8]
    unsure: list[tuple[int, int | tuple[int, int]]]


def suspects_of(
    *, order: NDArray[np.intp], same_as_before: NDArray[np.bool_], outside: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The events of n that need a look: those whose key repeats, or whose time is outside.

    `order` sorts the group by key; `same_as_before[i]` says that order[i] repeats order[i - 1].
    """
    repeated = same_as_before.copy()
    repeated[:-1] |= same_as_before[1:]
    suspect = outside.copy()
    suspect[order[repeated]] = True
    first_of_run = np.maximum.accumulate(np.where(same_as_before, 0, np.arange(len(order))))
    runs = np.unique(first_of_run[suspect[order]])
    suspect[order[np.isin(first_of_run, runs)]] = True
    return suspect


def settle(
    *,
    order: Sequence[int],
    same_as_before: Sequence[bool],
    outside: NDArray[np.int8],
    stored: Mapping[int, StoredKey],
    own_batch: int,
) -> Settled:
    """First come, first kept: the verdict of every event of a group that is under suspicion.

    `order` holds the suspects sorted by key and place; `outside` the verdict of each event's time
    (NEW when it is inside), which counts only while the key is free; `stored` what the database
    holds, by place. A key stored by `own_batch` was ours before the answer of a commit was lost.
    """
    verdicts = np.zeros(len(outside), dtype=np.int8)
    unsure: list[tuple[int, int | tuple[int, int]]] = []
    first: int | None = None
    kept: StoredKey | None = None
    for place, repeats in zip(order, same_as_before, strict=True):
        if not repeats:
            first, kept = None, stored.get(place)
        ours = kept is not None and kept.batch == own_batch
        if first is None and (kept is None or ours):
            if outside[place] != Verdict.NEW:
                verdicts[place] = outside[place]
            else:
                first = place
                verdicts[place] = Verdict.KEPT if ours else Verdict.NEW
            continue
        verdicts[place] = Verdict.UNSURE
        if first is not None:
            unsure.append((place, first))
        elif kept is not None:
            unsure.append((place, (kept.batch, kept.ordinal)))
    return Settled(verdicts, unsure)
