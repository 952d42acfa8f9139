"""How a body of events is written, told from its media type and encoding."""

from typing import Final

import msgspec

_CLOUDEVENTS: Final = frozenset(
    {"application/cloudevents+json", "application/cloudevents-batch+json"}
)
_LINES: Final = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_WHOLE: Final = frozenset({"", "application/json"}) | _CLOUDEVENTS


class BodyForm(msgspec.Struct, frozen=True):
    """One event a line or JSON, plain or as CloudEvents, compressed or not."""

    lines: bool
    cloudevents: bool
    gzip: bool


def body_form(*, content_type: str, content_encoding: str) -> BodyForm | str:
    """The form of a body, or a sentence that says why it is not read; both texts may be empty."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in _LINES and media_type not in _WHOLE:
        return "events come as JSON, CloudEvents JSON or NDJSON"
    encoding = content_encoding.strip().lower() or "identity"
    if encoding not in {"identity", "gzip"}:
        return "a body comes as it is, or compressed with gzip"
    return BodyForm(
        lines=media_type in _LINES,
        cloudevents=media_type in _CLOUDEVENTS,
        gzip=encoding == "gzip",
    )
