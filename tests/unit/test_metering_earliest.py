"""Each customer's earliest instant, however numbers lie."""

import random

import numpy as np
import pytest

from metering import earliest
from metering.earliest import Earliest, Instants, earliest_of


def columns(pairs):
    customers, times = zip(*pairs, strict=True) if pairs else ((), ())
    return np.array(customers, dtype=np.int64), np.array(times, dtype=np.int64)


@pytest.mark.parametrize("numbers", [range(5, 25), [1, 10**6, 10**12, 2**62]])
@pytest.mark.parametrize("parts", [1, 4])
def test_it_is_what_a_dictionary_finds(numbers, parts):
    chance = random.Random(parts)
    pairs = [(chance.choice(numbers), chance.randrange(-(10**15), 10**15)) for _ in range(400)]
    expected = {}
    for customer, time in pairs:
        expected[customer] = min(time, expected.get(customer, time))
    size = 400 // parts
    customers, times = earliest_of(
        [columns(pairs[at : at + size]) for at in range(0, 400, size)] + [columns([])]
    )
    assert list(zip(customers.tolist(), times.tolist(), strict=True)) == sorted(expected.items())


def test_of_nothing_nothing_is_found():
    for parts in ([], [columns([])]):
        customers, times = earliest_of(parts)
        assert len(customers) == len(times) == 0


@pytest.mark.parametrize("numbers", [range(1, 30), range(10**9, 10**9 + 30), [3, 10**12, 2**62]])
@pytest.mark.parametrize(("dense", "room"), [(4_000_000, 2), (0, 2), (0, 0)])
@pytest.mark.parametrize("seed", range(6))
def test_whoever_has_an_instant_has_what_came_before_it(monkeypatch, numbers, dense, room, seed):
    """Told before, after or between the events, of some customers several times, of some never."""
    monkeypatch.setattr(earliest, "_DENSE", dense)
    monkeypatch.setattr(earliest, "_ROOM", room)
    monkeypatch.setattr(earliest, "_AT_ONCE", 50)
    chance = random.Random(seed)
    pairs = [(chance.choice(numbers), chance.randrange(-9, 9)) for _ in range(400)]
    given = [(chance.choice(numbers), chance.randrange(-12, 12)) for _ in range(20)]
    until, expected = {}, {}
    for customer, instant in given:
        until[customer] = max(instant, until.get(customer, instant))
    for customer, time in pairs:
        if time < until.get(customer, time):
            expected[customer] = min(time, expected.get(customer, time))
    kept, when = Earliest(), chance.choice([0, 180, 400])
    for at in range(0, 420, 20):
        if at == when:
            micros = columns(given)
            kept.bound(Instants(customers=micros[0], micros=micros[1]))
        customers, times = columns(pairs[at : at + 20])
        kept.add(customers=customers, times=times)
    assert kept.added == 400
    customers, times = kept.found()
    assert list(zip(customers.tolist(), times.tolist(), strict=True)) == sorted(expected.items())


def test_without_an_instant_nobody_has_usage():
    kept = Earliest()
    kept.add(customers=np.array([1, 2]), times=np.array([3, 4]))
    kept.bound(Instants(customers=np.empty(0, dtype=np.int64), micros=np.empty(0, dtype=np.int64)))
    kept.add(customers=np.array([0, 1, 7]), times=np.array([3, -(2**62), 4]))
    assert [len(each) for each in kept.found()] == [0, 0]
