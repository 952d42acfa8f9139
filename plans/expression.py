"""A meter's value as arithmetic over the properties of an event: what may be written. Pure.

    sum        = product (("+" | "-") product)*
    product    = factor (("*" | "/") factor)*
    factor     = "-" factor | number | property | function | "(" sum ")"
    function   = ("min" | "max") "(" sum ("," sum)+ ")" | "round" "(" sum "," ["-"] digits ")"
               | "if" "(" sum ("==" | "!=" | "<" | "<=" | ">" | ">=") sum "," sum "," sum ")"

A name that no parenthesis follows is a property. Nothing is ever evaluated as code.
"""

import functools
import re
from fractions import Fraction
from typing import Final, Literal, cast

import msgspec

LONGEST: Final = 500
DEEPEST: Final = 24
ROUNDED_DIGITS: Final = range(-15, 13)
_PROPERTY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z", re.ASCII)
_TOKEN: Final = re.compile(
    r"[ \t\r\n]*(?:(?P<number>[0-9]+(?:\.[0-9]+)?)(?![A-Za-z0-9_.])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<sign>==|!=|<=|>=|[-+*/(),<>])|(?P<end>\Z))",
    re.ASCII,
)
_NUMBER: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,12})?\Z", re.ASCII)

Comparison = Literal["==", "!=", "<", "<=", ">", ">="]
_COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")


class ExpressionError(Exception):
    """What is wrong with an expression; `position` is the place of the character, from 1."""

    def __init__(self, detail: str, *, position: int) -> None:
        """Tell what is wrong, and where."""
        super().__init__(f"{detail} at position {position}")
        self.position = position


class Number(msgspec.Struct, frozen=True):
    """A literal, with its sign."""

    value: Fraction


class Property(msgspec.Struct, frozen=True):
    """The number that a property of `data` holds."""

    name: str


class Negated(msgspec.Struct, frozen=True):
    """The operand with the other sign."""

    operand: "Expression"


class Arithmetic(msgspec.Struct, frozen=True):
    """One of the four operations."""

    operator: Literal["+", "-", "*", "/"]
    left: "Expression"
    right: "Expression"


class Extreme(msgspec.Struct, frozen=True):
    """The largest or the smallest of the operands."""

    largest: bool
    operands: "tuple[Expression, ...]"


class Rounded(msgspec.Struct, frozen=True):
    """The operand with so many fractional digits, half away from zero; digits may be negative."""

    operand: "Expression"
    digits: int


class Choice(msgspec.Struct, frozen=True):
    """`then` where the comparison holds, else `otherwise`; only the one chosen is worked out."""

    comparison: Comparison
    left: "Expression"
    right: "Expression"
    then: "Expression"
    otherwise: "Expression"


Expression = Number | Property | Negated | Arithmetic | Extreme | Rounded | Choice


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    position: int


def properties_of(expression: Expression) -> frozenset[str]:
    """The properties that an expression may read."""
    if isinstance(expression, Property):
        return frozenset((expression.name,))
    if isinstance(expression, Number):
        return frozenset()
    if isinstance(expression, Extreme):
        operands = expression.operands
    elif isinstance(expression, Negated | Rounded):
        operands = (expression.operand,)
    elif isinstance(expression, Arithmetic):
        operands = (expression.left, expression.right)
    else:
        assert isinstance(expression, Choice)
        operands = (expression.left, expression.right, expression.then, expression.otherwise)
    return frozenset().union(*map(properties_of, operands))


def is_property(value: str) -> bool:
    """Whether a meter's value is the bare name of a property."""
    return _PROPERTY.match(value) is not None


@functools.lru_cache(maxsize=1024)
def parse_expression(value: str) -> Expression:
    """The meaning of an expression of at most LONGEST characters. Raises ExpressionError."""
    if len(value) > LONGEST:
        detail = f"an expression has at most {LONGEST} characters: this one goes on"
        raise ExpressionError(detail, position=LONGEST + 1)
    return _Parser(_tokens(value)).whole()


