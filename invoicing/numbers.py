"""What a document is called: its series and its place there. Pure."""

from typing import Final

_SEQUENCE_MAX: Final = 2**31 - 1


def number_of(*, series: str, sequence: int) -> str:
    """The number of a document: at least six digits."""
    return f"{series}-{sequence:06d}"


def named(*, reference: str) -> dict[str, str | int | None]:
    """What a document is looked up by: `reference`, an id or a number, and the latter's parts.

    `series` and `sequence` are None where no number is written so.
    """
    series, _, digits = reference.rpartition("-")
    if digits.isascii() and digits.isdecimal() and len(digits) <= len(str(_SEQUENCE_MAX)):
        sequence = int(digits)
        number = number_of(series=series, sequence=sequence)
        if number == reference and sequence <= _SEQUENCE_MAX:
            return {"reference": reference, "series": series, "sequence": sequence}
    return {"reference": reference, "series": None, "sequence": None}
