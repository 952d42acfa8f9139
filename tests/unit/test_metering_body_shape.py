"""The shape of a body, told from its bytes alone, against a reader that goes sign by sign."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering import body_shape
from metering.body_shape import DEEPEST, Shape, is_too_deep, shape_of
from metering.intake import read_events

TEXT = st.text(st.sampled_from('a"\\,[]{}é\n'), max_size=6)
JSON = st.recursive(
    TEXT | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


def read_slowly(text: bytes) -> Shape:
    depth = deepest = entries = values = place = 0
    quoted = False
    while place < len(text):
        sign = text[place : place + 1]
        if quoted:
            place += sign == b"\\"
            quoted = sign != b'"'
        elif sign == b'"':
            quoted = True
        elif sign in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in b"]}":
            depth -= 1
            values += depth == 0
        elif sign == b",":
            entries += depth == 1
        place += 1
    return Shape(deepest, entries, values)


@settings(max_examples=300, deadline=None)
@given(value=JSON, block=st.integers(1, 40))
def test_the_shape_is_that_of_a_slow_reader_whatever_the_blocks(value, block):
    text = json.dumps(value, ensure_ascii=False).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_shape, "_BLOCK", block)
        assert shape_of(text) == read_slowly(text)


def nested(levels: int) -> str:
    return '{"a":' * (levels - 1) + '{"]":"[{"}' + "}" * (levels - 1)


def test_data_too_deep_spoil_their_own_event_only():
    assert not is_too_deep(nested(DEEPEST).encode())
    assert is_too_deep(nested(DEEPEST + 1).encode())
    events = [
        f'{{"id":"{levels}","type":"call","subject":"acme","data":{nested(levels)}}}'
        for levels in (1, DEEPEST, DEEPEST + 1, 900)
    ]
    for body, lines in ((f"[{','.join(events)}]", False), ("\n".join(events), True)):
        intake = read_events(body.encode(), lines=lines)
        assert [each.id for each in intake.events] == ["1", str(DEEPEST)]
        assert [(each.index, each.code) for each in intake.rejected] == [
            (2, "invalid"),
            (3, "invalid"),
        ]


def test_a_line_nested_without_end_spoils_itself_only():
    good = '{"id":"a","type":"call","subject":"acme"}'
    intake = read_events(f"{good}\n{'[' * 100_000}\n\n".encode(), lines=True)
    assert [each.id for each in intake.events] == ["a"]
    assert [(each.index, each.code) for each in intake.rejected] == [(1, "invalid")]
