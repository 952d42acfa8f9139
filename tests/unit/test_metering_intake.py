"""When an event happened, to the microsecond: what is finer is cut, never rounded up."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from metering.intake import micros_of, read_events, read_instant, times_of

LAST = datetime(2026, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)
EAST = timezone(timedelta(hours=2))


def item(time: str, id: str = "x", **fields: object) -> bytes:
    body = {"id": id, "type": "call", "subject": "acme"} | fields
    return json.dumps(body)[:-1].encode() + b', "time": "' + time.encode() + b'"}'


def single(content: bytes) -> tuple[bytes, bool]:
    return content, False


def array(content: bytes) -> tuple[bytes, bool]:
    return b"[" + item("2026-01-31T12:00:00Z", "y") + b"," + content + b"]", False


def array_beside_a_bad_item(content: bytes) -> tuple[bytes, bool]:
    return b"[7," + content + b"]", False


def lines(content: bytes) -> tuple[bytes, bool]:
    return item("2026-01-31T12:00:00Z", "y") + b"\n" + content, True


def cloud_event_without_source(content: bytes) -> tuple[bytes, bool]:
    return content[:-1] + b',"specversion":"1.0","source":null}', False


@pytest.mark.parametrize(
    "body", [single, array, array_beside_a_bad_item, lines, cloud_event_without_source]
)
@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2026-01-31T23:59:59.9999999Z", LAST),
        ("2026-01-31t23:59:59.9999995z", LAST),
        ("2026-01-31 23:59:59.999999999Z", LAST),
        ("2026-01-31T23:59:59." + "9" * 60 + "Z", LAST),
        ("2026-02-01T01:59:59.9999999+02:00", LAST),
        ("2026-01-31T23:59:59.999999\\u0039Z", LAST),
        ("2026-01-31T23:59:59\\u002e9999999Z", LAST),
        ("2026-01-31T23:59:59.999999Z", LAST),
        ("2026-01-31T23:59:59.999998500Z", LAST - timedelta(microseconds=1)),
        ("2026-01-31T23:59:59.0000009Z", LAST.replace(microsecond=0)),
        ("0001-01-01T02:00:00.0000009+02:00", datetime(1, 1, 1, 2, tzinfo=EAST)),
    ],
)
def test_a_fraction_finer_than_a_microsecond_is_cut(body, time, expected):
    content, by_lines = body(item(time, data={"tokens": 0.123456789, "time": "12:00:00.99999999"}))
    intake = read_events(content, lines=by_lines)
    (event,) = (each for each in intake.events if each.id == "x")
    assert event.time == expected
    assert intake.datas[-1] == {"tokens": "0.123456789", "time": "12:00:00.99999999"}


@pytest.mark.parametrize("body", [single, array, array_beside_a_bad_item, lines])
@pytest.mark.parametrize("fraction", ["", ".9999999"])
@pytest.mark.parametrize(
    "time",
    [
        "2026-01-31T24:00:00{}Z",
        "2026-01-31T23:59:60{}Z",
        "2026-01-31T23:59:59{}",
        "2026-01-31T23:59:59{}+24:00",
        "2026-02-29T23:59:59{}Z",
        "20260131T235959{}Z",
    ],
)
def test_what_is_no_instant_is_refused_with_any_fraction(body, time, fraction):
    content, by_lines = body(item(time.format(fraction)))
    intake = read_events(content, lines=by_lines)
    assert [each.code for each in intake.rejected if each.id == "x"] == ["invalid"]
    assert "x" not in [each.id for each in intake.events]


def test_an_event_without_a_time_keeps_none_beside_fine_ones():
    body = b'[{"id":"y","type":"call","subject":"a"},{"id":"z","type":"call","subject":"a",'
    body += b'"time":null},' + item("2026-01-31T23:59:59.9999999Z") + b"]"
    assert [each.time for each in read_events(body).events] == [None, None, LAST]


def test_an_instant_as_text():
    assert read_instant("2026-01-31T23:59:59.9999999Z") == LAST
    for wrong in ("2026-01-31T23:59:59.9999999", "2026-01-31", "yesterday", ""):
        with pytest.raises(ValueError, match="datetime"):
            read_instant(wrong)


@pytest.mark.parametrize(
    "texts",
    [
        ["2026-11-20T12:00:00Z"],
        ["2026-11-20T12:00:00.000001Z"] * 20,
        ["1970-01-01T00:00:00Z", "2106-02-07T06:28:15Z"],
        ["2106-02-07T06:28:16Z", "2514-05-30T01:53:03.999999Z"],
        ["2514-05-30T01:53:04Z", "9999-12-31T23:59:59.999999Z"],
        ["1969-12-31T23:59:59.999999Z", "1001-01-01T00:00:00Z"],
        ["2026-11-20T12:00:00Z", "2026-11-20T12:00:00.5Z"],
        ["2026-11-20T12:00:00+05:30", "2026-11-20T12:00:00.25-08:00"],
        ["2026-11-20T12:00:00Z", "1960-01-01T00:00:00Z"],
        ["2026-11-20T12:00:00.000007Z"] * 9_999,
    ],
)
def test_times_become_integers_exactly(texts):
    whole = read_events(b"[" + b",".join(item(each) for each in texts) + b"]")
    expected = [micros_of(datetime.fromisoformat(each)) for each in texts]
    assert times_of(whole.events).tolist() == expected


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_any_number_of_times_becomes_integers(count):
    whole = read_events(b"[" + item("2026-11-20T12:00:00.000007Z") + b"]")
    assert times_of(whole.events * count).tolist() == [micros_of(whole.events[0].time)] * count


DEEP = b"[" * 70 + b"]" * 70


@pytest.mark.parametrize(
    "fields",
    [
        b'"data":{"tokens":3,"cost":0.1,"much":1e400}',
        b'"data":{"tokens":3,"cost":0.10}',
        b'"data":{"tokens":' + b"7" * 310 + b"}",
        b'"data":{"tokens":3,"deep":' + DEEP + b"}",
        b'"data":{"a":' + b"[" * 60 + b"]" * 60 + b',"b":[[1],[2],[3],[4],[5],[6],[7]]}',
        b'"data":{"text":"\\u0041\\n","none":"\\u0000"}',
        b'"data":{"text":"\\u0041\\n"}',
        b'"data":[1]',
        b'"data":null',
        b'"time":null',
        b'"backfill":"may","data":{}',
        b'"source":null,"specversion":"1.0"',
        b'"source":"s","specversion":"0.3"',
        b'"source":"s","specversion":"1.0","data_base64":"AA=="',
        b'"data":{"text":"' + b"x" * 5_000 + b'"}',
        b'"data":{"text":"\xff"}',
    ],
)
@pytest.mark.parametrize("cloudevents", [False, True])
def test_an_event_alone_is_read_as_in_an_array(fields, cloudevents):
    alone = b'{"id":"a","type":"call","subject":"acme",' + fields + b"}"

    def told(body: bytes) -> object:
        intake = read_events(body, cloudevents=cloudevents)
        return intake.events, intake.datas, list(intake.indexes), intake.rejected, intake.backfilled

    assert told(alone) == told(b"[" + alone + b"]")
