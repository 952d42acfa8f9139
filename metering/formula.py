"""The values of expressions over events: exact, column by column where 64 bits prove to hold.

A value has at most twelve fractional digits, half away from zero beyond. An event without one is
left out: a property that the way taken needs is missing or no plain decimal, a division by zero,
a value that is not below 10^18.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import assert_never

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.money import Rounding, round_ratio
from metering.values import INT64_MAX, LIMIT, VALUE_DIGITS, parse_value, plain_integers
from plans.expression import (
    Arithmetic,
    Choice,
    Comparison,
    Expression,
    Extreme,
    Negated,
    Number,
    Property,
    Rounded,
)

_Ints = NDArray[np.int64]
_Bools = NDArray[np.bool_]


class _NoValueError(Exception):
    """The event has no value by this expression."""


class _TooMuchError(Exception):
    """64 bits do not prove to hold the column: event by event, then."""


class _Column(msgspec.Struct, frozen=True):
    """n ratios mantissa / denominator, none with a mantissa beyond `bound` on either side."""

    mantissa: _Ints
    denominator: int
    bound: int


def values_of(
    *, expression: Expression, datas: Sequence[Mapping[str, object]], positions: Sequence[int]
) -> tuple[Sequence[int], _Ints | None, Sequence[tuple[int, int]], int]:
    """The values of the events at `positions`: (positions with one, column, pairs, digits).

    Either the column holds them, in units of 10^-digits, or the pairs of (mantissa, digits) do.
    """
    if not positions:
        return positions, None, (), 0
    try:
        column, digits = _Columns(datas, positions).work_out(expression)
    except _TooMuchError:
        kept: list[int] = []
        pairs: list[tuple[int, int]] = []
        for at in positions:
            pair = value_of(expression=expression, data=datas[at])
            if pair is not None:
                kept.append(at)
                pairs.append(pair)
        return kept, None, pairs, 0
    return positions, column, (), digits


def value_of(*, expression: Expression, data: Mapping[str, object]) -> tuple[int, int] | None:
    """One event's value as (mantissa, fractional digits), no trailing zeros; None without one."""
    try:
        found = _exact(expression, data)
    except _NoValueError:
        return None
    mantissa = round_ratio(
        found.numerator * 10**VALUE_DIGITS, found.denominator, rounding=Rounding.HALF_UP
    )
    if abs(mantissa) >= LIMIT * 10**VALUE_DIGITS:
        return None
    digits = VALUE_DIGITS
    while digits and mantissa % 10 == 0:
        mantissa, digits = mantissa // 10, digits - 1
    return mantissa, digits


def _exact(expression: Expression, data: Mapping[str, object]) -> Fraction:
    match expression:
        case Number(value):
            return value
        case Property(name):
            pair = parse_value(data.get(name))
            if pair is None:
                raise _NoValueError
            return Fraction(pair[0], 10 ** pair[1])
        case Negated(operand):
            return -_exact(operand, data)
        case Arithmetic(operator, left, right):
            return _operated(operator, _exact(left, data), _exact(right, data))
        case Extreme(largest, operands):
            found = [_exact(each, data) for each in operands]
            return max(found) if largest else min(found)
        case Rounded(operand, digits):
            scaled = _exact(operand, data) * Fraction(10) ** digits
            whole = round_ratio(scaled.numerator, scaled.denominator, rounding=Rounding.HALF_UP)
            return whole / Fraction(10) ** digits
        case Choice(comparison, left, right, then, otherwise):
            sign = _exact(left, data) - _exact(right, data)
            return _exact(then if _holds(comparison, sign) else otherwise, data)
        case _:
            assert_never(expression)


def _operated(operator: str, left: Fraction, right: Fraction) -> Fraction:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if not right:
        raise _NoValueError
    return left / right


def _holds(comparison: Comparison, difference: Fraction) -> bool:
    """Whether left and right compare so, told by left - right."""
    if comparison in {"==", "!="}:
        return (difference == 0) == (comparison == "==")
    if comparison in {"<=", ">="} and difference == 0:
        return True
    return difference < 0 if comparison[0] == "<" else difference > 0


