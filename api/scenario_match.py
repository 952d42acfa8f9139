"""Comparing what a scenario expects with what came: pure, each difference a sentence.

An expected object names only the fields it checks. Lists are complete and in order; the lines of
a document are complete in any order. Amounts compare as decimals, times as instants.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, cast

import msgspec

from api.scenario_file import read_instant

_NUMBER: Final = re.compile(r"^-?[0-9]+(\.[0-9]+)?$")
ANY_ORDER: Final = frozenset({"lines"})
SUBSETS: Final = {"lines_include": "lines"}
_MISSING: Final = object()


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as expected: where, what was written, what came."""

    place: str
    expected: str
    actual: str

    def __str__(self) -> str:
        """As one line of a report."""
        return f"{self.place}: expected {self.expected}, got {self.actual}"


def number_of(value: object) -> Decimal | None:
    """The exact number a value stands for: an int, a Decimal, or plain decimal text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return Decimal(value)
    if isinstance(value, str) and _NUMBER.match(value):
        return Decimal(value)
    return None


def same_scalar(*, expected: object, actual: object) -> bool:
    """Whether two scalars mean the same: numbers, then instants, then the very value."""
    left, right = number_of(expected), number_of(actual)
    if left is not None and right is not None:
        return left == right
    since, until = read_instant(expected), read_instant(actual)
    if since is not None and until is not None:
        return since == until
    return type(expected) is type(actual) and expected == actual


def differences(*, expected: Any, actual: Any, place: str) -> list[Difference]:
    """Everything in which `actual` differs from what `expected` names; empty when it holds."""
    if isinstance(expected, Mapping):
        if not isinstance(actual, Mapping):
            return [_difference(place, expected, actual)]
        return _in_mapping(
            cast("Mapping[str, Any]", expected), cast("Mapping[str, Any]", actual), place
        )
    if isinstance(expected, list):
        if not isinstance(actual, list):
            return [_difference(place, expected, actual)]
        wanted, found = cast("list[Any]", expected), cast("list[Any]", actual)
        if len(wanted) != len(found):
            return [_difference(place, wanted, _trimmed(found, wanted))]
        return [
            entry
            for index, (one, other) in enumerate(zip(wanted, found, strict=True))
            for entry in differences(expected=one, actual=other, place=f"{place}.{index + 1}")
        ]
    if same_scalar(expected=expected, actual=actual):
        return []
    return [_difference(place, expected, actual)]


def _in_mapping(
    expected: Mapping[str, Any], actual: Mapping[str, Any], place: str
) -> list[Difference]:
    found: list[Difference] = []
    for name, wanted in expected.items():
        here = f"{place}.{name}" if place else name
        got = actual.get(SUBSETS.get(name, name), _MISSING)
        if (name in ANY_ORDER or name in SUBSETS) and isinstance(got, list):
            lines = cast("list[Any]", got)
            found += unordered(expected=wanted, actual=lines, place=here, whole=name in ANY_ORDER)
        elif got is _MISSING:
            if wanted is not None:
                found.append(Difference(place=here, expected=shown(wanted), actual="no such field"))
        else:
            found += differences(expected=wanted, actual=got, place=here)
    return found


def unordered(
    *, expected: Sequence[Any], actual: Sequence[Any], place: str, whole: bool
) -> list[Difference]:
    """Match each expected entry with one actual entry of its own, in any order.

    `whole` says that nothing may be left over on the actual side. An entry that names few fields
    may fit several: the pairing is a maximum matching, not the first that comes.
    """
    fits = [
        [
            index
            for index, got in enumerate(actual)
            if not differences(expected=wanted, actual=got, place="")
        ]
        for wanted in expected
    ]
    taken: dict[int, int] = {}

    def place_one(wanted: int, tried: set[int]) -> bool:
        for index in fits[wanted]:
            if index in tried:
                continue
            tried.add(index)
            if index not in taken or place_one(taken[index], tried):
                taken[index] = wanted
                return True
        return False

    unplaced = [wanted for wanted in range(len(expected)) if not place_one(wanted, set())]
    rest = [got for index, got in enumerate(actual) if index not in taken]
    if not unplaced and not (whole and rest):
        return []
    names = sorted({name for wanted in expected for name in wanted})
    return [
        Difference(
            place=place,
            expected=shown([expected[wanted] for wanted in unplaced]) if unplaced else "no more",
            actual=shown([_only(got, names) for got in rest]),
        )
    ]


def shown(value: Any) -> str:
    """A value as it is printed in a difference."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        return "{" + ", ".join(f"{name}: {shown(item)}" for name, item in fields.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(shown(item) for item in cast("Sequence[Any]", value)) + "]"
    return "nothing" if value is None else str(value)


def _difference(place: str, expected: Any, actual: Any) -> Difference:
    return Difference(place=place, expected=shown(expected), actual=shown(actual))


def _only(value: Any, names: Sequence[str]) -> Any:
    if not isinstance(value, Mapping):
        return value
    fields = cast("Mapping[str, Any]", value)
    return {name: fields[name] for name in names if name in fields} or fields


def _trimmed(actual: list[Any], expected: list[Any]) -> list[Any]:
    """Of each object only what the expectation speaks of, so that the message can be read."""
    names = sorted({name for wanted in expected if isinstance(wanted, Mapping) for name in wanted})
    wanted = names or ["customer", "key", "id", "total", "status", "code"]
    return [_only(got, wanted) for got in actual]
