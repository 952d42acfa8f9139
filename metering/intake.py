"""What came in the body of `POST /v1/events`: good events, and the bad ones with their reason.

The fast lane decodes the whole body at once. Whatever it cannot take goes item by item, so that a
bad item never harms its neighbours; only a body that is no JSON at all is refused as a whole.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.errors import BillingError, ErrorKind
from metering.body_shape import DEEPEST, check_count, check_large, count_brackets, is_too_deep
from metering.model import EventIn, Instant, Rejection, RejectionCode

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST: Final = 309
_LONG_DIGITS: Final = re.compile(rb"[0-9]{310}")
_LARGEST_EXPONENT: Final = 308
_SPACE: Final = " \t\r\n"
_NESTED: Final = "it is nested too deep"
_REQUIRED: Final = ("id", "type", "subject")
_MICROSECOND: Final = timedelta(microseconds=1)
_MAYBE_FINE: Final = re.compile(rb"\.[0-9]{7}")
_SHORT: Final = 4_096
_ONE: Final = range(1)
_FINE_DIGITS: Final = 7
_POINT: Final = ord(".")
_ZERO: Final = ord("0")
_SECONDS: Final = np.dtype([("mark", ">u2"), ("seconds", ">u4")])
_NANOS: Final = np.dtype([("mark", ">u2"), ("packed", ">u8")])
_SECONDS_MARK: Final = 0xD6FF
_NANOS_MARK: Final = 0xD7FF
_NANOS_SHIFT: Final = 34
_LIST_HEADS: Final = ((16, 1), (1 << 16, 3), (1 << 32, 5))
_FINE: Final = re.compile(r"(\.[0-9]{6})[0-9]+")
_SHORTEST_FINE: Final = len("2026-01-31T23:59:59.1234567Z")


class Timed(Protocol):
    """Something that has a time, which is set."""

    @property
    def time(self) -> datetime | None:
        """When it happened."""
        ...


class _Time(msgspec.Struct, gc=False):
    """The time of an event as its text."""

    time: str | None = None


class _Envelope(msgspec.Struct, gc=False):
    """What a CloudEvent must say of itself, and what of it cannot be read."""

    specversion: Literal["1.0"]
    data_base64: msgspec.UnsetType = msgspec.UNSET


def number_text(text: str) -> str:
    """A number that is no integer, as its text; what no double could hold is refused."""
    if len(text) > _LONGEST:
        raise ValueError("a number has too many digits")
    lowered = text.lower()
    if "e" in lowered and abs(int(lowered.partition("e")[2])) > _LARGEST_EXPONENT:
        raise ValueError("a number is out of range")
    return text


_events: Final = msgspec.json.Decoder(list[EventIn])
_event: Final = msgspec.json.Decoder(EventIn)
_times: Final = msgspec.json.Decoder(list[_Time])
_time: Final = msgspec.json.Decoder(_Time)
_envelopes: Final = msgspec.json.Decoder(list[_Envelope])
_envelope: Final = msgspec.json.Decoder(_Envelope)
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])
_data: Final = msgspec.json.Decoder(list[dict[str, Any]], float_hook=number_text)
_datum: Final = msgspec.json.Decoder(dict[str, Any], float_hook=number_text)
_anything: Final = msgspec.json.Decoder(float_hook=number_text)
_pack: Final = msgspec.msgpack.Encoder().encode
_scan: Final = json.JSONDecoder(parse_float=str, parse_int=str, strict=False).raw_decode


class Intake(msgspec.Struct, frozen=True):
    """n good events of a body with their data and their place in it, and the rejections.

    Unless `backfilled` is set, no event names a backfill.
    """

    events: list[EventIn]
    datas: list[dict[str, Any]]
    indexes: Sequence[int]
    rejected: list[Rejection]
    backfilled: bool = False


def micros_of(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    return (at - EPOCH) // _MICROSECOND


def times_of(events: Sequence[Timed]) -> NDArray[np.int64]:
    """Microseconds since 1970 of n events whose time is set."""
    # A loop over datetimes costs more than all else that is done with an event's time: the
    # encoder turns them into integers at once, those with a fraction of a second in ten bytes.
    try:
        packed = _pack([each.time for each in events])
    except OverflowError:  # the offset of one leads out of the years that UTC has
        return _times_one_by_one(events)
    head = next(size for limit, size in _LIST_HEADS if len(events) < limit)
    if len(packed) == head + _NANOS.itemsize * len(events):
        nanos = np.frombuffer(packed, dtype=_NANOS, offset=head)
        if (nanos["mark"] == _NANOS_MARK).all():
            fine = nanos["packed"].astype(np.uint64)
            seconds = (fine & np.uint64((1 << _NANOS_SHIFT) - 1)).astype(np.int64)
            return seconds * 1_000_000 + (fine >> np.uint64(_NANOS_SHIFT)).astype(np.int64) // 1_000
    elif len(packed) == head + _SECONDS.itemsize * len(events):
        whole = np.frombuffer(packed, dtype=_SECONDS, offset=head)
        if (whole["mark"] == _SECONDS_MARK).all():
            return whole["seconds"].astype(np.int64) * 1_000_000
    return _times_one_by_one(events)


def _times_one_by_one(events: Sequence[Timed]) -> NDArray[np.int64]:
    spans = [each.time - EPOCH for each in events if each.time is not None]
    # Part by part: numpy takes three times as long over timedeltas themselves.
    days = np.array([span.days for span in spans], dtype=np.int64)
    seconds = np.array([span.seconds for span in spans], dtype=np.int64)
    micros = np.array([span.microseconds for span in spans], dtype=np.int64)
    return (days * 86_400 + seconds) * 1_000_000 + micros


def read_instant(text: str) -> datetime:
    """An instant of RFC 3339 with its offset, finer fractions cut to the microsecond.

    A decoder left alone rounds them, which can carry an event into the next month. Raises
    ValueError where the text is no such instant.
    """
    return msgspec.convert(_FINE.sub(r"\1", text, count=1), Instant)


def _cut_times(events: Sequence[EventIn], times: Sequence[_Time]) -> None:
    """Cut what the decoder has rounded of n events; `times` are theirs as text."""
    for event, written in zip(events, times, strict=True):
        if written.time is not None and len(written.time) >= _SHORTEST_FINE:
            event.time = read_instant(written.time)


def read_data(events: Sequence[Any]) -> list[dict[str, Any]]:
    """The data objects of events: integers as int, every other number as its text."""
    return _join_data([each.data for each in events])


def _join_data(raws: Sequence[msgspec.Raw]) -> list[dict[str, Any]]:
    return _data.decode(b"[" + b",".join(raws) + b"]")


def _malformed(code: str, detail: str) -> BillingError:
    return BillingError(code, detail, kind=ErrorKind.MALFORMED)


def _maybe_fine(body: bytes) -> bool:
    """Whether a point has a digit in the seventh place after it, as a time too fine has."""
    if len(body) < _SHORT:
        return _MAYBE_FINE.search(body) is not None
    text = np.frombuffer(body, dtype=np.uint8)
    places = np.flatnonzero(text == _POINT) + _FINE_DIGITS
    digits = text[places[places < len(text)]] - _ZERO  # wraps round below zero
    return bool((digits <= 9).any())


def _only(body: bytes, *, cloudevents: bool) -> Intake | None:
    """A single event as most are; None when anything in it wants a closer look."""
    if (b"\\" in body and b"\\u00" in body) or len(body) >= _SHORT or _maybe_fine(body):
        return None
    try:
        event = _event.decode(body)
        if cloudevents:
            _envelope.decode(body)
        raw = event.data
        if len(raw) > _LONGEST or (len(raw) > 2 * DEEPEST and count_brackets(raw) > DEEPEST):
            return None
        data = _datum.decode(raw)
    except (ValueError, RecursionError):
        return None
    return Intake([event], [data], _ONE, [], event.backfill is not msgspec.UNSET)


def _fast(body: bytes, *, lines: bool, cloudevents: bool) -> Intake | None:
    """The whole body at once; None when anything in it wants a closer look."""
    escaped = b"\\" in body and b"\\u00" in body  # one byte is sought ten times as fast
    if escaped and b"\\u0000" in body:
        return None
    single = body[:1] == b"{" and not lines
    array = b"[" + body + b"]" if single else body
    try:
        events = _event.decode_lines(body) if lines else _events.decode(array)
        if (single and len(events) != 1) or (lines and len(events) != _count_lines(body)):
            return None
        if escaped or _maybe_fine(body):
            _cut_times(events, _time.decode_lines(body) if lines else _times.decode(array))
        if cloudevents and lines:
            _envelope.decode_lines(body)
        elif cloudevents:
            _envelopes.decode(array)
        raws = [each.data for each in events]
        longest = max(map(len, raws), default=0)
        if longest > _LONGEST and any(map(_LONG_DIGITS.search, raws)):
            return None
        # Two brackets an event are its own and its data's: few more cannot be deep anywhere.
        if (
            longest > 2 * DEEPEST
            and count_brackets(body) - 2 * len(events) > DEEPEST
            and any(map(is_too_deep, raws))
        ):
            return None
        datas = _join_data(raws)
    except (ValueError, RecursionError):
        return None
    check_count(len(events))
    unset = msgspec.UNSET
    named = [True for each in events if each.backfill is not unset]
    return Intake(events, datas, range(len(events)), [], bool(named))


def _count_lines(body: bytes) -> int:
    """Lines that hold anything; few bodies have blank ones."""
    count = body.count(b"\n") + (not body.endswith(b"\n"))
    if b"\n\n" in body or b"\n\r" in body or b"\n " in body or body[:1].isspace():
        return sum(1 for line in body.split(b"\n") if line.strip())
    return count


def _scan_items(body: bytes) -> list[bytes]:
    """The items of an array that holds text msgspec will not step over, such as a lone surrogate.

    Bytes that are not UTF-8 travel as surrogates and come out as they went in.
    """
    text = body.decode("utf-8", "surrogateescape").strip(_SPACE)
    try:
        if not text.startswith("["):
            _, end = _scan(text)
            if end != len(text):
                raise _malformed("malformed_json", "the body is no JSON")
            return [text.encode("utf-8", "surrogateescape")]
        items: list[bytes] = []
        place = _skip(text, 1)
        if text[place : place + 1] == "]":
            return items
        while True:
            _, end = _scan(text, place)
            items.append(text[place:end].encode("utf-8", "surrogateescape"))
            place = _skip(text, end)
            mark, place = text[place : place + 1], _skip(text, place + 1)
            if mark == "]" and place == len(text):
                return items
            if mark != ",":
                raise _malformed("malformed_json", "the body is no JSON")
    except ValueError as error:
        raise _malformed("malformed_json", f"the body is no JSON: {error}"[:200]) from None


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _items(body: bytes, *, lines: bool) -> list[bytes]:
    """The raw items of a body: an array, a single event, or one event a line."""
    if lines:
        return [line for line in body.split(b"\n") if line.strip()]
    stripped = body.strip()
    if not stripped:
        raise _malformed("malformed_json", "the body is empty")
    if not stripped.startswith(b"["):
        pieces = [line for line in stripped.split(b"\n") if line.strip()]
        if len(pieces) > 1 and all(each.lstrip().startswith(b"{") for each in pieces):
            return pieces
        return _scan_items(stripped)
    try:
        raws = _raws.decode(stripped)
    except ValueError:
        return _scan_items(stripped)
    check_count(len(raws))
    return [bytes(each) for each in raws]


def _holds_nul(value: object) -> bool:
    """Whether any text holds U+0000; an integer that no double could hold raises."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, str):
            if "\0" in each:
                return True
        elif isinstance(each, dict):
            entries = cast("dict[str, object]", each)
            pending.extend(entries.keys())
            pending.extend(entries.values())
        elif isinstance(each, list):
            pending.extend(cast("list[object]", each))
        elif type(each) is int and each.bit_length() > 1024:
            raise ValueError("a number is out of range")
    return False


