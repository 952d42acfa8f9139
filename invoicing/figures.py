"""Numbers as a reader expects them: the locale's marks, never fewer digits than are meant.

Decimals are taken apart with enough precision for every number we accept, and an amount always
shows the digits that ISO 4217 gives its currency: the locale data round some (IQD to none).
"""

import re
import unicodedata
from decimal import Context, Decimal, localcontext
from functools import cached_property
from typing import Final

from babel.numbers import (
    NumberPattern,
    get_currency_symbol,
    get_decimal_symbol,
    parse_pattern,
)

from engine.money import currency_digits, parse_amount, parse_scaled
from invoicing.paper_party import parse_locale

PRECISION: Final = 60
QUANTITY_DIGITS: Final = 12
NO_BREAK_SPACE: Final = "\u00a0"
CURRENCY_SIGN: Final = "¤"
_NUMBER: Final = re.compile(r"[#0][#0.,]*")
# Typographic minus signs and hyphens that locales use; every font has the plain one.
_MINUS_SIGNS: Final = str.maketrans(dict.fromkeys("−‐‑‒–", "-"))


def decimal_value(text: str) -> Decimal:
    """The decimal exactly as written; `invalid_decimal` for anything we would not accept."""
    parse_scaled(text, digits=QUANTITY_DIGITS)
    return Decimal(text)


def _plain(text: str) -> str:
    """Without invisible direction marks, with a minus sign that every font can draw."""
    seen = "".join(char for char in text if unicodedata.category(char) != "Cf")
    return seen.translate(_MINUS_SIGNS)


class Figures:
    """Formats the figures of one document: amounts, prices and quantities."""

    def __init__(self, *, currency: str, locale: str = "en") -> None:
        self._locale = parse_locale(locale)
        self._currency = currency
        self._digits = currency_digits(currency)
        self._patterns: dict[int, NumberPattern] = {}

    @cached_property
    def decimal_mark(self) -> str:
        """What stands before the fraction."""
        return get_decimal_symbol(self._locale)

    @cached_property
    def _symbol(self) -> str:
        symbol = _plain(get_currency_symbol(self._currency, self._locale))
        if any(unicodedata.bidirectional(char) in {"R", "AL"} for char in symbol):
            return self._currency  # among left-to-right digits it would change places with them
        return unicodedata.normalize("NFKC", symbol)

    def _money_pattern(self, digits: int) -> NumberPattern:
        """The locale's pattern with `digits` of fraction, code and digits kept apart."""
        if digits not in self._patterns:
            text = _plain(self._locale.currency_formats["standard"].pattern)
            if self._symbol[-1:].isalpha():
                text = text.replace(f"{CURRENCY_SIGN}#", f"{CURRENCY_SIGN}{NO_BREAK_SPACE}#")
            pattern = parse_pattern(text)
            pattern.frac_prec = (digits, digits)
            self._patterns[digits] = pattern
        return self._patterns[digits]

    def _money(self, text: str, digits: int) -> str:
        with localcontext(Context(prec=PRECISION)):
            written = self._money_pattern(digits).apply(decimal_value(text), self._locale)
        return _plain(written).replace(CURRENCY_SIGN, self._symbol)

    def amount(self, text: str) -> str:
        """A posted amount in major units, with exactly the currency's digits."""
        parse_amount(text, currency=self._currency)
        return self._money(text, self._digits)

    def price(self, text: str) -> str:
        """A unit price or an unrounded amount: the currency's digits, and all finer ones."""
        fraction = text.partition(".")[2].rstrip("0")
        return self._money(text, max(self._digits, len(fraction)))

    def quantity(self, text: str) -> str:
        """A quantity with thousands separators and its own digits, trailing zeros dropped."""
        digits = len(text.partition(".")[2].rstrip("0"))
        pattern = parse_pattern(self._locale.decimal_formats[None].pattern)
        pattern.frac_prec = (digits, digits)
        with localcontext(Context(prec=PRECISION)):
            return _plain(pattern.apply(decimal_value(text), self._locale))

    def percent(self, text: str) -> str:
        """A percentage (19 is 19 %) with its own digits and the locale's sign."""
        pattern = _plain(self._locale.percent_formats[None].pattern).partition(";")[0]
        return _NUMBER.sub(lambda _: self.quantity(text), pattern, count=1)
