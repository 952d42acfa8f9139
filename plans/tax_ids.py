"""Tax identities: which numbers can be checked, and the form in which they are kept. Pure.

A type is that of `<country>_<number>` (`eu_vat`, `au_abn`), or what the country calls it (`VAT`,
`ABN`, `USt-IdNr.`), which then is that of the country of whoever has it. What is not known here is
kept as it stands: no list of the world's numbers is ever complete.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import msgspec
from stdnum import get_cc_module
from stdnum.exceptions import ValidationError

from engine.errors import FieldError
from plans.model import TaxExempt, TaxId

EUROPE: Final = frozenset(
    "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK".split()
)
"""The countries whose businesses have a VAT number that others look up: the European Union."""

EU_VAT: Final = "eu_vat"
_GREECE: Final = "EL"
_NORTHERN_IRELAND: Final = "XI"
# What the numbers of a country are called, and where python-stdnum has them.
_NUMBERS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        EU_VAT: ("eu", "vat"),
        "ar_cuit": ("ar", "cuit"),
        "au_abn": ("au", "abn"),
        "be_kbo": ("be", "vat"),
        "br_cnpj": ("br", "cnpj"),
        "br_cpf": ("br", "cpf"),
        "ca_bn": ("ca", "bn"),
        "ch_uid": ("ch", "uid"),
        "ch_vat": ("ch", "vat"),
        "cl_tin": ("cl", "rut"),
        "cn_tin": ("cn", "uscc"),
        "co_nit": ("co", "nit"),
        "dk_cvr": ("dk", "cvr"),
        "fr_siren": ("fr", "siren"),
        "fr_siret": ("fr", "siret"),
        "gb_vat": ("gb", "vat"),
        "il_vat": ("il", "hp"),
        "in_gst": ("in", "gstin"),
        "in_gstin": ("in", "gstin"),
        "jp_cn": ("jp", "cn"),
        "kr_brn": ("kr", "brn"),
        "mx_rfc": ("mx", "rfc"),
        "no_orgnr": ("no", "orgnr"),
        "no_vat": ("no", "mva"),
        "nz_gst": ("nz", "ird"),
        "se_orgnr": ("se", "orgnr"),
        "sg_uen": ("sg", "uen"),
        "tr_tin": ("tr", "vkn"),
        "tw_vat": ("tw", "ubn"),
        "us_ein": ("us", "ein"),
    }
)
# Kept with the letters that the number of a country's VAT begins with.
_LETTERS: Final[Mapping[str, str]] = MappingProxyType({"gb_vat": "GB", "no_vat": "NO"})
_SAME: Final[Mapping[str, str]] = MappingProxyType({"gstin": "gst", "org_nr": "orgnr"})
_VAT_WORDS: Final = {
    *("USTID", "USTIDNR", "TVA", "IVA", "BTW", "PTU", "MOMS", "DPH", "MVA", "MWST"),
}
# ISO 6523, as EN 16931 wants the scheme of a legal registration named.
_SCHEMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "au_abn": "0151",
        "be_kbo": "0208",
        "ch_uid": "0183",
        "dk_cvr": "0184",
        "fr_siren": "0002",
        "fr_siret": "0009",
        "jp_cn": "0188",
        "no_orgnr": "0192",
        "se_orgnr": "0007",
        "sg_uen": "0195",
    }
)


def is_vat(kind: str) -> bool:
    """Whether a type speaks of VAT, in any of its names."""
    plain = re.sub(r"[^A-Z]", "", kind.upper())
    return "VAT" in plain or plain in _VAT_WORDS


def registration_scheme(kind: str) -> str | None:
    """The ISO 6523 code of a legal registration; None where the type tells none."""
    return _SCHEMES.get(kind.lower())


def tax_id_label(kind: str) -> str:
    """How a number is named on paper: the type, without the country when it is one of ours."""
    known = kind.lower()
    return known.partition("_")[2].upper() if known in _NUMBERS or _is_member(known) else kind


def checked_tax_ids(
    *, tax_ids: Sequence[TaxId], country: str | None
) -> tuple[tuple[TaxId, ...], list[FieldError]]:
    """The identities as they are kept, and an error for each whose number cannot be.

    `country` (ISO 3166) is where their owner is.
    """
    kept: list[TaxId] = []
    errors: list[FieldError] = []
    for index, tax_id in enumerate(tax_ids):
        number = _number_of(tax_id, country)
        try:
            value = tax_id.value.strip() if number is None else _compact(number, tax_id.value)
        except ValidationError:
            detail = f"{tax_id.value[:60]!r} is no {number}: length, form or check digits are wrong"
            errors.append(FieldError(pointer=f"/tax_ids/{index}", code="invalid", detail=detail))
            continue
        kept.append(msgspec.structs.replace(tax_id, value=value))
    return tuple(kept), errors


def has_eu_vat(*, tax_ids: Sequence[TaxId], country: str | None) -> bool:
    """Whether one of the identities is a VAT number of the European Union."""
    for tax_id in tax_ids:
        number = _number_of(tax_id, country)
        if number == EU_VAT or (number is not None and _is_member(number)):
            return True
    return False


def reverse_charge_errors(
    *,
    exempt: TaxExempt,
    tax_ids: Sequence[TaxId],
    country: str | None,
    seller_country: str | None,
) -> list[FieldError]:
    """Inside the European Union only a business that names its VAT number owes the tax itself."""
    inside = {country, seller_country} <= EUROPE and exempt is TaxExempt.REVERSE
    if not inside or has_eu_vat(tax_ids=tax_ids, country=country):
        return []
    detail = "a reverse charge inside the European Union needs the customer's VAT number"
    return [FieldError(pointer="/tax_ids", code="required", detail=detail)]


def _is_member(number: str) -> bool:
    """Whether it names the VAT number of one member state, as `de_vat` does."""
    letters, _, kind = number.partition("_")
    return kind == "vat" and _state(letters) is not None


def _state(letters: str) -> str | None:
    """The letters that a member's VAT numbers begin with."""
    upper = letters.upper()
    if upper in {"GR", _GREECE}:
        return _GREECE
    return upper if upper in EUROPE or upper == _NORTHERN_IRELAND else None


