"""Right-to-left text as its readers write it: runs in seen order, letters joined by the font.

HarfBuzz and the bidirectional algorithm are an extra (`intl`); without it `pdf_script` draws
Arabic and Hebrew well enough to be read, without marks and ligatures beyond lam-alef.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec
from reportlab.pdfbase import pdfmetrics

harfbuzz: Any
try:
    import uharfbuzz as harfbuzz
    from bidi import get_base_level, get_display
except ImportError:  # the extra is not installed
    harfbuzz = get_base_level = get_display = None

# A glyph that no character of the font stands for is registered under one of private use.
_PRIVATE: Final = 0xE000
_PRIVATE_END: Final = 0xF8FF
_CLOSES: Final[Mapping[str, str]] = MappingProxyType(
    {"(": ")", "[": "]", "{": "}", "<": ">", "«": "»"}
)
_OTHER: Final[Mapping[str, str]] = MappingProxyType(
    {**_CLOSES, **{closing: opening for opening, closing in _CLOSES.items()}}
)
JOINERS: Final = "\u200c\u200d"


class Glyph(msgspec.Struct, frozen=True):
    """One drawn glyph: the character that the font is asked for, and its place, per point."""

    char: str
    advance: float
    nominal: float
    shift: float
    rise: float


def can_shape() -> bool:
    """Whether the extra is installed."""
    return harfbuzz is not None and get_display is not None


def is_right_to_left(text: str) -> bool:
    """Whether anything in the text runs from right to left."""
    return not text.isascii() and any(
        unicodedata.bidirectional(char) in {"R", "AL"} for char in text
    )


def _kind(char: str) -> bool:
    return char in JOINERS or unicodedata.bidirectional(char) in {"R", "AL", "NSM"}


def mirror_brackets(seen: str, *, right_to_left: bool) -> str:
    """Brackets turned that stand in right-to-left text: there the closing one comes first.

    A bracket without a partner is turned when the line runs from right to left.
    """
    drawn, waiting = list(seen), list[int]()
    for at, char in enumerate(seen):
        if char not in _OTHER:
            continue
        if not waiting or seen[waiting[-1]] != _OTHER[char]:
            waiting.append(at)
            continue
        first = waiting.pop()
        if seen[first] not in _CLOSES:
            drawn[first], drawn[at] = char, seen[first]
    if right_to_left:
        for at in waiting:
            drawn[at] = _OTHER[seen[at]]
    return "".join(drawn)


def seen_pieces(line: str) -> Iterator[tuple[bool, str]]:
    """The line cut in seen order into (right to left, text); such text is in reading order."""
    assert get_display is not None
    assert get_base_level is not None
    seen = mirror_brackets(cast("str", get_display(line)), right_to_left=get_base_level(line) == 1)
    for backwards, group in groupby(seen, key=_kind):
        piece = "".join(group)
        yield backwards, piece[::-1] if backwards else piece


@lru_cache(maxsize=16)
def _font(face: str) -> Any:
    assert harfbuzz is not None
    data = cast("Any", pdfmetrics.getFont(face)).face._ttf_data  # noqa: SLF001
    return harfbuzz.Font(harfbuzz.Face(harfbuzz.Blob(data)))


def _char_of(face: str, glyph: int, advance: float) -> str:
    """A character that makes the font draw this very glyph; the same in every process."""
    known = cast("Any", pdfmetrics.getFont(face)).face
    if found := known.glyphToChar.get(glyph):
        return chr(found[0])
    code = _PRIVATE + glyph
    if code > _PRIVATE_END or known.charToGlyph.get(code, glyph) != glyph:
        raise LookupError(glyph)
    known.charToGlyph[code] = glyph
    known.charWidths[code] = advance * 1000
    return chr(code)


def shape_glyphs(*, face: str, text: str) -> list[Glyph]:
    """Glyphs of right-to-left `text` in seen order; LookupError when the font lacks one."""
    assert harfbuzz is not None
    font = _font(face)
    units = font.face.upem
    buffer = harfbuzz.Buffer()
    buffer.add_str(text)
    buffer.guess_segment_properties()
    buffer.direction = "rtl"
    harfbuzz.shape(font, buffer, {"kern": True, "liga": True})
    widths = cast("Any", pdfmetrics.getFont(face)).face.charWidths
    drawn: list[Glyph] = []
    for info, place in zip(buffer.glyph_infos, buffer.glyph_positions, strict=True):
        if info.codepoint == 0:
            raise LookupError(info.cluster)
        char = _char_of(face, info.codepoint, font.get_glyph_h_advance(info.codepoint) / units)
        drawn.append(
            Glyph(
                char,
                place.x_advance / units,
                widths[ord(char)] / 1000,
                place.x_offset / units,
                place.y_offset / units,
            )
        )
    return drawn
