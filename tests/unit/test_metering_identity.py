"""Keys and payloads: what makes two events one."""

import uuid

import msgspec
import numpy as np
import pytest

from metering.identity import (
    StoredKey,
    Verdict,
    event_keys,
    same_payload,
    settle,
    suspects_of,
)
from metering.model import EventIn

NEW, KEPT, UNSURE = Verdict.NEW, Verdict.KEPT, Verdict.UNSURE


def sample(data: str, type: str = "call", subject: str = "acme") -> EventIn:
    return EventIn(id="a", type=type, subject=subject, data=msgspec.Raw(data.encode()))


def test_canonical_uuids_keep_their_bits_and_nothing_else_does():
    own = [str(uuid.uuid4()) for _ in range(50)]
    others = [own[0].upper(), own[0][:-1] + "g", own[0].replace("-", "_"), "é" * 36, "", "a" * 36]
    is_uuid, words = event_keys([*own, *others])
    assert is_uuid.tolist() == [True] * len(own) + [False] * len(others)
    packed = words.astype(">u8").tobytes()
    keys = [uuid.UUID(bytes=packed[at : at + 16]) for at in range(0, len(packed), 16)]
    assert [str(each) for each in keys[: len(own)]] == own
    assert len(set(keys)) == len(keys)
    again, same = event_keys(own)
    assert again.all()
    assert np.array_equal(same, words[: len(own)])


@pytest.mark.parametrize(
    "other",
    [
        "00000000-0000-4000-8000-00000000000 ",
        "  000000-0000-4000-8000-000000000000",
        "00000000-0000-4000-8000-00000000000G",
        "00000000-0000-4000-8000-00000000000A",
        "000000000-000-4000-8000-000000000000",
        "-0000000-0000-4000-8000-000000000000",
        "0000000é-0000-4000-8000-000000000000",
    ],
)
def test_what_only_looks_like_a_uuid_is_a_text(other):
    own = str(uuid.uuid4())
    assert event_keys([other])[0].tolist() == [False]
    is_uuid, words = event_keys([own, other])
    assert is_uuid.tolist() == [True, False]
    assert np.array_equal(words[0], event_keys([own])[1][0])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a":1,"b":2}', '{ "b": 2.0, "a": 1 }', True),
        ('{"a":1e2}', '{"a":100}', True),
        ('{"a":1}', '{"a":true}', False),
        ('{"a":0}', '{"a":false}', False),
        ('{"a":1}', '{"a":"1"}', False),
        ('{"a":null}', "{}", False),
        ('{"a":[1,2]}', '{"a":[2,1]}', False),
        ('{"a":[1]}', '{"a":{"0":1}}', False),
        ('{"a":0.1}', '{"a":0.10000000000000001}', False),
        ('{"a":12345678901234567890}', '{"a":12345678901234567891}', False),
        ('{"a":"\\u0041"}', '{"a":"A"}', True),
    ],
)
def test_payloads_compare_as_canonical_json(one, other, same):
    assert same_payload(sample(one), sample(other)) is same
    assert same_payload(sample(other), sample(one)) is same


def test_deep_payloads_compare_without_recursion():
    deep = '{"a":' * 400 + "1" + "}" * 400
    assert same_payload(sample(deep), sample(deep.replace(":", ": ")))


def test_suspects_are_repeats_and_strangers_to_the_window():
    order = np.array([2, 0, 3, 1, 4])
    repeats = np.array([False, True, False, False, True])
    outside = np.array([False, False, False, True, False])
    assert suspects_of(order=order, same_as_before=repeats, outside=outside).tolist() == [True] * 5
    inside = np.zeros(5, dtype=np.bool_)
    found = suspects_of(order=order, same_as_before=repeats, outside=inside)
    assert found.tolist() == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("outside", "stored", "verdicts", "unsure"),
    [
        ([0, 0, 0], {}, [NEW, UNSURE, UNSURE], [(1, 0), (2, 0)]),
        ([4, 0, 5], {}, [Verdict.TOO_OLD, NEW, UNSURE], [(2, 1)]),
        ([0, 4, 0], {0: StoredKey(5, 9)}, [UNSURE] * 3, [(n, (5, 9)) for n in range(3)]),
        ([0, 0, 0], {0: StoredKey(8, 0)}, [KEPT, UNSURE, UNSURE], [(1, 0), (2, 0)]),
        ([4, 0, 0], {0: StoredKey(8, 0)}, [Verdict.TOO_OLD, KEPT, UNSURE], [(2, 1)]),
    ],
)
def test_the_first_is_kept(outside, stored, verdicts, unsure):
    settled = settle(
        order=[0, 1, 2],
        same_as_before=[False, True, True],
        outside=np.array(outside, dtype=np.int8),
        stored=stored,
        own_batch=8,
    )
    assert settled.verdicts.tolist() == [int(each) for each in verdicts]
    assert settled.unsure == unsure
