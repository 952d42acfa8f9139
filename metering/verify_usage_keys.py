"""Who events are, as they say it, against the identities that are kept of them. Pure.

Each event gives one number of 64 bits, mixed by PostgreSQL's own function out of its key, its
stream and its place. What is compared is the exclusive-or of these, range by range of batches.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from metering.identity import amendment_key, event_keys
from metering.intake import times_of
from metering.raw_store import RawPage
from metering.store import at_micros

RANGES: Final = 65_536
FORMS: Final = ("uuid", "text", "amendment")
_KEY_BYTES: Final = 16
_START: Final = np.uint32((0x9E3779B9 + _KEY_BYTES + 3_923_095) & 0xFFFFFFFF)
_FACTOR: Final = np.uint64(0x9E3779B97F4A7C15)
_WHOLE: Final = np.uint64(32)
_COMMA, _OPEN, _CLOSE, _END = (np.uint8(ord(each)) for each in ",{}]")
_Ints = NDArray[np.int64]
_Words = NDArray[np.uint64]
_Halves = NDArray[np.uint32]


def _turned(word: _Halves, bits: int) -> _Halves:
    return (word << np.uint32(bits)) | (word >> np.uint32(32 - bits))


def uuid_hashes(*, words: _Words, seed: _Words) -> _Words:
    """PostgreSQL's `uuid_hash_extended` of n keys (two words each), none of the seeds zero.

    As a server of little-endian byte order computes it.
    """
    key = words.astype(">u8").view("<u4").astype(np.uint32).reshape(len(words), 4)
    a = _START + (seed >> _WHOLE).astype(np.uint32)
    b = _START + seed.astype(np.uint32)
    c = np.full(len(words), _START, dtype=np.uint32)
    a, b, c = _mixed(a, b, c)
    a, b, c = _mixed(a + key[:, 0], b + key[:, 1], c + key[:, 2])
    a = a + key[:, 3]
    c = (c ^ b) - _turned(b, 14)
    a = (a ^ c) - _turned(c, 11)
    b = (b ^ a) - _turned(a, 25)
    c = (c ^ b) - _turned(b, 16)
    a = (a ^ c) - _turned(c, 4)
    b = (b ^ a) - _turned(a, 14)
    c = (c ^ b) - _turned(b, 24)
    return (b.astype(np.uint64) << _WHOLE) | c.astype(np.uint64)


def _mixed(a: _Halves, b: _Halves, c: _Halves) -> tuple[_Halves, _Halves, _Halves]:
    a = (a - c) ^ _turned(c, 4)
    c = c + b
    b = (b - a) ^ _turned(a, 6)
    a = a + c
    c = (c - b) ^ _turned(b, 8)
    b = b + a
    a = (a - c) ^ _turned(c, 16)
    c = c + b
    b = (b - a) ^ _turned(a, 19)
    a = a + c
    c = (c - b) ^ _turned(b, 4)
    b = b + a
    return a, b, c


class Replaced:
    """Which events were amended, and the batch of one event that took the place of each."""

    def __init__(self, rows: Sequence[Any]) -> None:
        """`rows` are (batch, ordinal, replacing batch, whether both lie here)."""
        self.batch = np.array([row[0] for row in rows], dtype=np.int64)
        self.ordinal = np.array([row[1] for row in rows], dtype=np.int64)
        self.by = np.array([row[2] for row in rows], dtype=np.int64)
        self.here = np.array([row[3] for row in rows], dtype=np.bool_)
        self._order = np.argsort(self.by, kind="stable")
        self._sorted = self.by[self._order]
        self._revision = self._revisions()

    def _revisions(self) -> _Ints:
        """How often the event was amended by then, 0 where that goes round in a circle."""
        found = np.zeros(len(self.by), dtype=np.int64)
        known, before = self.find(self.batch)
        found[~known] = 1
        while len(ready := np.flatnonzero(known & (found == 0) & (found[before] > 0))):
            found[ready] = found[before[ready]] + 1
        return found

    def find(self, batch: _Ints) -> tuple[NDArray[np.bool_], _Ints]:
        """(took the place of an event, the row that says so) of each of n batches."""
        if not len(self.by):
            return np.zeros(len(batch), dtype=np.bool_), np.zeros(len(batch), dtype=np.int64)
        near = np.minimum(np.searchsorted(self._sorted, batch), len(self.by) - 1)
        return self._sorted[near] == batch, self._order[near]

    def revisions(self, batch: _Ints) -> dict[int, int]:
        """The revision of each event of a page that took another's place, by its index there."""
        known, place = self.find(batch)
        at = np.flatnonzero(known)
        return dict(zip(at.tolist(), self._revision[place[at]].tolist(), strict=True))