class _Columns:
    """The properties of n events as columns, worked out together. Raises _TooMuchError."""

    def __init__(self, datas: Sequence[Mapping[str, object]], positions: Sequence[int]) -> None:
        self._datas, self._positions = datas, positions
        self._known: dict[str, _Column] = {}

    def work_out(self, expression: Expression) -> tuple[_Ints, int]:
        """The values with at most twelve digits, as few as all of them need."""
        found = self._column(expression)
        digits = _digits_of(found.denominator)
        mantissa = _rounded(found, digits).mantissa
        while digits and not bool((mantissa % 10).any()):
            mantissa, digits = mantissa // 10, digits - 1
        if max(abs(int(mantissa.max())), abs(int(mantissa.min()))) >= LIMIT * 10**digits:
            raise _TooMuchError
        return mantissa, digits

    def _column(self, expression: Expression) -> _Column:
        match expression:
            case Number(value):
                return _constant(value, len(self._positions))
            case Property(name):
                return self._property(name)
            case Negated(operand):
                found = self._column(operand)
                return _Column(-found.mantissa, found.denominator, found.bound)
            case Arithmetic("/", left, right):
                return _divided(self._column(left), right)
            case Arithmetic("*", left, right):
                return _multiplied(self._column(left), self._column(right))
            case Arithmetic(operator, left, right):
                return _added(operator, *_aligned(self._column(left), self._column(right)))
            case Extreme(largest, operands):
                found = self._column(operands[0])
                for each in operands[1:]:
                    found = _extreme(*_aligned(found, self._column(each)), largest=largest)
                return found
            case Rounded(operand, digits):
                return _rounded(self._column(operand), digits)
            case Choice(comparison, left, right, then, otherwise):
                holds = _compared(comparison, *_aligned(self._column(left), self._column(right)))
                one, other = _aligned(self._column(then), self._column(otherwise))
                chosen = np.where(holds, one.mantissa, other.mantissa)
                return _Column(chosen, one.denominator, max(one.bound, other.bound))
            case _:
                assert_never(expression)

    def _property(self, name: str) -> _Column:
        found = self._known.get(name)
        if found is None:
            datas = self._datas
            values = [datas[at].get(name) for at in self._positions]
            plain = plain_integers(values)
            found = _decimals(values) if plain is None else _bounded(plain, 1)
            self._known[name] = found
        return found


def _proved(bound: int) -> int:
    if bound > INT64_MAX:
        raise _TooMuchError
    return bound


def _bounded(mantissa: _Ints, denominator: int) -> _Column:
    return _Column(mantissa, denominator, max(abs(int(mantissa.max())), abs(int(mantissa.min()))))


def _decimals(values: Sequence[object]) -> _Column:
    pairs: list[tuple[int, int]] = []
    for value in values:
        pair = parse_value(value)
        if pair is None:
            raise _TooMuchError
        pairs.append(pair)
    digits = max(fraction for _, fraction in pairs)
    mantissas = [mantissa * 10 ** (digits - fraction) for mantissa, fraction in pairs]
    _proved(max(map(abs, mantissas)))
    return _bounded(np.array(mantissas, dtype=np.int64), 10**digits)


def _constant(value: Fraction, count: int) -> _Column:
    mantissa, bound = value.numerator, _proved(abs(value.numerator))
    return _Column(np.full(count, mantissa, dtype=np.int64), value.denominator, bound)


def _digits_of(denominator: int) -> int:
    """How many fractional digits such ratios are told with: as many as they need, or twelve."""
    for digits in range(VALUE_DIGITS):
        if 10**digits % denominator == 0:
            return digits
    return VALUE_DIGITS


def _aligned(left: _Column, right: _Column) -> tuple[_Column, _Column]:
    denominator = lcm(left.denominator, right.denominator)
    return _over(left, denominator), _over(right, denominator)


def _over(column: _Column, denominator: int) -> _Column:
    factor = denominator // column.denominator
    if factor == 1:
        return column
    bound = _proved(max(1, column.bound) * factor)
    return _Column(column.mantissa * np.int64(factor), denominator, bound)


def _added(operator: str, left: _Column, right: _Column) -> _Column:
    bound = _proved(left.bound + right.bound)
    if operator == "+":
        return _Column(left.mantissa + right.mantissa, left.denominator, bound)
    return _Column(left.mantissa - right.mantissa, left.denominator, bound)


def _multiplied(left: _Column, right: _Column) -> _Column:
    bound = _proved(left.bound * right.bound)
    return _Column(left.mantissa * right.mantissa, left.denominator * right.denominator, bound)


def _divided(left: _Column, right: Expression) -> _Column:
    """By a number that is written out, such as 1000."""
    if not isinstance(right, Number):
        raise _TooMuchError
    return _multiplied(left, _constant(1 / right.value, 1))


def _extreme(left: _Column, right: _Column, *, largest: bool) -> _Column:
    chosen = (np.maximum if largest else np.minimum)(left.mantissa, right.mantissa)
    return _Column(chosen, left.denominator, max(left.bound, right.bound))


def _rounded(column: _Column, digits: int) -> _Column:
    """With so many digits, half away from zero: long division, as many digits at once as fit."""
    scale = 10 ** max(0, digits)
    divisor = column.denominator * 10 ** max(0, -digits)
    bound = _proved((column.bound // divisor + 1) * scale * 10 ** max(0, -digits))
    _proved(10 * divisor)
    whole, rest = np.divmod(np.abs(column.mantissa), np.int64(divisor))
    left = max(0, digits)
    while left:
        step = min(left, len(str(INT64_MAX // divisor)) - 1)
        rest = rest * np.int64(10**step)
        whole = whole * np.int64(10**step) + rest // np.int64(divisor)
        rest, left = rest % np.int64(divisor), left - step
    whole = (whole + (2 * rest >= divisor)) * np.int64(10 ** max(0, -digits))
    return _Column(np.sign(column.mantissa) * whole, scale, bound)


def _compared(comparison: Comparison, left: _Column, right: _Column) -> _Bools:
    one, other = left.mantissa, right.mantissa
    match comparison:
        case "==":
            return one == other
        case "!=":
            return one != other
        case "<":
            return one < other
        case "<=":
            return one <= other
        case ">":
            return one > other
        case ">=":
            return one >= other
