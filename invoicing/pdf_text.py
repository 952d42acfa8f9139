"""Text that cannot lose a character on paper: every one is looked up before it is drawn.

A font drops what it lacks without a word, and a dropped minus sign turns a credit into a debt.
Figures therefore raise when no shipped font has a character; free text shows a mark instead.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
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

REGULAR: Final = ("NotoSans-Regular", "DejaVuSans", "DroidSansFallbackFull")
BOLD: Final = ("NotoSans-Bold", "DejaVuSans-Bold", "DroidSansFallbackFull")
MISSING_MARK: Final = "□"
ELLIPSIS: Final = "…"
CHARACTER_LIMIT: Final = 2400
_SPACES: Final = re.compile(r"\s+")
# Same meaning, plainer sign: the only changes that a figure suffers.
_PLAINER: Final = {"−": "-", "‑": "-", "‐": "-", "\u202f": " ", "\u2009": " ", "\u00a0": " "}


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of one line that one font can draw; `width` is for a size of one point."""

    face: str
    text: str
    width: float


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
        pieces.append(Run(face=cast("str", face), text=piece, width=width))
    return tuple(pieces)


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
    return _runs("".join(drawn), faces)


def _visible(text: str, faces: tuple[str, ...]) -> Iterator[str]:
    first = _widths(faces[0])
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cf"}:
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
    shown = "".join(_visible(join_letters(tidy), BOLD if bold else REGULAR))
    return shown + ELLIPSIS if len(text) > CHARACTER_LIMIT else shown


def _break(text: str, faces: tuple[str, ...], room: float) -> list[str]:
    """Lines no wider than `room` points at a size of one point; a long word is cut."""

    def wide(piece: str) -> float:
        return runs_width(_runs(piece, faces))

    if wide(text) <= room:
        return [text]
    lines: list[str] = []
    line, used, space = "", 0.0, wide(" ")
    for word in text.split(" "):
        width = wide(word)
        if line and used + space + width <= room:
            line, used = f"{line} {word}", used + space + width
            continue
        if line:
            lines.append(line)
        line, used = word, width
        if width > room:
            line, used = "", 0.0
            for char in word:
                step = wide(char)
                if line and used + step > room:
                    lines.append(line)
                    line, used = "", 0.0
                line, used = line + char, used + step
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
        while last and runs_width(_runs(last + ELLIPSIS, faces)) > room:
            last = last[:-1]
        lines = [*lines[: limit - 1], last.rstrip() + ELLIPSIS]
    return tuple(_runs(visual_order(line), faces) for line in lines)
