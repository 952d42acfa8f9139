"""Text that cannot lose a character on paper: every one is looked up before it is drawn.

A font drops what it lacks without a word, and a dropped minus sign turns a credit into a debt.
Figures therefore raise when no shipped font has a character; free text shows a mark instead.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from io import BytesIO
from itertools import groupby
from typing import Final, cast

import msgspec
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont

from engine.errors import BillingError
from invoicing.pdf_script import join_letters, visual_order
from invoicing.pdf_shaping import (
    JOINERS,
    Glyph,
    can_shape,
    is_right_to_left,
    seen_pieces,
    shape_glyphs,
)

HAN: Final = "DroidSansFallbackFull"
JAPANESE: Final = "MTLc3m"
REGULAR: Final = (
    "NotoSans-Regular", "NotoSansArabic-Regular", "NotoSansHebrew-Regular", "DejaVuSans",
    HAN, JAPANESE,
)  # fmt: skip
BOLD: Final = (
    "NotoSans-Bold", "NotoSansArabic-Bold", "NotoSansHebrew-Bold", "DejaVuSans-Bold",
    HAN, JAPANESE,
)  # fmt: skip
MISSING_MARK: Final = "□"
ELLIPSIS: Final = "…"
CHARACTER_LIMIT: Final = 2400
_SPACES: Final = re.compile(r"\s+")
# Closing marks that a line of Chinese or Japanese does not begin with.
_NEVER_FIRST: Final = (
    "、。，．・：；？！）」』】〉》〕］｝ーぁぃぅぇぉっゃゅょァィゥェォッャュョ々〜"
)
# Same meaning, plainer sign: the only changes that a figure suffers.
_PLAINER: Final = {"−": "-", "‑": "-", "‐": "-", "\u202f": " ", "\u2009": " ", "\u00a0": " "}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of one line that one font can draw; its measures are for a size of one point.

    `shift` and `rise` move what is drawn, not what follows. `heavy` thickens a face without a
    bold cut.
    """

    face: str
    text: str
    width: float
    shift: float = 0.0
    rise: float = 0.0
    heavy: bool = False


@lru_cache(maxsize=len(set(REGULAR + BOLD)))
def _widths(face: str) -> Mapping[int, float]:
    """Advance widths in thousandths by character; loads and registers the font at first use."""
    font = TTFont(face, BytesIO((files("invoicing") / "fonts" / f"{face}.ttf").read_bytes()))
    pdfmetrics.registerFont(font)
    glyphs = cast("Mapping[int, int]", font.face.charToGlyph)
    widths = cast("Mapping[int, float]", font.face.charWidths)
    return {char: widths[char] for char, glyph in glyphs.items() if glyph and char in widths}


def _face_of(char: str, faces: tuple[str, ...]) -> str | None:
    return next((face for face in faces if ord(char) in _widths(face)), None)


def _known(char: str, faces: tuple[str, ...]) -> str | None:
    """The character, or a plainer one that a font has."""
    if _face_of(char, faces) is not None:
        return char
    plainer = _PLAINER.get(char)
    return plainer if plainer and _face_of(plainer, faces) is not None else None


def runs_width(runs: tuple[Run, ...]) -> float:
    """Width of a line for a size of one point."""
    return sum(run.width for run in runs)


def _runs(text: str, faces: tuple[str, ...]) -> tuple[Run, ...]:
    """Neighbours of one font together; every character is known to have one."""
    first = _widths(faces[0])
    if all(ord(char) in first for char in text):
        return (Run(face=faces[0], text=text, width=sum(first[ord(char)] for char in text) / 1000),)
    pieces: list[Run] = []
    for face, group in groupby(text, key=lambda char: _face_of(char, faces)):
        piece, widths = "".join(group), _widths(cast("str", face))
        width = sum(widths[ord(char)] for char in piece) / 1000
        heavy = faces is BOLD and face in {HAN, JAPANESE}
        pieces.append(Run(face=cast("str", face), text=piece, width=width, heavy=heavy))
    return tuple(pieces)


def _shaped(text: str, faces: tuple[str, ...]) -> Iterator[Run]:
    """Right-to-left text as glyphs in seen order; what stands where it should goes together."""
    groups = [
        (face, "".join(group))
        for face, group in groupby(text, key=lambda char: _face_of(char, faces))
    ]
    for face, piece in reversed(groups):
        assert face is not None
        glyphs = shape_glyphs(face=face, text=piece)
        for plain, members in groupby(
            glyphs, key=lambda glyph: not (glyph.shift or glyph.rise) and _is_nominal(glyph)
        ):
            if plain:
                found = list(members)
                width = sum(glyph.advance for glyph in found)
                yield Run(face=face, text="".join(glyph.char for glyph in found), width=width)
                continue
            for glyph in members:
                yield Run(
                    face=face,
                    text=glyph.char,
                    width=glyph.advance,
                    shift=glyph.shift,
                    rise=glyph.rise,
                )


def _is_nominal(glyph: Glyph) -> bool:
    return abs(glyph.advance - glyph.nominal) < 5e-4


