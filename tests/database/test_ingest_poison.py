"""Hostile items and bodies: refused alone, or as a whole, and never a failure of ours."""

import pytest

from engine.errors import BillingError
from metering.intake import read_events
from tests.metering_world import world

__all__ = ["world"]
NESTED = (
    b'{"id":"x","type":"call","subject":"acme","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
)
POISON = [
    (b"null", None, "invalid"),
    (b"[]", None, "invalid"),
    (b'"text"', None, "invalid"),
    (b'{"type":"call","subject":"acme"}', None, "required"),
    (b'{"id":null,"type":"call","subject":"acme"}', None, "required"),
    (b'{"id":"","type":"call","subject":"acme"}', "", "required"),
    (b'{"id":"x","subject":"acme"}', "x", "required"),
    (b'{"id":"x","type":"call"}', "x", "required"),
    (b'{"id":7,"type":"call","subject":"acme"}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":["acme"]}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","source":5}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","time":"yesterday"}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","time":"2026-11-20T12:00:00"}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","time":1}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":[1]}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":"t"}', "x", "invalid"),
    (b'{"id":"x\\u0000","type":"call","subject":"acme"}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"ac\\u0000me"}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":["\\u0000"]}}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"\\u0000":1}}', "x", "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":"\\ud800"}}', None, "invalid"),
    (b'{"id":"\\udfff","type":"call","subject":"acme"}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":"\xff"}}', None, "invalid"),
    (b'{"id":"x\xc3","type":"call","subject":"acme"}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":NaN}}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":-Infinity}}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":1e400}}', None, "invalid"),
    (b'{"id":"x","type":"call","subject":"acme","data":{"a":{"b":1E+999999}}}', None, "invalid"),
    (
        b'{"id":"x","type":"call","subject":"acme","data":{"a":1' + b"0" * 400 + b"}}",
        "x",
        "invalid",
    ),
    (
        b'{"id":"x","type":"call","subject":"acme","data":{"a":1' + b"0" * 9000 + b"}}",
        None,
        "invalid",
    ),
    (b'{"id":"' + b"x" * 300 + b'","type":"call","subject":"acme"}', "x" * 300, "invalid"),
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("lines", [False, True])
async def test_a_bad_item_never_harms_its_neighbours(world, place, lines):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    sent = 0
    for number, (poison, told, code) in enumerate(POISON):
        good = [
            b'{"id":"%d-%d","type":"call","subject":"acme","data":{"tokens":1}}' % (number, each)
            for each in range(2)
        ]
        items = [*good[:place], poison, *good[place:]]
        body = b"\n".join(items) if lines else b"[" + b", ".join(items) + b"]"
        answer = await world.send(body, lines=lines)
        assert (answer.accepted, answer.duplicates) == (2, 0), poison[:80]
        assert [(each.index, each.id, each.code) for each in answer.rejected] == [
            (place, told, code)
        ], poison[:80]
        sent += 2
    assert await world.total(meter, customer) == str(sent)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"[1,", "malformed_json"),
        (b'[{"id":"a"} {"id":"b"}]', "malformed_json"),
        (b'{"id":"a"},{"id":"b"}', "malformed_json"),
        (b'[{"id":"a"}] trailing', "malformed_json"),
        (b"\xff\xfe", "malformed_json"),
        (b"[" * 100_000, "nested_too_deep"),
        (b"[" + NESTED + b"]", "nested_too_deep"),
        (NESTED, "nested_too_deep"),
    ],
)
def test_a_body_that_is_no_json_is_refused_whole(body, code):
    with pytest.raises(BillingError) as caught:
        read_events(body)
    assert caught.value.code == code
