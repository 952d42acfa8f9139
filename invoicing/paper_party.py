"""Who a document names, written as an envelope would."""

from typing import Final

import msgspec
from babel import Locale, UnknownLocaleError

from engine.errors import BillingError
from plans.model import Address, Party
from plans.tax_ids import tax_id_label

TEXT_LIMIT: Final = 2000
# Town, region and postal code share a row; elsewhere the code stands before the town.
_TOWN_FIRST: Final = {"AU", "CA", "GB", "IE", "IN", "NZ", "SG", "US"}


class PaperParty(msgspec.Struct, frozen=True, kw_only=True):
    """A name and the rows under it; all of it is free text."""

    name: str
    rows: tuple[str, ...]


def bounded(text: str) -> str:
    """Text short enough to be set on paper."""
    return text if len(text) <= TEXT_LIMIT else text[:TEXT_LIMIT] + "…"


def parse_locale(name: str) -> Locale:
    """The locale of that name; `unknown_locale` when there is none."""
    try:
        return Locale.parse(name.replace("-", "_"))
    except (ValueError, UnknownLocaleError):
        raise BillingError("unknown_locale", f"{name[:40]!r} is not a locale") from None


def _japanese_rows(address: Address) -> list[str]:
    """From the large to the small."""
    code = f"〒{address.postal_code}" if address.postal_code else ""
    town = f"{address.region or ''}{address.city or ''}"
    return [code, town, address.line1 or "", address.line2 or ""]


def _town_rows(address: Address) -> list[str]:
    if address.country in _TOWN_FIRST:
        area = " ".join(part for part in (address.region, address.postal_code) if part)
        return [", ".join(part for part in (address.city, area) if part)]
    town = " ".join(part for part in (address.postal_code, address.city) if part)
    return [town, address.region or ""]


def paper_party(*, party: Party, locale: str) -> PaperParty:
    """Name, address with the country's name, tax identities, and at most two e-mail addresses."""
    rows: list[str] = []
    code = party.country
    if party.address is not None:
        address = party.address
        code = address.country or code
        if code == "JP" and parse_locale(locale).language == "ja":
            rows = _japanese_rows(address)
        else:
            rows = [address.line1 or "", address.line2 or "", *_town_rows(address)]
    if code:
        rows.append(parse_locale(locale).territories.get(code, code))
    rows += [f"{tax_id_label(tax_id.type)} {tax_id.value}" for tax_id in party.tax_ids]
    rows += party.emails[:2]
    return PaperParty(name=bounded(party.name), rows=tuple(bounded(row) for row in rows if row))


def footer_text(*, seller: Party) -> str:
    """Legal name and tax identities of who issues the document."""
    numbers = [f"{tax_id_label(tax_id.type)} {tax_id.value}" for tax_id in seller.tax_ids]
    parts = [seller.name, *numbers]
    return bounded(" · ".join(parts))
