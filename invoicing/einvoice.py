"""An invoice as EN 16931 tells it: one struct that both syntaxes (CII and UBL) are written from.

The standard knows one VAT category and rate per line, amounts with two decimals, and needs to be
told why nothing is taxed. What it cannot say is refused by name, before anything is written.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind
from invoicing.paper_sums import VatCategory
from plans.model import Address, Party
from plans.tax_ids import is_vat, registration_scheme

GUIDELINE: Final = "urn:cen.eu:en16931:2017"
INVOICE_TYPE: Final = "380"
CREDIT_NOTE_TYPE: Final = "381"
# UN/ECE Recommendation 20: one; payment means of UNTDID 4461: SEPA and other credit transfer.
EACH: Final = "C62"
SEPA_TRANSFER: Final = "58"
CREDIT_TRANSFER: Final = "30"
EXEMPTION_CODES: Final[Mapping[VatCategory, str | None]] = MappingProxyType(
    {
        VatCategory.EXEMPT: None,
        VatCategory.REVERSE_CHARGE: "VATEX-EU-AE",
        VatCategory.INTRA_COMMUNITY: "VATEX-EU-IC",
        VatCategory.EXPORT: "VATEX-EU-G",
        VatCategory.NOT_TAXED: "VATEX-EU-O",
    }
)


class TradeParty(msgspec.Struct, frozen=True, kw_only=True):
    """Seller or buyer; `vat_id` begins with its country, `legal_id` is any other identity.

    `legal_scheme` (ISO 6523) says which register the other identity is of, where that is known.
    """

    name: str
    line1: str | None = None
    line2: str | None = None
    city: str | None = None
    postal_code: str | None = None
    region: str | None = None
    country: str
    vat_id: str | None = None
    legal_id: str | None = None
    legal_scheme: str | None = None
    email: str | None = None


class TradeAllowance(msgspec.Struct, frozen=True, kw_only=True):
    """A deduction; on the document it belongs to a category and rate.

    `amount` is positive; with `is_charge` it adds: what gives back takes its discount along.
    """

    amount: str
    reason: str
    category: VatCategory = VatCategory.STANDARD
    percentage: str | None = None
    is_charge: bool = False


class TradeLine(msgspec.Struct, frozen=True, kw_only=True):
    """`net_amount` = `quantity` x `unit_price` / `base_quantity` less the allowances.

    `period` has the first and the last day.
    """

    id: str
    name: str
    note: str | None = None
    quantity: str
    unit_price: str
    base_quantity: str | None = None
    net_amount: str
    allowances: tuple[TradeAllowance, ...] = ()
    category: VatCategory
    percentage: str | None
    period: tuple[date, date] | None = None


class TradeTax(msgspec.Struct, frozen=True, kw_only=True):
    """One category and rate; `percentage` is None where nothing is subject to VAT."""

    category: VatCategory
    percentage: str | None
    taxable: str
    amount: str
    reason: str | None = None
    reason_code: str | None = None


class TradeTotals(msgspec.Struct, frozen=True, kw_only=True):
    """The sums of the document, major units."""

    lines: str
    allowances: str
    charges: str
    without_tax: str
    tax: str
    with_tax: str
    paid: str
    due: str


class TradeAccount(msgspec.Struct, frozen=True, kw_only=True):
    """Where the money goes."""

    means: str
    account: str
    is_iban: bool
    holder: str | None = None
    bic: str | None = None


class TradeDocument(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is written; `preceding` are the numbers of invoices that it corrects."""

    number: str
    is_credit_note: bool
    issued_on: date
    due_on: date | None
    currency: str
    seller: TradeParty
    buyer: TradeParty
    lines: tuple[TradeLine, ...]
    allowances: tuple[TradeAllowance, ...] = ()
    taxes: tuple[TradeTax, ...]
    totals: TradeTotals
    account: TradeAccount | None = None
    payment_reference: str | None = None
    payment_terms: str | None = None
    order_reference: str | None = None
    buyer_reference: str | None = None
    preceding: tuple[str, ...] = ()
    period: tuple[date, date] | None = None


def refuse(code: str, message: str) -> BillingError:
    """The error for what EN 16931 cannot say."""
    return BillingError(f"einvoice_{code}", message, kind=ErrorKind.CONFLICT)


def xml_text(text: str) -> str:
    """Text without the characters that XML 1.0 cannot hold, white space collapsed."""
    kept = "".join(
        char if unicodedata.category(char) not in {"Cc", "Cs"} else " "
        for char in text
        if char not in "\ufffe\uffff"
    )
    return " ".join(kept.split())


def trade_party(*, party: Party, role: str) -> TradeParty:
    """The party with its VAT number told from its other identities.

    `einvoice_{role}_country_missing`; `einvoice_{role}_vat_id_invalid` when the number does not
    begin with the letters of its country.
    """
    address = party.address or Address()
    country = address.country or party.country
    if country is None:
        raise refuse(f"{role}_country_missing", f"an e-invoice needs the country of the {role}")
    vat = next((each.value for each in party.tax_ids if is_vat(each.type)), None)
    if vat is not None:
        vat = re.sub(r"[\s.-]", "", vat).upper()
        if not re.match(r"[A-Z]{2}[A-Z0-9+*]{2,14}\Z", vat):
            message = f"the VAT number of the {role} must begin with the letters of its country"
            raise refuse(f"{role}_vat_id_invalid", message)
    other = next((each for each in party.tax_ids if not is_vat(each.type)), None)
    return TradeParty(
        name=party.name,
        line1=address.line1,
        line2=address.line2,
        city=address.city,
        postal_code=address.postal_code,
        region=address.region,
        country=country,
        vat_id=vat,
        legal_id=None if other is None else other.value,
        legal_scheme=None if other is None else registration_scheme(other.type),
        email=party.emails[0] if party.emails else None,
    )
