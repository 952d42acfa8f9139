"""Hostile items and bodies: refused alone, or as a whole, and never a failure of ours."""

import msgspec
import pytest

from engine.errors import BillingError
from metering.backfill import open_backfill
from metering.intake import Intake, read_events
from metering.model import BackfillDraft, EventIn
from tests.metering_world import NOW, event, world

__all__ = ["world"]
BEYOND = ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59.9-00:01"]
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


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_item_nested_too_deep_is_refused_alone_where_lines_part_it(place):
    lines = [msgspec.json.encode(event(str(each))) for each in range(2)]
    lines.insert(place, NESTED)
    intake = read_events(b"\n".join(lines), lines=True)
    assert len(intake.events) == 2
    assert [(each.index, each.code) for each in intake.rejected] == [(place, "invalid")]


def test_a_number_of_many_digits_harms_nobody_where_text_cannot_be_stepped_over():
    good = msgspec.json.encode(event("good"))
    broken = b'{"id":"x","type":"call","subject":"acme","data":{"a":"\\ud800"}}'
    long = b'{"id":"y","type":"call","subject":"acme","data":{"a":' + b"9" * 9_000 + b"}}"
    intake = read_events(b"[" + b",".join([broken, long, good]) + b"]")
    assert [each.id for each in intake.events] == ["good"]
    assert [(each.index, each.code) for each in intake.rejected] == [(0, "invalid"), (1, "invalid")]
    alone = read_events(long)
    assert [(each.index, each.code) for each in alone.rejected] == [(0, "invalid")]


@pytest.mark.parametrize("backfill", [False, True])
async def test_a_time_that_utc_has_no_year_for_is_refused_and_all_go_on(world, backfill):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    fields: dict[str, str] = {}
    if backfill:
        draft = BackfillDraft(key="old")
        async with world.database.transaction(seller=world.seller) as connection:
            await open_backfill(connection=connection, draft=draft, now=NOW, wall_now=NOW)
        fields = {"backfill": "old"}
    for number, time in enumerate(BEYOND * 2):  # more of them than there are committers
        wrong = event(f"wrong {number}") | {"time": time} | fields
        answer = await world.send([event(f"before {number}"), wrong, event(f"after {number}")])
        assert answer.accepted == 2
        code = "too_old" if time < "2" else "too_far_ahead"
        assert [(each.index, each.code) for each in answer.rejected] == [(1, code)]
    assert await world.total(meter, customer) == "12"


async def test_a_group_that_cannot_be_made_fails_alone(world):
    meter, customer = await world.meter("tokens"), await world.customer("acme")
    for number in range(3):  # more of them than there are committers
        lone = EventIn(id=f"\ud800{number}", type="call", subject="acme", time=NOW)
        with pytest.raises(UnicodeEncodeError):
            await world.ingester.submit(
                seller=world.seller, intake=Intake([lone], [{}], [0], []), now=NOW
            )
    assert (await world.send([event("good")])).accepted == 1
    assert await world.total(meter, customer) == "1"