@lru_cache(maxsize=8192)
def _line_runs(line: str, faces: tuple[str, ...]) -> tuple[Run, ...]:
    """One line of drawable text as it is seen; faces that are `BOLD` are that very tuple."""
    if not is_right_to_left(line):
        return _runs(line, faces)
    if not can_shape():
        return _runs(visual_order(line), faces)
    runs: list[Run] = []
    for backwards, piece in seen_pieces(line):
        try:
            runs += list(_shaped(piece, faces)) if backwards else _runs(piece, faces)
        except LookupError:  # the font knows the characters, but not together
            runs += _runs(visual_order(join_letters(piece)), faces)
    return tuple(runs)


def japanese_runs(runs: tuple[Run, ...], *, japanese: bool) -> tuple[Run, ...]:
    """Han characters in the forms that Japanese readers expect, where the text is Japanese.

    Code points are shared with Chinese, shapes are not. Both fonts have the same widths, so
    nothing moves; `japanese` says that the paper is, else kana in the line tell.
    """
    if all(run.face != HAN for run in runs):
        return runs
    if not japanese and not any("\u3041" <= char <= "\u30ff" for run in runs for char in run.text):
        return runs
    ours, theirs = _widths(JAPANESE), _widths(HAN)
    dressed: list[Run] = []
    for run in runs:
        if run.face != HAN:
            dressed.append(run)
            continue
        for swap, group in groupby(
            run.text, key=lambda char: ours.get(ord(char)) == theirs[ord(char)]
        ):
            text = "".join(group)
            width = sum(theirs[ord(char)] for char in text) / 1000
            face = JAPANESE if swap else HAN
            dressed.append(Run(face=face, text=text, width=width, heavy=run.heavy))
    return tuple(dressed)


@lru_cache(maxsize=4096)
def figure_runs(*, text: str, field: str, bold: bool = False) -> tuple[Run, ...]:
    """A figure, date or number, drawn whole or not at all: `glyph_missing` names the character."""
    faces = BOLD if bold else REGULAR
    drawn: list[str] = []
    first = _widths(faces[0])
    for char in text:
        known = char if ord(char) in first else _known(char, faces)
        if known is None:
            name = unicodedata.name(char, "unnamed")
            message = f"no font has U+{ord(char):04X} {name} of {field}"
            raise BillingError("glyph_missing", message)
        drawn.append(known)
    whole = "".join(drawn)
    return _line_runs(whole if can_shape() else join_letters(whole), faces)


def _visible(text: str, faces: tuple[str, ...]) -> Iterator[str]:
    first = _widths(faces[0])
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf"}:
            if char in JOINERS and can_shape() and _face_of(char, faces) is not None:
                yield char  # says whether letters join
            continue  # a direction mark could turn the figures around it
        if ord(char) in first:
            yield char
            continue
        known = _known(char, faces)
        if known is not None:
            yield known
            continue
        compatible = unicodedata.normalize("NFKC", char)
        if compatible != char and all(_face_of(part, faces) is not None for part in compatible):
            yield compatible
        else:
            yield MISSING_MARK


def plain_text(*, text: str, bold: bool = False) -> str:
    """Free text of bounded length with every character drawable, white space collapsed."""
    cut = text[:CHARACTER_LIMIT]
    tidy = _SPACES.sub(" ", unicodedata.normalize("NFC", cut)).strip()
    shaped = tidy if can_shape() else join_letters(tidy)
    shown = "".join(_visible(shaped, BOLD if bold else REGULAR))
    return shown + ELLIPSIS if len(text) > CHARACTER_LIMIT else shown


def _cut_word(word: str, wide: Callable[[str], float], room: float) -> list[str]:
    """A word too long for a line, cut anywhere but before a mark that must not begin one."""
    lines: list[str] = []
    line = ""
    for char in word:
        if line and wide(line + char) > room:
            keep = len(line) - 1 if char in _NEVER_FIRST and len(line) > 1 else len(line)
            lines.append(line[:keep])
            line = line[keep:]
        line += char
    return [*lines, line]


def _break(text: str, faces: tuple[str, ...], room: float) -> list[str]:
    """Lines no wider than `room` points at a size of one point; a long word is cut."""

    def wide(piece: str) -> float:
        return runs_width(_line_runs(piece, faces))

    if wide(text) <= room:
        return [text]
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if line and wide(joined) <= room:
            line = joined
            continue
        if line:
            lines.append(line)
        *full, line = _cut_word(word, wide, room) if wide(word) > room else [word]
        lines += full
    return [*lines, line]


@lru_cache(maxsize=4096)
def free_lines(
    *, text: str, room: float, limit: int, bold: bool = False
) -> tuple[tuple[Run, ...], ...]:
    """Free text wrapped to at most `limit` lines of `room` (width / size); the rest is `…`."""
    faces = BOLD if bold else REGULAR
    shown = plain_text(text=text, bold=bold)
    if not shown:
        return ()
    lines = _break(shown, faces, room)
    if len(lines) > limit:
        last = lines[limit - 1]
        while last and runs_width(_line_runs(last + ELLIPSIS, faces)) > room:
            last = last[:-1]
        lines = [*lines[: limit - 1], last.rstrip() + ELLIPSIS]
    return tuple(_line_runs(line, faces) for line in lines)
