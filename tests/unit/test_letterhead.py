"""What a seller's letterhead must satisfy before documents are printed with it."""

import base64

import msgspec
import pytest

from plans.letterhead import (
    LOGO_BYTES,
    LOGO_URI,
    Branding,
    LanguageTag,
    PaymentTerms,
    decode_logo,
    locale_errors,
    payment_errors,
)


@pytest.mark.parametrize(
    ("iban", "sound"),
    [
        ("DE89370400440532013000", True),
        ("GB82 WEST 1234 5698 7654 32", True),
        ("NO9386011117947", True),
        ("DE89370400440532013001", False),
        ("de89370400440532013000", False),
        ("DE8937040044", False),
        ("DE٨٩370400440532013000", False),
        ("", False),
    ],
)
def test_the_check_digits_of_an_iban(iban: str, sound: bool) -> None:
    assert (payment_errors(PaymentTerms(iban=iban)) == []) == sound


def test_no_payment_details_are_fine() -> None:
    assert payment_errors(None) == payment_errors(PaymentTerms(bank="B")) == []


@pytest.mark.parametrize("locale", [None, "de", "pt-BR", "zh-Hant-TW", "es-419", "ar"])
def test_locales_that_are(locale: str | None) -> None:
    assert msgspec.convert(locale, LanguageTag | None) == locale
    assert locale_errors(locale) == []


@pytest.mark.parametrize("locale", ["xx", "de-XX", "en-u-nu-arab"])
def test_locales_that_are_none(locale: str) -> None:
    assert [error.code for error in locale_errors(locale)] == ["unknown_locale"]


@pytest.mark.parametrize("locale", ["de_DE", "", "d", "../en", "de-", "deutsch"])
def test_what_is_no_language_tag(locale: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(locale, LanguageTag)


def test_a_logo_comes_in_base64_and_is_bounded() -> None:
    def uri(size: int) -> str:
        return LOGO_URI + base64.b64encode(b"x" * size).decode()

    assert decode_logo(uri(LOGO_BYTES)) == b"x" * LOGO_BYTES
    assert msgspec.convert({"logo": uri(LOGO_BYTES)}, Branding).logo is not None
    for text in (
        uri(LOGO_BYTES + 1),
        uri(0),
        LOGO_URI + "%%%%",
        "data:image/jpeg;base64,AAAA",
        "é",
    ):
        assert decode_logo(text) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Branding, {"accent": "red"}),
        (Branding, {"accent": "#12345"}),
        (PaymentTerms, {"bic": "cobadeff"}),
        (PaymentTerms, {"reference": "mine"}),
    ],
)
def test_shapes_that_are_refused(kind: type, body: dict[str, str]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, kind)
