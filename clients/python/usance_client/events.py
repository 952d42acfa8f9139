"""An event as it is recorded: with its id, its time, and the bytes that will be sent."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any


class QueueFull(Exception):  # noqa: N818 - named like the one of the standard library
    """There is no room for another event; nothing was recorded."""


@dataclass(frozen=True)
class Event:
    """One recorded event; `content` is the JSON that is sent, the same every time."""

    id: str
    content: bytes

    def body(self) -> dict[str, Any]:
        """The event as it was recorded."""
        return json.loads(self.content)


@dataclass(frozen=True)
class Rejection:
    """An event that was refused for good: `code` is stable, `detail` a sentence."""

    event: Event
    code: str
    detail: str


def new_event_id() -> str:
    """A UUIDv7 to the 250 nanoseconds: later ids sort later, which the server stores fastest."""
    millis, rest = divmod(time.time_ns(), 1_000_000)
    random = int.from_bytes(os.urandom(8), "big") >> 2
    number = millis << 80 | 0x7 << 76 | (rest << 12) // 1_000_000 << 64 | 0b10 << 62 | random
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _plain(value: object) -> str:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat()
    message = f"{type(value).__name__} cannot be sent as JSON"
    raise TypeError(message)


def make_event(
    *,
    type: str,
    subject: str,
    data: Mapping[str, Any] | None,
    id: str | None,
    source: str | None,
    time: datetime | None,
) -> Event:
    """An event with its bytes; what was passed may be changed afterwards.

    Decimals are sent as text, digit by digit. Raises TypeError or ValueError for what JSON cannot
    say, and ValueError for a time without an offset or an empty type or subject.
    """
    if not type or not subject:
        raise ValueError("an event has a type and a subject")
    at = datetime.now(UTC) if time is None else time
    if at.utcoffset() is None:
        raise ValueError("time has no offset: is it UTC?")
    event_id = id or new_event_id()
    body: dict[str, Any] = {"id": event_id, "type": type, "subject": subject}
    body["time"] = at.astimezone(UTC).isoformat()
    if source is not None:
        body["source"] = source
    body["data"] = dict(data or {})
    text = json.dumps(body, default=_plain, allow_nan=False, separators=(",", ":"))
    return Event(id=event_id, content=text.encode())