class Identities:
    """What the identities of a seller's events must be, as its raw events say."""

    def __init__(self, *, first: int, last: int, replaced: Replaced) -> None:
        """Batches go from `first` to `last`, both included."""
        self.first = first
        self.width = (last - first) // RANGES + 1
        self.ranges = (last - first) // self.width + 1
        self._replaced = replaced
        self._sums = np.zeros(self.ranges, dtype=np.uint64)
        self._keys = np.zeros(self.ranges, dtype=np.int64)
        self._links = np.zeros(self.ranges, dtype=np.uint64)
        self._excused = np.zeros(self.ranges, dtype=np.bool_)

    def _range(self, batch: _Ints) -> _Ints:
        return np.clip((batch - self.first) // self.width, 0, self.ranges - 1)

    def excuse(self, batch: int) -> None:
        """Say nothing of a batch whose events cannot be read."""
        self._excused[(batch - self.first) // self.width] = True

    def add(self, page: RawPage, streams: Mapping[str, tuple[int, int, int]]) -> None:
        """Count a page; `streams` has the numbers of the FORMS of every source in it, 0 of none."""
        events = page.events
        is_uuid, words = event_keys([each.id for each in events])
        of_uuid, of_text, amended = _streams_of([each.source for each in events], streams)
        stream = np.where(is_uuid, of_uuid, of_text)
        revisions = self._replaced.revisions(page.batch)
        self._link(page, words, stream, list(revisions))
        if revisions:
            words = words.copy()
        for at, revision in revisions.items():
            key = amendment_key(events[at].id, revision=revision)
            words[at] = np.frombuffer(key.bytes, dtype=">u8")
            stream[at] = amended[at]
        seed = (page.batch << 34) ^ (stream << 17) ^ page.ordinal
        hashes = uuid_hashes(words=words, seed=seed.astype(np.uint64))
        place = self._range(page.batch)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        np.bitwise_xor.at(self._sums, place[starts], np.bitwise_xor.reduceat(hashes, starts))
        np.add.at(self._keys, place[starts], np.diff(starts, append=len(place)))

    def _link(self, page: RawPage, words: _Words, stream: _Ints, later: Sequence[int]) -> None:
        """An event and what took its place have one id: what both give is nothing together."""
        replaced = self._replaced
        mine = (
            replaced.here & (replaced.batch >= page.batch[0]) & (replaced.batch <= page.batch[-1])
        )
        begin = np.searchsorted(page.batch, replaced.batch[mine])
        at = np.minimum(begin + replaced.ordinal[mine], len(page.batch) - 1)
        self._cross(words[at], stream[at], replaced.by[mine])
        known, place = replaced.find(page.batch[list(later)])
        here = known & replaced.here[place]
        at = np.array(later, dtype=np.int64)[here]
        self._cross(words[at], stream[at], page.batch[at])

    def _cross(self, words: _Words, stream: _Ints, by: _Ints) -> None:
        seed = by.astype(np.uint64) * _FACTOR ^ stream.astype(np.uint64)
        np.bitwise_xor.at(self._links, self._range(by), uuid_hashes(words=words, seed=seed))

    def differences(self, found: Iterable[Sequence[Any]]) -> list[tuple[int, int, str]]:
        """(first batch, last batch, what is wrong) of the ranges that differ from `found`.

        That is (range, identities, sum of their hashes) of each range that has some.
        """
        sums = np.zeros(self.ranges, dtype=np.uint64)
        keys = np.zeros(self.ranges, dtype=np.int64)
        for place, count, mixed in found:
            sums[place], keys[place] = mixed % 2**64, count
        unlike = (sums != self._sums) | (keys != self._keys)
        told = [
            (each, f"{keys[each]} identities, other than {self._keys[each]} events say")
            for each in np.flatnonzero(unlike & ~self._excused).tolist()
        ]
        told += [
            (each, "takes the place of another event than its own")
            for each in np.flatnonzero((self._links != 0) & ~self._excused & ~unlike).tolist()
        ]
        return [
            (self.first + each * self.width, self.first + (each + 1) * self.width - 1, detail)
            for each, detail in told
        ]


def _streams_of(
    sources: Sequence[str], streams: Mapping[str, tuple[int, int, int]]
) -> tuple[_Ints, ...]:
    """The numbers of each of the FORMS of n sources."""
    if len(met := set(sources)) == 1:
        return tuple(np.full(len(sources), each) for each in streams[met.pop()])
    return tuple(np.array([streams[each] for each in sources], dtype=np.int64).T)


class _At(msgspec.Struct, gc=False):
    time: datetime


def times_told(page: RawPage, times: _Ints) -> list[int]:
    """The batches of a page whose earliest or latest time is not that of their events."""
    starts = np.flatnonzero(page.ordinal == 0)
    unlike = np.flatnonzero(_unlike(page.rows, times, starts))
    return [page.rows[at]["batch"] for at in unlike.tolist()]


def ends_told(page: RawPage) -> list[int]:
    """The batches of a page that do not say where their events end."""
    if _are_ends(page.rows, page.text):
        return []
    return [row["batch"] for row in page.rows if not _are_ends([row], row["payload"])]


def _are_ends(rows: Sequence[Any], text: bytes) -> bool:
    """Whether the ends told are those of objects, one after the other, to the last."""
    events = [row["events"] for row in rows]
    if any(len(row["ends"]) != 4 * row["events"] for row in rows):
        return False
    sizes = np.array([len(row["payload"]) - 1 for row in rows])
    ends = np.frombuffer(b"".join([row["ends"] for row in rows]), dtype="<i4").astype(np.int64)
    ends += np.repeat(np.cumsum(sizes) - sizes, events)
    if int(ends.min()) < 1 or int(ends.max()) >= len(text) or (np.diff(ends) <= 0).any():
        return False
    if not np.array_equal(ends[np.cumsum(events) - 1], np.cumsum(sizes)):
        return False
    letters, between = np.frombuffer(text, dtype=np.uint8), ends[:-1]
    return bool(
        (letters[ends - 1] == _CLOSE).all()
        and letters[ends[-1]] == _END
        and (letters[between] == _COMMA).all()
        and (letters[between + 1] == _OPEN).all()
    )


class Bounds:
    """Rows of columns that do not lie where they say: a window of usage would miss them."""

    def __init__(self) -> None:
        """None was looked at."""
        self.wrong: list[tuple[int, int, str]] = []
        """(first batch, last batch, what is wrong)."""

    def look(self, kind: str, rows: Sequence[Any]) -> None:
        """Look at rows of a kind that have times and customers."""
        if kind == "payload":
            return
        sizes = np.array([row["events"] for row in rows])
        starts = np.cumsum(sizes) - sizes
        times = np.frombuffer(b"".join([row["times"] for row in rows]), dtype="<i8")
        unlike = _unlike(rows, times, starts)
        if kind == "chunk":
            unlike |= _apart(rows, times, starts, sizes)
        for at in np.flatnonzero(unlike).tolist():
            row = rows[at]
            batch = row["batch"]
            first = last = batch
            if kind == "chunk":
                batches = np.frombuffer(row["batches"], dtype="<i8")
                first, last = int(batches.min()), int(batches.max())
            self.wrong.append((first, last, f"a {kind} lies elsewhere than it says"))


def _unlike(rows: Sequence[Any], times: _Ints, starts: _Ints) -> NDArray[np.bool_]:
    """Which rows have another first or last time than they say."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for name, right in (
        ("first_at", np.minimum.reduceat(times, starts)),
        ("last_at", np.maximum.reduceat(times, starts)),
    ):
        told = times_of([_At(row[name]) for row in rows])
        for at in np.flatnonzero(told != right).tolist():
            found[at] |= rows[at][name] != at_micros(int(right[at]))
    return found


def _apart(rows: Sequence[Any], times: _Ints, starts: _Ints, sizes: _Ints) -> NDArray[np.bool_]:
    """Which chunks have another first or last entry than they say."""
    who = np.frombuffer(b"".join([row["customers"] for row in rows]), dtype="<i8")
    ends = starts + sizes - 1
    found = np.zeros(len(rows), dtype=np.bool_)
    for name, right in (
        ("first_customer", who[starts]),
        ("low_micros", times[starts]),
        ("last_customer", who[ends]),
        ("high_micros", times[ends]),
    ):
        found |= np.array([row[name] for row in rows], dtype=np.int64) != right
    return found