def _read_item(
    item: bytes, index: int, *, cloudevents: bool
) -> tuple[EventIn, dict[str, Any]] | Rejection:
    """One event, or why it is refused."""
    event_id: str | None = None

    def refuse(code: RejectionCode, detail: str) -> Rejection:
        return Rejection(index=index, id=event_id, code=code, detail=detail[:300])

    try:
        fields = _anything.decode(item)
        if not isinstance(fields, dict):
            return refuse(RejectionCode.INVALID, "an event is a JSON object")
        entries = cast("dict[str, Any]", fields)
        given = entries.get("id")
        event_id = given if isinstance(given, str) and "\0" not in given else None
        for name in (*_REQUIRED, "specversion") if cloudevents else _REQUIRED:
            if entries.get(name) is None or entries[name] == "":
                return refuse(RejectionCode.REQUIRED, f"{name} is required")
        if _holds_nul(entries):
            return refuse(RejectionCode.INVALID, "text may not hold the character U+0000")
        if cloudevents and "data_base64" in entries:
            return refuse(RejectionCode.INVALID, "data_base64 is not read: send data as JSON")
        if cloudevents:
            _envelope.decode(item)
        if entries.get("source") is None:
            entries.pop("source", None)
        event = _event.decode(item) if "source" in entries else _without_source(item)
        _cut_times([event], [_Time(entries.get("time"))])
        if entries.get("data") is None:
            event.data = msgspec.Raw(b"{}")
        if is_too_deep(event.data):
            return refuse(RejectionCode.INVALID, f"data hold more than {DEEPEST} levels")
        return event, read_data([event])[0]
    except RecursionError:
        return refuse(RejectionCode.INVALID, _NESTED)
    except ValueError as error:
        return refuse(RejectionCode.INVALID, str(error).split(" - at ")[0])


