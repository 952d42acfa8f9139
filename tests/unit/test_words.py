"""Every language has every word, with the same blanks, in characters that the fonts have."""

from string import Formatter

import pytest

from invoicing.pdf_text import MISSING_MARK, figure_runs, plain_text
from invoicing.words.choose import LANGUAGES, choose_words

ENGLISH = LANGUAGES["en"]
PHRASES = [name for name in ENGLISH.__struct_fields__ if name not in {"locale", "right_to_left"}]


def blanks(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_phrase_is_there_with_its_blanks_and_can_be_drawn(language) -> None:
    words = LANGUAGES[language]
    for name in PHRASES:
        text = getattr(words, name)
        assert text.strip(), name
        assert blanks(text) == blanks(getattr(ENGLISH, name)), name
        assert MISSING_MARK not in plain_text(text=text), name
        for bold in (False, True):
            figure_runs(text=text, field=name, bold=bold)


@pytest.mark.parametrize("language", sorted(set(LANGUAGES) - {"en"}))
def test_a_language_is_not_english_again(language) -> None:
    same = [
        name for name in PHRASES if getattr(LANGUAGES[language], name) == getattr(ENGLISH, name)
    ]
    assert len(same) < len(PHRASES) // 8, same


@pytest.mark.parametrize(
    ("locale", "language"),
    [
        ("de-AT", "de"),
        ("pt_BR", "pt"),
        ("iw", "he"),
        ("sv", "en"),
        ("en-GB", "en"),
        ("ar-EG", "ar"),
    ],
)
def test_a_locale_speaks_its_language_or_english(locale, language) -> None:
    assert choose_words(locale=locale) is LANGUAGES[language]


def test_sheets_read_from_the_right_say_so() -> None:
    assert {name for name, words in LANGUAGES.items() if words.right_to_left} == {"ar", "he"}
