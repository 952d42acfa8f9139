"""Expressions: what may be written, where what may not be is refused, and what events are worth."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.formula import value_of, values_of
from metering.values import parse_value
from plans.expression import (
    DEEPEST,
    LONGEST,
    Arithmetic,
    ExpressionError,
    Number,
    Property,
    is_property,
    parse_expression,
)
from tests.metering_oracle import half_away


@pytest.mark.parametrize(
    ("text", "position", "told"),
    [
        ("", 1, "it ends"),
        ("  ", 3, "it ends"),
        ("a +", 4, "it ends"),
        ("a b", 3, "'b' stands"),
        ("(a", 3, "')'"),
        ("a)", 2, "')' stands"),
        ("a ? b", 3, "not understood"),
        ("1e3", 1, "not understood"),
        (".5", 1, "not understood"),
        ("5.", 1, "not understood"),
        ("2a", 1, "not understood"),
        ("a.b", 2, "not understood"),
        ("'x'", 1, "not understood"),
        ("a == b", 3, "'==' stands"),
        ("a = b", 3, "not understood"),
        ("a ** b", 4, "'*' stands"),
        ("+a", 1, "'+' stands"),
        ("é", 1, "not understood"),
        ("٣", 1, "not understood"),
        ("a / 0", 5, "division by zero"),
        ("a / -0.0", 5, "division by zero"),
        ("1234567890123456789", 1, "18 digits"),
        ("0.1234567890123", 1, "12 after the point"),
        ("n" * 101, 1, "100 letters"),
        ("open(a)", 1, "no function 'open'"),
        ("__import__(a)", 1, "no function"),
        ("min(a)", 6, "',' is expected"),
        ("max()", 5, "')' stands"),
        ("round(a)", 8, "',' is expected"),
        ("round(a, b)", 10, "a whole number of digits"),
        ("round(a, 1.5)", 10, "a whole number of digits"),
        ("round(a, 13)", 10, "digits go from -15 to 12"),
        ("round(a, -16)", 10, "digits go from -15 to 12"),
        ("if(a, b, c)", 5, "a comparison"),
        ("if(a < b < c, d, e)", 10, "',' is expected"),
        ("if(a < b, c)", 12, "',' is expected"),
        ("(" * (DEEPEST + 1), DEEPEST + 1, "nested deeper"),
        ("-" * LONGEST, DEEPEST + 1, "nested deeper"),
        ("a+" * LONGEST, LONGEST + 1, "at most 500 characters"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, position, told):
    with pytest.raises(ExpressionError) as caught:
        parse_expression(text)
    assert caught.value.position == position
    assert told in str(caught.value)
    assert str(caught.value).endswith(f"at position {position}")


def test_operations_bind_as_usual():
    a, b, c = Property("a"), Property("b"), Property("c")
    assert parse_expression("a-b-c") == Arithmetic("-", Arithmetic("-", a, b), c)
    assert parse_expression("a+b*c") == Arithmetic("+", a, Arithmetic("*", b, c))
    assert parse_expression("(a+b)/c") == Arithmetic("/", Arithmetic("+", a, b), c)
    assert parse_expression("- - 2.50") == Number(Fraction(5, 2))
    assert parse_expression("\tmin\n") == Property("min")
    assert [is_property(each) for each in ("a", "if", "a b", "a+b", "1", "")] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("max((input + output * 3) / 1000, 1)", "5"),
        ("if(cached == 1, input / 2, input)", "1000"),
        ("if(cached != 1, missing, input)", "2000"),
        ("if(zero == 0, 7, input / zero)", "7"),
        ("input / 3", "666.666666666667"),
        ("-input / 3", "-666.666666666667"),
        ("input / 3 * 3", "2000"),
        ("round(input / 3, 1)", "666.7"),
        ("round(0.5, 0) + round(-0.5, 0)", "0"),
        ("round(-2.5, 0)", "-3"),
        ("round(input + 550, -2)", "2600"),
        ("text * 2", "5"),
        ("min(input, output, zero, 3)", "0"),
        ("input / zero", None),
        ("missing + 1", None),
        ("bad + 1", None),
        ("flag + 1", None),
        ("null + 1", None),
        ("999999999999999999 + 1", None),
        ("999999999999999999 * 10 - 999999999999999999 * 9", "999999999999999999"),
        ("0.0000001 * 0.000001", "0"),
    ],
)
def test_what_an_event_is_worth(text, value):
    data = {"input": 2000, "output": 1000, "cached": 1, "zero": 0, "text": "2.50"}
    data |= {"bad": "1e3", "flag": True, "null": None}
    expected = None if value is None else parse_value(value)
    assert value_of(expression=parse_expression(text), data=data) == expected
    assert column_of(text, [data, data]) == [None if value is None else Fraction(value)] * 2


def column_of(text, datas):
    """The values by way of columns, None for events without one."""
    kept, column, pairs, digits = values_of(
        expression=parse_expression(text), datas=datas, positions=range(len(datas))
    )
    found = [None] * len(datas)
    values = (
        [Fraction(mantissa, 10**each) for mantissa, each in pairs]
        if column is None
        else [Fraction(int(mantissa), 10**digits) for mantissa in column]
    )
    for at, value in zip(kept, values, strict=True):
        found[at] = value
    return found


class NoValueError(Exception):
    pass


def number(value):
    pair = parse_value(value)
    if pair is None:
        raise NoValueError
    return Fraction(pair[0], 10 ** pair[1])


def divide(left, right):
    if right == 0:
        raise NoValueError
    return left / right


NAMES = ("a", "b", "c", "min")
OPERATIONS = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": divide,
}
COMPARISONS = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def leaves():
    numbers = st.sampled_from(["1", "2", "3", "8", "1000", "0.25", "12.5", "999999999999999999"])
    names = st.sampled_from(NAMES)
    return st.one_of(
        numbers.map(lambda text: (text, lambda data: Fraction(text))),
        names.map(lambda name: (name, lambda data: number(data.get(name)))),
    )


def larger(inner):
    """(text, meaning) pairs made of smaller ones: the meaning is a Python function of the data."""
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), pairs).map(
            lambda each: (
                f"({each[1][0][0]} {each[0]} {each[1][1][0]})",
                lambda data: OPERATIONS[each[0]](each[1][0][1](data), each[1][1][1](data)),
            )
        ),
        inner.map(lambda each: (f"-{each[0]}", lambda data: -each[1](data))),
        st.tuples(st.sampled_from([min, max]), pairs).map(
            lambda each: (
                f"{each[0].__name__}({each[1][0][0]}, {each[1][1][0]})",
                lambda data: each[0](each[1][0][1](data), each[1][1][1](data)),
            )
        ),
        st.tuples(inner, st.integers(-3, 12)).map(
            lambda each: (
                f"round({each[0][0]}, {each[1]})",
                lambda data: half_away(each[0][1](data), digits=each[1]),
            )
        ),
        st.tuples(st.sampled_from(sorted(COMPARISONS)), pairs, pairs).map(
            lambda each: (
                f"if({each[1][0][0]} {each[0]} {each[1][1][0]}, {each[2][0][0]}, {each[2][1][0]})",
                lambda data: (
                    each[2][0][1](data)
                    if COMPARISONS[each[0]](each[1][0][1](data), each[1][1][1](data))
                    else each[2][1][1](data)
                ),
            )
        ),
    )


EXPRESSIONS = st.recursive(leaves(), larger, max_leaves=10).filter(
    lambda each: len(each[0]) <= LONGEST
)
PROPERTIES = st.sampled_from(
    [0, 1, -1, 7, 2000, 10**17, "0.5", "-1.25", "0.000000000001", "999999999999999999.5"]
)
GOOD = st.fixed_dictionaries(dict.fromkeys(NAMES, PROPERTIES))
BAD = st.dictionaries(st.sampled_from(NAMES), st.one_of(PROPERTIES, st.sampled_from([None, "x"])))


@settings(max_examples=150, deadline=None)
@given(
    expression=EXPRESSIONS,
    datas=st.one_of(
        st.lists(GOOD, min_size=1, max_size=6), st.lists(st.one_of(GOOD, BAD), max_size=6)
    ),
)
def test_columns_and_events_equal_the_meaning(expression, datas):
    text, meaning = expression
    wanted = []
    for data in datas:
        try:
            found = half_away(meaning(data), digits=12)
        except NoValueError:
            found = None
        wanted.append(found if found is not None and abs(found) < 10**18 else None)
    single = [value_of(expression=parse_expression(text), data=data) for data in datas]
    assert [None if each is None else Fraction(each[0], 10 ** each[1]) for each in single] == wanted
    assert column_of(text, datas) == wanted


def test_common_expressions_stay_in_columns():
    datas = [{"input": 10**6 + each, "output": each, "cached": each % 2} for each in range(50)]
    for text in (
        "max((input + output * 3) / 1000, 1)",
        "if(cached == 1, input / 2, input)",
        "round(input * 1.25, 1) - -output",
        "input / 3 + output / 7",
        "round(input * 1000 / 1073741824, 6)",
        "round(input, -3)",
    ):
        _, column, _, _ = values_of(
            expression=parse_expression(text), datas=datas, positions=range(50)
        )
        assert column is not None
        assert column.shape == (50,)
