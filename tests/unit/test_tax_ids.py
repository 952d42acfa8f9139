"""Tax identities: what is checked, the form that is kept, and what nobody here can check."""

import pytest

from plans.model import TaxExempt, TaxId
from plans.tax_ids import (
    checked_tax_ids,
    is_vat,
    registration_scheme,
    reverse_charge_errors,
    tax_id_label,
)


def kept(kind: str, value: str, country: str | None = None) -> str | None:
    """The value as it is kept, None when it is refused."""
    found, errors = checked_tax_ids(tax_ids=[TaxId(type=kind, value=value)], country=country)
    assert (found == ()) == bool(errors)
    return found[0].value if found else None


@pytest.mark.parametrize(
    ("kind", "value", "country", "compact"),
    [
        ("eu_vat", "de 136 695 976", None, "DE136695976"),
        ("eu_vat", "EL 094259216", "GR", "EL094259216"),
        ("eu_vat", "XI 980780684", "GB", "XI980780684"),
        ("gr_vat", "GR094259216", None, "EL094259216"),
        ("de_vat", "136695976", None, "DE136695976"),
        ("VAT", "FR 40 303 265 045", None, "FR40303265045"),
        ("USt-IdNr.", "136695976", "DE", "DE136695976"),
        ("VAT", "GB 980 7806 84", "DE", "GB980780684"),
        ("gb_vat", "980780684", None, "GB980780684"),
        ("no_vat", "995 525 828 MVA", None, "NO995525828MVA"),
        ("MWST", "CHE-107.787.577 MWST", "CH", "CHE107787577MWST"),
        ("ch_uid", "CHE-100.155.212", None, "CHE100155212"),
        ("ABN", "83 914 571 673", "AU", "83914571673"),
        ("GSTIN", "27aapfu0939f1zv", "IN", "27AAPFU0939F1ZV"),
        ("us_ein", "91-1144442", None, "911144442"),
        ("br_cnpj", "16.727.230/0001-97", None, "16727230000197"),
    ],
)
def test_a_number_is_kept_without_ornament(kind, value, country, compact) -> None:
    assert kept(kind, value, country) == compact
    assert kept(kind, compact, country) == compact


@pytest.mark.parametrize(
    ("kind", "value", "country"),
    [
        ("eu_vat", "DE136695977", None),
        ("eu_vat", "136695976", "DE"),
        ("eu_vat", "GB980780684", None),
        ("de_vat", "FR40303265045", None),
        ("VAT", "", "DE"),
        ("gb_vat", "980780685", None),
        ("au_abn", "83 914 571 674", None),
        ("CNPJ", "16.727.230/0001-98", "BR"),
        ("EIN", "07-1144442", "US"),
        ("in_gst", "27AAPFU0939F1ZX", None),
        ("VAT", "DE" + "1" * 400, "DE"),
        ("VAT", "ＤＥ１３６６９５９７６\x00", "DE"),
    ],
)
def test_a_wrong_number_is_refused(kind, value, country) -> None:
    assert kept(kind, value, country) is None


@pytest.mark.parametrize(
    ("kind", "value", "country"),
    [("KRA PIN", "A1", "KE"), ("zz_vat", "12", "ZZ"), ("VAT", "12", None), ("HRB", "7 b", "DE")],
)
def test_what_nobody_here_knows_is_kept_as_it_stands(kind, value, country) -> None:
    assert kept(kind, f" {value} ", country) == value


def test_each_wrong_one_is_pointed_at() -> None:
    wrong, right = TaxId(type="eu_vat", value="X"), TaxId(type="eu_vat", value="DE136695976")
    found, errors = checked_tax_ids(tax_ids=[wrong, right, wrong], country=None)
    assert found == (right,)
    assert [(error.pointer, error.code) for error in errors] == [
        ("/tax_ids/0", "invalid"),
        ("/tax_ids/2", "invalid"),
    ]


@pytest.mark.parametrize(
    ("exempt", "countries", "numbers", "refused"),
    [
        ("reverse", ("FR", "DE"), [], True),
        ("reverse", ("FR", "DE"), [("SIREN", "552008443")], True),
        ("reverse", ("FR", "DE"), [("TVA", "FR40303265045")], False),
        ("reverse", ("FR", "DE"), [("VAT", "40303265045")], False),
        ("reverse", ("FR", "US"), [], False),
        ("reverse", ("AU", "DE"), [], False),
        ("reverse", (None, "DE"), [], False),
        ("exempt", ("FR", "DE"), [], False),
        ("none", ("FR", "DE"), [], False),
    ],
)
def test_a_reverse_charge_in_the_union_needs_a_vat_number(
    exempt, countries, numbers, refused
) -> None:
    country, seller = countries
    found = reverse_charge_errors(
        exempt=TaxExempt(exempt),
        tax_ids=[TaxId(type=kind, value=value) for kind, value in numbers],
        country=country,
        seller_country=seller,
    )
    assert [(error.pointer, error.code) for error in found] == [("/tax_ids", "required")] * refused


def test_names_on_paper_and_registers() -> None:
    labels = [tax_id_label(kind) for kind in ("eu_vat", "AU_ABN", "de_vat", "USt-IdNr.", "x_y")]
    assert labels == ["VAT", "ABN", "VAT", "USt-IdNr.", "x_y"]
    assert [registration_scheme(kind) for kind in ("au_abn", "HRB")] == ["0151", None]
    assert [is_vat(kind) for kind in ("eu_vat", "TVA", "MVA", "HRB")] == [True, True, True, False]
