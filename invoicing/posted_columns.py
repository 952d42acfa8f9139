"""What is posted against what is derived, as columns: many subscriptions, line by line. Pure.

Whoever differs here is looked at again one by one, by `rederive`, which tells what is wrong. So a
doubt costs time, and nothing else.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.ids import unix_micros
from invoicing.alike import Ask

_Ints = NDArray[np.int64]


class PostedColumns(msgspec.Struct, frozen=True, kw_only=True):
    """n posted lines of price intervals: each of the subscription at `place` of a page.

    `number` and `start_micros` name the charge key within the subscription; `amount_minor` is
    what still counts of the line, nothing once its document is void; `grouped` is 1 where the
    line is of a group, and `counting` 1 where its document stands. `quantity_nanos` is what it
    tells in 10^-9 units, -1 where that is beyond 64 bits.
    """

    place: _Ints
    number: _Ints
    start_micros: _Ints
    amount_minor: _Ints
    grouped: _Ints
    quantity_nanos: _Ints
    counting: _Ints


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The places of the subscriptions that may differ.

    Of the others, how many charges are as they must be, and how many wait for the next run.
    """

    doubtful: _Ints
    charges: int
    pending: int


class Late(msgspec.Struct, frozen=True, kw_only=True):
    """The earliest usage that no run has looked at, of customers in the order of their numbers."""

    customer: _Ints
    micros: _Ints

    def since(self, customer: _Ints) -> tuple[NDArray[np.bool_], _Ints]:
        """(has such usage, from when on) of each of n customers."""
        if not len(self.customer):
            return np.zeros(len(customer), dtype=np.bool_), np.zeros(len(customer), dtype=np.int64)
        found = np.minimum(np.searchsorted(self.customer, customer), len(self.customer) - 1)
        return self.customer[found] == customer, self.micros[found]


class _Keys:
    """The charge keys of terms, found by (terms, number of the interval, start of the period)."""

    def __init__(self, ask: Ask) -> None:
        sizes = [len(each.charges) for each in ask.terms]
        term = np.repeat(np.arange(len(sizes)), sizes)
        number = np.array([each.stretch.number for each in ask.charges], dtype=np.int64)
        start = np.array([unix_micros(each.period.start) for each in ask.charges], dtype=np.int64)
        self._starts = np.unique(start)
        self._numbers = int(number.max(initial=0)) + 1
        keys = self._packed(term, number, np.searchsorted(self._starts, start))
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self.begin = np.cumsum([0, *sizes])[:-1].astype(np.int64)

    def _packed(self, term: _Ints, number: _Ints, start: NDArray[np.intp]) -> _Ints:
        return (term * self._numbers + number) * len(self._starts) + start

    def find(self, *, term: _Ints, number: _Ints, start: _Ints) -> tuple[NDArray[np.bool_], _Ints]:
        """(is a key, its place among the charges of its terms) of each of n lines."""
        if not len(self._keys):
            return np.zeros(len(term), dtype=np.bool_), np.zeros(len(term), dtype=np.int64)
        rank = np.minimum(np.searchsorted(self._starts, start), len(self._starts) - 1)
        wanted = self._packed(term, np.minimum(number, self._numbers - 1), rank)
        near = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        known = (
            (self._keys[near] == wanted)
            & (self._starts[rank] == start)
            & (number >= 0)
            & (number < self._numbers)
        )
        return known, self._order[near] - self.begin[term]


def compare_columns(
    *,
    ask: Ask,
    amount_minor: _Ints,
    quantity_nanos: _Ints,
    customer: _Ints,
    late: Late,
    posted: PostedColumns,
) -> Compared:
    """Compare the lines of an ask, whose amounts and quantities are derived, with what is posted.

    `ask.place` are the places of its subscriptions on the page, ascending, and `customer` their
    customers' numbers; posted lines of other places are left out. A posted line of no charge that
    is derived, or of a group, makes its subscription doubtful.
    """
    members = len(ask.term)
    near = np.minimum(np.searchsorted(ask.place, posted.place), max(members - 1, 0))
    mine = np.flatnonzero(ask.place[near] == posted.place) if members else near[:0]
    member, doubt = near[mine], np.zeros(members, dtype=np.bool_)
    known, place = _Keys(ask).find(
        term=ask.term[member], number=posted.number[mine], start=posted.start_micros[mine]
    )
    known &= posted.grouped[mine] == 0
    doubt[member[~known]] = True
    offsets = np.cumsum(ask.count) - ask.count
    total = np.zeros(len(ask.charge), dtype=np.int64)
    line = offsets[member[known]] + place[known]
    np.add.at(total, line, posted.amount_minor[mine[known]])
    owner = np.repeat(np.arange(members), ask.count)
    pending = _pending(ask, customer=customer, late=late, owner=owner)
    unlike = total != amount_minor
    unlike |= _told_otherwise(ask, quantity_nanos, posted, line, mine[known])
    doubt[owner[unlike & ~pending]] = True
    sound = ~doubt[owner]
    waiting = int(np.count_nonzero(pending & sound))
    return Compared(
        doubtful=ask.place[doubt],
        charges=int(np.count_nonzero(sound)) - waiting,
        pending=waiting,
    )


def _told_otherwise(
    ask: Ask, derived: _Ints, posted: PostedColumns, line: _Ints, of: _Ints
) -> NDArray[np.bool_]:
    """Whether what standing lines tell of each line is another quantity than is derived.

    Posted line of[i] is of line[i]: usage is told by all of them together, seats by each.
    """
    usage = np.array([each.is_usage for each in ask.charges], dtype=np.bool_)[ask.charge]
    counting = posted.counting[of] != 0
    line, nanos = line[counting], posted.quantity_nanos[of[counting]]
    told, some = np.zeros(len(derived), dtype=np.int64), np.zeros(len(derived), dtype=np.bool_)
    np.add.at(told, line, nanos)
    some[line] = True
    unlike = some & usage & (told != derived)
    unlike[line[nanos != derived[line]]] |= ~usage[line[nanos != derived[line]]]
    return unlike


def _pending(
    ask: Ask, *, customer: _Ints, late: Late, owner: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Whether usage that no run has looked at reaches into each line."""
    usage = np.array([each.is_usage for each in ask.charges], dtype=np.bool_)
    end = np.array([unix_micros(each.active.end) for each in ask.charges], dtype=np.int64)
    some, since = late.since(customer)
    return usage[ask.charge] & some[owner] & (end[ask.charge] > since[owner])


def joined_places(parts: Sequence[_Ints]) -> list[int]:
    """Places of several kinds, in order."""
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *parts])).tolist()