def _without_source(item: bytes) -> EventIn:
    """An event whose source is missing or null."""
    parts = msgspec.json.decode(item, type=dict[str, msgspec.Raw])
    parts.pop("source", None)
    return _event.decode(msgspec.json.encode(parts))


def read_events(body: bytes, *, lines: bool = False, cloudevents: bool = False) -> Intake:
    """The events of a body: one, an array, or (`lines`) one a line.

    `cloudevents` asks each of them for `specversion` 1.0 and for data in JSON. Errors:
    `malformed_json`, `nested_too_deep`, `too_many_events`, `too_many_values` (the body as a
    whole). What is wrong with a single item is a rejection with its place.
    """
    check_large(body, lines=lines)
    try:
        if lines or body[:1] in {b"[", b"{"}:
            fast = None
            if not lines and body[:1] == b"{":
                fast = _only(body, cloudevents=cloudevents)
            fast = fast or _fast(body, lines=lines, cloudevents=cloudevents)
            if fast is not None:
                return fast
        events: list[EventIn] = []
        datas: list[dict[str, Any]] = []
        indexes: list[int] = []
        rejected: list[Rejection] = []
        items = _items(body, lines=lines)
        check_count(len(items))
        for index, item in enumerate(items):
            read = _read_item(item, index, cloudevents=cloudevents)
            if isinstance(read, Rejection):
                rejected.append(read)
            else:
                events.append(read[0])
                datas.append(read[1])
                indexes.append(index)
    except RecursionError:
        raise _malformed("nested_too_deep", _NESTED) from None
    named = any(each.backfill is not msgspec.UNSET for each in events)
    return Intake(events, datas, indexes, rejected, named)
