"""Which language a document speaks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from invoicing.paper_party import parse_locale
from invoicing.words import ar, de, en, es, fr, he, it, ja, nl, pt
from invoicing.words.phrases import Words

LANGUAGES: Final[Mapping[str, Words]] = MappingProxyType(
    {
        module.WORDS.locale: module.WORDS
        for module in (ar, de, en, es, fr, he, it, ja, nl, pt)
    }
)  # fmt: skip


def choose_words(*, locale: str) -> Words:
    """The words of the locale's language, English where there are none; `unknown_locale`."""
    language = parse_locale(locale).language
    return LANGUAGES.get("he" if language == "iw" else language, en.WORDS)
