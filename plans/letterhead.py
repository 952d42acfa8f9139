"""How the seller's documents look and where their money goes: colour, logo, bank account. Pure."""

import base64
import binascii
import hashlib
from typing import Annotated, Final

import msgspec
from babel import Locale, UnknownLocaleError

from engine.errors import FieldError
from engine.ids import encode_body
from plans.shape import Body, ShortText

LOGO_BYTES: Final = 200_000
LOGO_URI: Final = "data:image/png;base64,"
_IBAN_REST: Final = 97
_IBAN_LENGTH: Final = range(15, 35)
Colour = Annotated[str, msgspec.Meta(pattern=r"^#[0-9a-fA-F]{6}\Z")]
LanguageTag = Annotated[
    str, msgspec.Meta(pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*\Z", max_length=35)
]


class Branding(Body, frozen=True, kw_only=True):
    """The seller's look: one colour for bars and rules, and a logo.

    `logo` is answered as the id of a picture; a body gives such an id again, or a PNG of at most
    200 kB as `data:image/png;base64,…`.
    """

    accent: Colour | None = None
    logo: Annotated[str, msgspec.Meta(max_length=300_000)] | None = None


class PaymentTerms(Body, frozen=True, kw_only=True):
    """Where to pay, printed while something is due; the reference is the invoice's number."""

    account_holder: ShortText | None = None
    bank: ShortText | None = None
    iban: ShortText | None = None
    bic: (
        Annotated[str, msgspec.Meta(pattern=r"^[A-Z0-9]{4}[A-Z]{2}[A-Z0-9]{2}([A-Z0-9]{3})?\Z")]
        | None
    ) = None
    account_number: ShortText | None = None
    routing_number: ShortText | None = None
    note: Annotated[str, msgspec.Meta(max_length=1000)] | None = None


def logo_id(content: bytes) -> str:
    """The id that the picture itself has: equal content, equal id."""
    return f"logo_{encode_body(int.from_bytes(hashlib.sha256(content).digest()[:16], 'big'))}"


def decode_logo(text: str) -> bytes | None:
    """The bytes of a `data:` address of a PNG within the limit; None for any other text."""
    if not text.startswith(LOGO_URI):
        return None
    try:
        content = base64.b64decode(text[len(LOGO_URI) :], validate=True)
    except (binascii.Error, ValueError):
        return None
    return content if 0 < len(content) <= LOGO_BYTES else None


def locale_errors(locale: str | None, *, pointer: str = "/locale") -> list[FieldError]:
    """An error when there is no such language or region; no locale is fine."""
    if locale is None:
        return []
    try:
        Locale.parse(locale, sep="-")
    except (ValueError, UnknownLocaleError):
        detail = f"{locale!r} is not a known locale, such as `de` or `pt-BR`"
        return [FieldError(pointer=pointer, code="unknown_locale", detail=detail)]
    return []


def payment_errors(terms: PaymentTerms | None) -> list[FieldError]:
    """An error when the IBAN's check digits are wrong."""
    if terms is None or terms.iban is None or _is_iban(terms.iban):
        return []
    detail = f"{terms.iban[:60]!r} is not an IBAN: length or check digits are wrong"
    return [FieldError(pointer="/payment_details/iban", code="invalid_iban", detail=detail)]


def _is_iban(text: str) -> bool:
    plain = text.replace(" ", "")
    if not (plain.isascii() and plain.isalnum() and len(plain) in _IBAN_LENGTH):
        return False
    if not (plain[:2].isalpha() and plain[:2].isupper() and plain[2:4].isdigit()):
        return False
    digits = "".join(str(int(sign, 36)) for sign in plain[4:] + plain[:4])
    return int(digits) % _IBAN_REST == 1
