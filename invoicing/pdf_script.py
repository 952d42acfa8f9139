"""Scripts that run from right to left, as far as names and addresses need.

PDF draws characters one after the other, so letters that join must be given in their joined form
and a right-to-left stretch in the order in which it is seen. Numbers in it keep theirs.
"""

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

_FORMS: Final = ("<isolated>", "<initial>", "<medial>", "<final>")
_PRESENTATION_FORMS: Final = range(0xFE70, 0xFEFD)
_RIGHT: Final = {"R", "AL"}
_NUMBER: Final = {"EN", "AN", "ES", "ET", "CS"}
_MIRRORED: Final = str.maketrans("()[]{}<>«»", ")(][}{><»«")


@lru_cache(maxsize=1)
def _joined_forms() -> Mapping[str, Mapping[str, str]]:
    """Per letter (or lam with alef) its form by position, from the character database."""
    forms: dict[str, dict[str, str]] = {}
    for code in _PRESENTATION_FORMS:
        parts = unicodedata.decomposition(chr(code)).split()
        if parts and parts[0] in _FORMS:
            letters = "".join(chr(int(part, 16)) for part in parts[1:])
            if not letters.startswith(" "):
                forms.setdefault(letters, {})[parts[0]] = chr(code)
    return forms


def _is_mark(char: str) -> bool:
    return len(char) == 1 and unicodedata.category(char) == "Mn"


def _letters(text: str) -> list[str]:
    """The text cut into joining units: lam and a following alef are one."""
    forms, units, index = _joined_forms(), [], 0
    while index < len(text):
        pair = text[index : index + 2]
        size = 2 if len(pair) == 2 and pair in forms and not _is_mark(pair[1]) else 1
        units.append(text[index : index + size])
        index += size
    return units


def join_letters(text: str) -> str:
    """Arabic letters in the forms that they take beside each other; other text unchanged."""
    if text.isascii() or not any(unicodedata.bidirectional(char) == "AL" for char in text):
        return text
    forms = _joined_forms()
    units = [unit for unit in _letters(text) if not (_is_mark(unit) and unit not in forms)]
    drawn: list[str] = []
    for index, unit in enumerate(units):
        own = forms.get(unit, {})
        before = forms.get(units[index - 1], {}) if index else {}
        after = forms.get(units[index + 1], {}) if index + 1 < len(units) else {}
        joins_before = "<initial>" in before and "<final>" in own
        joins_after = "<initial>" in own and "<final>" in after
        position = _FORMS[joins_after + 3 * joins_before - 2 * (joins_before and joins_after)]
        drawn.append(own.get(position, unit))
    return "".join(drawn)


def _levels(text: str) -> list[int]:
    """0 left to right, 1 right to left, 2 a number inside the latter; neutrals follow suit."""
    kinds = [unicodedata.bidirectional(char) for char in text]
    strong = [kind for kind in kinds if kind in _RIGHT or kind == "L"]
    base = 1 if strong and strong[0] in _RIGHT else 0
    levels: list[int | None] = []
    current = base
    for kind in kinds:
        if kind in _RIGHT or kind == "L":
            current = 1 if kind in _RIGHT else 2 * base
            levels.append(current)
        elif kind in _NUMBER and current == 1:
            levels.append(2)
        else:
            levels.append(None)
    following = base
    for index in range(len(levels) - 1, -1, -1):
        level = levels[index]
        if level is None:
            earlier = next((known for known in levels[index::-1] if known is not None), base)
            levels[index] = following if earlier == following else base
        else:
            following = level
    return [base if level is None else level for level in levels]


def visual_order(line: str) -> str:
    """One line in the order in which it is seen from left to right."""
    if line.isascii() or not any(unicodedata.bidirectional(char) in _RIGHT for char in line):
        return line
    levels = _levels(line)
    order = list(range(len(line)))
    for level in (2, 1):
        start = 0
        while start < len(order):
            if levels[order[start]] < level:
                start += 1
                continue
            end = start
            while end < len(order) and levels[order[end]] >= level:
                end += 1
            order[start:end] = reversed(order[start:end])
            start = end
    return "".join(
        line[index].translate(_MIRRORED) if levels[index] == 1 else line[index] for index in order
    )
