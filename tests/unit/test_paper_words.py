"""Documents in other languages hold no English of ours."""

from fractions import Fraction

import msgspec
import pytest

from invoicing.credit_notes import CreditReason
from invoicing.model import Reason
from invoicing.paper import build_paper
from invoicing.paper_lines import tier_details
from invoicing.words.choose import LANGUAGES
from plans.model import Address, Party
from plans.prices import GraduatedPrice, Kind, Tier
from rating.explain import tier_detail
from tests.einvoices import JANUARY, SELLER, credit_note, line

NOT_ENGLISH = sorted(set(LANGUAGES) - {"en"})
REASONS = [
    "adjustment",
    *(reason.value for reason in CreditReason),
    *(reason.value for reason in Reason if reason is not Reason.INITIAL),
]


def noted(reason: str, locale: str) -> str:
    """What a credit note says for its reason."""
    note = credit_note("10.00", "10.00")
    sheet = build_paper(
        document=msgspec.structs.replace(note, reason=reason),
        seller=SELLER,
        customer=Party(name="Acme"),
        lines=(line("10.00"),),
        locale=locale,
    )
    label = LANGUAGES[locale].reason
    return next(fact.value for fact in sheet.facts if fact.label == label)


@pytest.mark.parametrize("reason", REASONS)
def test_the_reason_of_a_credit_note_is_in_the_readers_language(reason) -> None:
    english = noted(reason, "en")
    assert english.lower()[:5] == reason[:5].replace("true_", "true-").replace("_", " ")
    told = {locale: noted(reason, locale) for locale in LANGUAGES}
    same = [locale for locale in NOT_ENGLISH if told[locale] == english]
    assert set(same) <= {"fr"}, "Correction is French too"


def test_a_reason_that_somebody_typed_stays() -> None:
    assert noted("because of_rain", "de") == "Because of rain"


@pytest.mark.parametrize("locale", NOT_ENGLISH)
def test_tiers_are_in_the_readers_language(locale) -> None:
    tiers = (Tier(up_to="10", unit_amount="1"), Tier(unit_amount="2"))
    price = GraduatedPrice(key="api", kind=Kind.USAGE, meter="m", tiers=tiers)
    steps = tier_detail(price=price, quantity=Fraction(12), fraction=Fraction(1))
    rows = tier_details(price=price, steps=steps, currency="EUR", locale=locale)
    words = LANGUAGES[locale]
    assert [row.tier for row in rows] == [
        words.up_to.format(last="10"),
        words.above.format(first="10"),
    ]


def test_what_happens_at_once_is_told_by_its_day() -> None:
    at = JANUARY[0]
    sheet = build_paper(
        document=credit_note("10.00", "10.00"),
        seller=SELLER,
        customer=Party(name="Acme"),
        lines=(line("10.00", period=(at, at)),),
        timezone="Europe/Berlin",
    )
    assert sheet.rows[0].cells.period == ("1 Jan 2026",)


def test_an_address_in_japan_goes_from_the_large_to_the_small() -> None:
    address = Address(
        line1="丸の内1-1-1", city="千代田区", region="東京都", postal_code="100-0005", country="JP"
    )
    shown = {
        locale: build_paper(
            document=credit_note("10.00", "10.00"),
            seller=SELLER,
            customer=Party(name="サンプル", address=address),
            lines=(line("10.00"),),
            locale=locale,
        ).recipient.rows
        for locale in ("ja", "en")
    }
    assert shown["ja"] == ("〒100-0005", "東京都千代田区", "丸の内1-1-1", "日本")
    assert shown["en"] == ("丸の内1-1-1", "100-0005 千代田区", "東京都", "Japan")
