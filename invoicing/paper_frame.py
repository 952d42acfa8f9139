"""What every kind of paper shares: language, dates, branding, and how money is to be sent."""

import re
from typing import Final, Self

import msgspec

from engine.errors import BillingError
from invoicing.figures import Figures
from invoicing.paper_dates import PaperDates
from invoicing.paper_parts import Fact
from invoicing.paper_party import bounded, parse_locale
from invoicing.words.choose import choose_words
from invoicing.words.phrases import Words

_COLOUR: Final = re.compile(r"#[0-9a-f]{6}\Z")
_LINK: Final = re.compile(r"https://[!-~]+\Z")
LINK_LIMIT: Final = 500


class Branding(msgspec.Struct, frozen=True, kw_only=True):
    """The seller's look: a PNG or JPEG, and a colour as #rrggbb."""

    logo: bytes | None = None
    accent: str = ""


class PaymentDetails(msgspec.Struct, frozen=True, kw_only=True):
    """Where the money goes. All free text but `pay_link`, an https address.

    `reference` is the text to send along with the money; without one it is the document's number.
    """

    account_holder: str | None = None
    bank: str | None = None
    iban: str | None = None
    bic: str | None = None
    account_number: str | None = None
    routing_number: str | None = None
    reference: str | None = None
    pay_link: str | None = None
    note: str | None = None


class PaperFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The language of one paper and what writes its figures and dates."""

    words: Words
    figures: Figures
    dates: PaperDates
    currency: str
    accent: str
    logo: bytes | None

    @classmethod
    def of(cls, *, currency: str, locale: str, timezone: str, branding: Branding) -> Self:
        """`unknown_locale`, `invalid_colour`; months are named in the language of the words."""
        words = choose_words(locale=locale)
        accent = branding.accent.lower()
        if accent and not _COLOUR.match(accent):
            raise BillingError("invalid_colour", "a colour is written as #rrggbb")
        spoken = parse_locale(locale)
        months = str(spoken) if spoken.language == words.locale else words.locale
        return cls(
            words=words,
            figures=Figures(currency=currency, locale=locale),
            dates=PaperDates(timezone=timezone, locale=months),
            currency=currency,
            accent=accent,
            logo=branding.logo,
        )

    def money(self, text: str) -> str:
        """An amount that stands alone, with its currency code even where the sign is shared."""
        shown = self.figures.amount(text)
        return shown if self.currency in shown else f"{shown} {self.currency}"

    def in_currency(self, label: str) -> str:
        """A label that names the currency."""
        return f"{label} ({self.currency})"

    def zone_note(self) -> str:
        """In which timezone the dates are to be read."""
        return self.words.zone_note.format(timezone=self.dates.timezone)


def _grouped(iban: str) -> str:
    plain = "".join(iban.split())
    return " ".join(plain[at : at + 4] for at in range(0, len(plain), 4))


def payment_facts(*, details: PaymentDetails, number: str, words: Words) -> tuple[Fact, ...]:
    """Labelled rows of where to pay; `invalid_link` when the link is no plain https address."""
    pairs = (
        (words.account_holder, details.account_holder),
        (words.bank, details.bank),
        ("IBAN", _grouped(details.iban) if details.iban else None),
        ("BIC", details.bic),
        (words.account_number, details.account_number),
        (words.routing_number, details.routing_number),
        (words.reference, details.reference or number),
    )
    facts = [Fact(label=label, value=bounded(value), free=True) for label, value in pairs if value]
    link = details.pay_link
    if link is not None:
        if len(link) > LINK_LIMIT or not _LINK.match(link):
            raise BillingError("invalid_link", "a payment link is an https address")
        facts.append(Fact(label=words.pay_online, value=link, free=True, link=link))
    return tuple(facts)