def _number_of(tax_id: TaxId, country: str | None) -> str | None:
    """Which number that can be checked it is, as `<country>_<number>`; None when none is known."""
    kind = re.sub(r"[^a-z0-9]+", "_", tax_id.type.lower()).strip("_")
    if kind in _NUMBERS or _is_member(kind):
        return kind
    if is_vat(tax_id.type):
        if "_" in kind and re.match(r"[a-z]{2}_vat\Z", kind):
            return None  # of a country that is not known here
        letters = tax_id.value.strip()[:2].upper()
        if _state(letters) is not None:
            return EU_VAT
        found = f"{letters.lower()}_vat"
        if found in _NUMBERS:
            return found
        kind = "vat"
    if country is None:
        return None
    own = f"{country.lower()}_{_SAME.get(kind, kind)}"
    return own if own in _NUMBERS or _is_member(own) else None


def _compact(number: str, value: str) -> str:
    """The number without ornament, with its country where it is VAT. Raises ValidationError."""
    place, name = _NUMBERS.get(number, _NUMBERS[EU_VAT])
    check = get_cc_module(place, name)
    assert check is not None, "the table names what python-stdnum has"
    letters = _state(number.partition("_")[0]) if number not in _NUMBERS else None
    text = value.strip()
    if letters is not None:
        bare = text[2:] if text[:2].upper() in {letters, number[:2].upper()} else text
        text = letters + bare
    compact = check.validate(text)
    if letters is not None and not compact.startswith(letters):
        raise ValidationError
    first = _LETTERS.get(number, "")
    return compact if compact.startswith(first) else first + compact
