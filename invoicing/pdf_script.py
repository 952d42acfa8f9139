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
_DIGITS: Final = {"EN", "AN"}
_SEPARATORS: Final = {"ES", "CS"}
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


def _in_numbers(kinds: list[str]) -> list[bool]:
    """Digits, a separator between two of them, and a sign such as % beside one."""
    found = [kind in _DIGITS for kind in kinds]
    digit = [False, *found, False]
    for index, kind in enumerate(kinds):
        before, after = digit[index], digit[index + 2]
        if kind in _SEPARATORS:
            found[index] = before and after
        elif kind == "ET":
            found[index] = before or after
    return found


def _levels(text: str) -> list[int]:
    """0 left to right, 1 right to left, 2 what runs left to right inside the latter."""
    kinds = [unicodedata.bidirectional(char) for char in text]
    strong = next((kind for kind in kinds if kind in _RIGHT or kind == "L"), "L")
    base = 1 if strong in _RIGHT else 0
    in_numbers = _in_numbers(kinds)
    known: list[tuple[int, int] | None] = []  # direction that neighbours see, level
    current = base
    for kind, in_number in zip(kinds, in_numbers, strict=True):
        if kind in _RIGHT or kind == "L":
            current = 1 if kind in _RIGHT else 0
            known.append((current, 1 if current else 2 * base))
        elif in_number:
            known.append((1, 2) if current else (0, 2 * base))
        else:
            known.append(None)
    levels = [base] * len(known)
    earlier = base
    for index, entry in enumerate(known):
        if entry is not None:
            earlier, levels[index] = entry
            continue
        following = next((after[0] for after in known[index:] if after is not None), base)
        if earlier == following:
            levels[index] = 1 if earlier else 2 * base
    return levels


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
