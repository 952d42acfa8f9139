"""A number is taken apart into its series and its place there."""

import pytest

from invoicing.numbers import named, number_of


@pytest.mark.parametrize("series", ["INV", "INV-CN", "2026-7", "", "Ä"])
@pytest.mark.parametrize("sequence", [1, 999_999, 1_000_000, 2**31 - 1])
def test_what_is_printed_is_read_again(series, sequence):
    number = number_of(series=series, sequence=sequence)
    assert named(reference=number) == {
        "reference": number,
        "series": series,
        "sequence": sequence,
    }


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "inv_01ke0jer004tyavbdj27pmj000",
        "INV000001",
        "INV-1",  # no number is written so
        "INV-0000001",
        "INV-+00001",
        "INV-00000¹",
        "INV-000001\n",
        "INV-2147483648",  # no sequence is as large
        "INV-" + 5_000 * "1",
    ],
)
def test_what_is_no_number_has_no_parts(reference):
    assert named(reference=reference) == {
        "reference": reference,
        "series": None,
        "sequence": None,
    }
