"""Properties as text, filters, and combinations as columns, against the obvious loops."""

import random

import numpy as np
import pytest

from metering.aggregation import PairNumbers
from metering.dimensions import Combinations, admitted, encode_combinations, passes, text_of
from plans.model import MeterFilter


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("eu", "eu"),
        (" EU ", " EU "),
        ("1.50", "1.50"),
        (0, "0"),
        (-12, "-12"),
        (10**20, "100000000000000000000"),
        (True, "true"),
        (False, "false"),
        (None, ""),
        ([], ""),
        ({"a": 1}, ""),
    ],
)
def test_properties_read_as_exact_text(value: object, text: str) -> None:
    assert text_of(value) == text


def test_all_filters_must_pass() -> None:
    filters = [
        MeterFilter(property="tier", one_of=("gold", "1")),
        MeterFilter(property="ok", one_of=("true",)),
    ]
    datas: list[dict[str, object]] = [
        {"tier": "gold", "ok": True},
        {"tier": 1, "ok": "true"},
        {"tier": "Gold", "ok": True},
        {"tier": "gold", "ok": False},
        {"tier": "gold"},
        {},
    ]
    assert [passes(filters=filters, data=data) for data in datas] == [True] * 2 + [False] * 4
    assert admitted(filters=filters, datas=datas, positions=range(6)) == [0, 1]
    assert admitted(filters=filters, datas=datas, positions=[1, 5]) == [1]
    assert admitted(filters=(), datas=datas, positions=[3]) == [3]
    assert passes(filters=(), data={})


def test_what_is_missing_can_be_asked_for() -> None:
    without = [MeterFilter(property="tier", one_of=("",))]
    assert [passes(filters=without, data=data) for data in ({}, {"tier": None}, {"tier": "a"})] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("seed", range(6))
def test_combinations_come_out_as_they_went_in(seed: int) -> None:
    chance = random.Random(seed)
    kept = ("a", "b", "c")
    wanted = tuple(chance.sample(kept, chance.randint(0, 3)))
    combinations = Combinations(kept=kept, wanted=wanted)
    for _ in range(4):
        datas = [
            {name: chance.choice(["x", "y", 1, True, None]) for name in chance.sample(kept, 2)}
            for _ in range(chance.choice([1, 50]))
        ]
        positions = sorted(chance.sample(range(len(datas)), chance.randint(1, len(datas))))
        groups, codes = encode_combinations(names=kept, datas=datas, positions=positions)
        numbers = combinations.number(groups=groups, codes=codes, events=len(positions))
        texts = combinations.texts()
        assert [texts[number] for number in numbers.tolist()] == [
            tuple(text_of(datas[at].get(name)) for name in wanted) for at in positions
        ]
    assert len(set(combinations.texts())) == len(combinations.texts())


@pytest.mark.parametrize("seed", range(6))
def test_a_pair_has_one_number_for_ever(seed: int) -> None:
    chance = random.Random(seed)
    pairs, known = PairNumbers(), {}
    for _ in range(8):
        drawn = [
            (chance.choice([0, 1, 2**31 - 1]), chance.choice([0, 5, 2**31 - 1]))
            for _ in range(chance.choice([1, 20]))
        ]
        found = pairs.find(
            line=np.array([each[0] for each in drawn], dtype=np.int64),
            combination=np.array([each[1] for each in drawn], dtype=np.int64),
        )
        for pair, number in zip(drawn, found.tolist(), strict=True):
            assert known.setdefault(pair, number) == number
        assert len(pairs) == len(known)
    lines, combinations = pairs.halves()
    assert {
        pair: number
        for number, pair in enumerate(zip(lines.tolist(), combinations.tolist(), strict=True))
    } == known
