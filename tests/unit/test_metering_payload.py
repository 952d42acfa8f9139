"""The payload of a batch: every event can be cut out of it alone."""

from datetime import UTC, datetime

import msgspec
import pytest

from metering.model import StoredEvent
from metering.payload import encode_payload, slice_of
from metering.store import decode_payload

AT = datetime(2026, 11, 20, 12, tzinfo=UTC)
DATAS = [b"{}", b'{"a": "line\\nline"}', b'{"a":\n[1,\n2]}\n', '{"ä":"ö"}'.encode()]


def sample(number: int, data: bytes) -> StoredEvent:
    return StoredEvent(
        id=f"e{number}", source="", type="call", subject="é", time=AT, data=msgspec.Raw(data)
    )


@pytest.mark.parametrize("datas", [DATAS[:1], DATAS[:2], DATAS, DATAS[::-1], [b"{}"] * 100])
def test_each_event_is_a_slice(datas):
    events = [sample(number, data) for number, data in enumerate(datas)]
    payload = encode_payload(events)
    assert [each.id for each in decode_payload(payload.text)] == [each.id for each in events]
    for ordinal, event in enumerate(events):
        ends = payload.ends[max(0, 4 * ordinal - 4) : 4 * ordinal + 4]
        start, length = slice_of(ends, ordinal=ordinal)
        (found,) = decode_payload(b"[" + payload.text[start : start + length] + b"]")
        assert found.id == event.id
        assert msgspec.json.decode(found.data) == msgspec.json.decode(event.data)