def _tokens(value: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(value, at)
        if match is None or match.lastgroup is None:
            begin = re.compile(r"[ \t\r\n]*").match(value, at)
            at = at if begin is None else begin.end()
            raise ExpressionError(f"{value[at : at + 10]!r} is not understood", position=at + 1)
        kind = match.lastgroup
        token = _Token(kind, match[kind], match.start(kind) + 1)
        if kind == "number" and _NUMBER.match(token.text) is None:
            detail = "a number has at most 18 digits, and 12 after the point"
            raise ExpressionError(detail, position=token.position)
        if kind == "name" and not is_property(token.text):
            raise ExpressionError("a name has at most 100 letters", position=token.position)
        found.append(token)
        at = match.end()
    return found


class _Parser:
    """Reads tokens from left to right, one look ahead."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        found = self._sum()
        if self._next.kind != "end":
            raise self._unexpected("an operator or the end")
        return found

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _unexpected(self, wanted: str) -> ExpressionError:
        token = self._next
        met = "it ends" if token.kind == "end" else f"{token.text[:20]!r} stands"
        return ExpressionError(f"{met} where {wanted} is expected", position=token.position)

    def _took(self, *signs: str) -> str | None:
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._at += 1
        return token.text

    def _take(self, sign: str) -> None:
        if self._took(sign) is None:
            raise self._unexpected(repr(sign))

    def _sum(self) -> Expression:
        left = self._product()
        while (sign := self._took("+", "-")) is not None:
            left = Arithmetic(cast("Literal['+', '-']", sign), left, self._product())
        return left

    def _product(self) -> Expression:
        left = self._factor()
        while (sign := self._took("*", "/")) is not None:
            position = self._next.position
            right = self._factor()
            if sign == "/" and right == Number(Fraction(0)):
                raise ExpressionError("a division by zero", position=position)
            left = Arithmetic(cast("Literal['*', '/']", sign), left, right)
        return left

    def _factor(self) -> Expression:
        self._depth += 1
        if self._depth > DEEPEST:
            detail = f"nested deeper than {DEEPEST}"
            raise ExpressionError(detail, position=self._next.position)
        found = self._primary()
        self._depth -= 1
        return found

    def _primary(self) -> Expression:
        token = self._next
        if self._took("-") is not None:
            operand = self._factor()
            return Number(-operand.value) if isinstance(operand, Number) else Negated(operand)
        if self._took("(") is not None:
            inner = self._sum()
            self._take(")")
            return inner
        if token.kind == "number":
            self._at += 1
            return Number(Fraction(token.text))
        if token.kind == "name":
            self._at += 1
            return Property(token.text) if self._took("(") is None else self._function(token)
        raise self._unexpected("a number, a property or a function")

    def _function(self, name: _Token) -> Expression:
        if name.text in {"min", "max"}:
            operands = [self._sum()]
            while len(operands) == 1 or self._next.text == ",":
                self._take(",")
                operands.append(self._sum())
            found: Expression = Extreme(name.text == "max", tuple(operands))
        elif name.text == "round":
            operand = self._sum()
            self._take(",")
            found = Rounded(operand, self._digits())
        elif name.text == "if":
            found = self._choice()
        else:
            detail = f"there is no function {name.text[:40]!r}: min, max, round and if there are"
            raise ExpressionError(detail, position=name.position)
        self._take(")")
        return found

    def _choice(self) -> Choice:
        left = self._sum()
        comparison = self._took(*_COMPARISONS)
        if comparison is None:
            raise self._unexpected("a comparison")
        right = self._sum()
        self._take(",")
        then = self._sum()
        self._take(",")
        return Choice(cast("Comparison", comparison), left, right, then, self._sum())

    def _digits(self) -> int:
        """The second argument of `round`: written out, so that it is the same for every event."""
        position = self._next.position
        sign = -1 if self._took("-") is not None else 1
        token = self._next
        if token.kind != "number" or not token.text.isdigit():
            raise self._unexpected("a whole number of digits")
        self._at += 1
        digits = sign * int(token.text)
        if digits not in ROUNDED_DIGITS:
            detail = f"digits go from {ROUNDED_DIGITS[0]} to {ROUNDED_DIGITS[-1]}"
            raise ExpressionError(detail, position=position)
        return digits
