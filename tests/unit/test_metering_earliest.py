"""Each customer's earliest instant, however numbers lie."""

import random

import numpy as np
import pytest

from metering.aggregation import earliest_of


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
