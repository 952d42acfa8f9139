"""What a printed document says."""

from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import pytest

from engine.errors import BillingError
from engine.money import currency_digits, format_amount, is_currency
from invoicing.figures import Figures
from invoicing.model import (
    CreditNote,
    CreditNoteStatus,
    Invoice,
    InvoiceStatus,
    LineItem,
    Reason,
)
from invoicing.paper import build_paper
from invoicing.paper_lines import PaperDetail, PaperLine, paper_line, tier_details
from plans.model import Address, Party, TaxId
from plans.prices import GraduatedPrice, Kind, PackagePrice, PerUnitPrice, Tier, VolumePrice
from rating.explain import tier_detail

BERLIN = ZoneInfo("Europe/Berlin")
SELLER = Party(name="Helios GmbH", tax_ids=(TaxId(type="VAT", value="DE811234567"),))
CUSTOMER = Party(
    name="Acme",
    address=Address(
        line1="500 Howard Street", city="San Francisco", region="CA", postal_code="94105",
        country="US",
    ),
)  # fmt: skip


def berlin(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=BERLIN).astimezone(UTC)


JANUARY = (berlin(2026, 1, 1), berlin(2026, 2, 1))


def line(amount="10.00", **fields) -> PaperLine:
    return PaperLine(
        **{"description": "Seats", "period": JANUARY, "subscription": "s1", "amount": amount}
        | fields
    )


def invoice(total="10.00", **fields) -> Invoice:
    return Invoice(
        **{
            "id": "inv_1", "number": "H-1", "customer": "acme", "currency": "EUR",
            "status": InvoiceStatus.OPEN, "issued_at": berlin(2026, 2, 1, 6),
            "due_at": berlin(2026, 3, 3, 6), "subtotal": total, "total": total,
            "discount": "0.00", "promotional_applied": "0.00", "tax": "0.00",
            "prepaid_applied": "0.00",
            "balance_applied": "0.00", "balance_returned": "0.00",
            "amount_paid": "0.00", "amount_due": total,
            "po_number": None, "lines": (),
            "voided_at": None,
        }
        | fields
    )  # fmt: skip


def credit_note(total="10.00", **fields) -> CreditNote:
    return CreditNote(
        **{
            "id": "cn_1", "number": "C-1", "customer": "acme", "currency": "EUR",
            "status": CreditNoteStatus.ISSUED, "reason": "late_usage",
            "issued_at": berlin(2026, 2, 1), "subtotal": total, "total": total,
            "discount": "0.00", "promotional_applied": "0.00", "tax": "0.00",
            "applied": total, "credited": "0.00", "refunded": "0.00", "lines": (),
        }
        | fields
    )  # fmt: skip


def paper(document, *lines, **choices):
    return build_paper(
        document=document, seller=SELLER, customer=CUSTOMER, lines=lines or (line(),),
        **{"timezone": "Europe/Berlin"} | choices,
    )  # fmt: skip


def facts(pairs) -> dict[str, str]:
    return {fact.label: fact.value for fact in pairs}


def test_an_invoice_says_how_much_and_by_when() -> None:
    sheet = paper(invoice(po_number="PO 7"))
    assert sheet.headline.value == "€10.00 EUR"
    assert sheet.headline_note == "Due 3 Mar 2026"
    assert facts(sheet.facts) == {
        "Invoice number": "H-1",
        "Issued": "1 Feb 2026",
        "Due": "3 Mar 2026",
        "PO number": "PO 7",
    }
    assert sheet.notes[0].startswith("Payment is due within 30 days, by 3 Mar 2026.")
    assert sheet.footer == "Helios GmbH · VAT DE811234567"


def test_totals_show_what_was_deducted() -> None:
    sheet = paper(invoice(balance_applied="3.00", amount_due="5.00"))
    assert [(fact.label, fact.value) for fact in sheet.totals] == [
        ("Subtotal", "€10.00"),
        ("Total", "€10.00"),
        ("Balance applied", "-€3.00"),
        ("Already settled", "-€2.00"),
        ("Amount due (EUR)", "€5.00"),
    ]


def test_a_void_invoice_asks_for_nothing() -> None:
    sheet = paper(invoice(status=InvoiceStatus.VOID))
    assert sheet.stamp == "Void"
    assert sheet.headline_note == "Nothing to pay"
    assert "Amount due (EUR)" not in facts(sheet.totals)
    assert sheet.notes[0] == "This invoice is void. Nothing is to be paid for it."


def test_due_when_received_and_due_in_one_day() -> None:
    assert "on receipt" in paper(invoice(due_at=berlin(2026, 2, 1, 6))).notes[0]
    assert "within 1 day, by 2 Feb" in paper(invoice(due_at=berlin(2026, 2, 2, 6))).notes[0]


def test_a_credit_note_names_what_it_adjusts_and_why() -> None:
    sheet = paper(
        credit_note("9.79", applied="4.00", credited="5.79"),
        line("10.00", reason=Reason.LATE_USAGE, adjusts="H-0"),
        line("-0.21", reason=Reason.CORRECTION, adjusts="H-1"),
    )
    assert sheet.title == "Credit note"
    assert facts(sheet.facts)["Adjusts"] == "H-0, H-1"
    assert facts(sheet.facts)["Reason"] == "Late usage"
    assert sheet.rows[0].cells.notes == ("s1", "Late usage, adjusts H-0")
    assert sheet.rows[1].cells.amount == "-€0.21"
    assert sheet.headings[-1] == "Credit"
    assert facts(sheet.totals)["Added to your balance"] == "€5.79"


def test_a_refund_to_come_is_told_apart_from_the_balance() -> None:
    note = credit_note("9.79", applied="4.00", credited="0.79", refunded="5.00")
    sheet = paper(note, line("9.79", reason=Reason.CORRECTION))
    assert facts(sheet.totals)["To be refunded"] == "€5.00"
    assert facts(sheet.totals)["Added to your balance"] == "€0.79"
    assert "To be refunded" not in facts(paper(credit_note()).totals)


def test_many_adjusted_documents_are_counted() -> None:
    lines = [line("1.00", adjusts=f"H-{number}") for number in range(10)]
    assert facts(paper(credit_note(), *lines).facts)["Adjusts"].endswith("H-5 and 4 more")


@pytest.mark.parametrize(
    ("document", "lines"),
    [
        (invoice("10.01"), ()),
        (invoice(total="10.00", subtotal="9.00"), (line("9.00"),)),
        (credit_note(applied="3.00", credited="6.99"), ()),
    ],
)
def test_a_sheet_that_does_not_add_up_is_not_printed(document, lines) -> None:
    with pytest.raises(BillingError) as failure:
        paper(document, *lines)
    assert failure.value.code == "paper_does_not_add_up"


@pytest.mark.parametrize(
    ("period", "shown"),
    [
        (JANUARY, ("1 Jan 2026 –", "31 Jan 2026")),
        ((berlin(2026, 3, 28), berlin(2026, 3, 30)), ("28 Mar 2026 –", "29 Mar 2026")),
        ((berlin(2026, 1, 5), berlin(2026, 1, 6)), ("5 Jan 2026",)),
        ((berlin(2026, 1, 5), berlin(2026, 1, 5)), ("5 Jan 2026",)),
        (
            (berlin(2026, 1, 5, 13, 30), berlin(2026, 2, 1)),
            ("5 Jan 2026 13:30 –", "1 Feb 2026 00:00"),
        ),
        (
            (berlin(2026, 1, 5, 1, 2, 3), berlin(2026, 2, 1, 0, 0, 0, 5)),
            ("5 Jan 2026 01:02:03 –", "1 Feb 2026 00:00:00.000005"),
        ),
        (  # 02:30 is told twice that night: the offset says which
            (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)),
            ("25 Oct 2026 02:30 +0200 –", "25 Oct 2026 02:30 +0100"),
        ),
    ],
)
def test_periods_are_whole_days_or_instants(period, shown) -> None:
    assert paper(invoice(), line(period=period)).rows[0].cells.period == shown


def test_a_line_shows_its_price_as_finely_as_it_is() -> None:
    cells = (
        paper(
            invoice(),
            line(quantity="1234567.50", unit_amount="0.00021", package_size="1000"),
        )
        .rows[0]
        .cells
    )
    assert (cells.quantity, cells.unit, cells.unit_note) == ("1,234,567.5", "€0.00021", "per 1,000")


def test_tiers_stand_under_their_line() -> None:
    tier = PaperDetail(
        tier="1 – 100", units="100", unit_amount="0.001", flat_amount="5", amount="5.1005"
    )
    free = PaperDetail(tier="Above 100", units="0", flat_amount="0.00", amount="0")
    first, second = paper(invoice(), line(details=(tier, free))).rows[0].details
    assert (first.label, first.unit, first.amount) == ("1 – 100, flat €5.00", "€0.001", "€5.1005")
    assert (second.label, second.unit, second.amount) == ("Above 100", "", "€0.00")


def test_a_posted_line_borrows_the_words_of_its_price() -> None:
    item = LineItem(
        id="li_1", price="seats", key="seats", discount="0.00", promotional="0.00", tax="0.00",
        subscription="s1", customer="acme", quantity="3",
        amount="9.00", period=JANUARY, reason=Reason.INITIAL, group=None, adjusts=None,
    )  # fmt: skip
    price = PerUnitPrice(key="seats", kind=Kind.RECURRING, name="Team seats", unit_amount="3")
    package = PackagePrice(key="calls", kind=Kind.USAGE, unit_amount="5", package_size="100")
    assert paper_line(item=item).description == "seats"
    assert paper_line(item=item, price=price).description == "Team seats"
    assert paper_line(item=item, price=price).unit_amount == "3"
    assert paper_line(item=item, price=package).package_size == "100"


TIERS = (
    Tier(up_to="1000", unit_amount="0.05"),
    Tier(up_to="10000", unit_amount="0.04", flat_amount="5"),
    Tier(unit_amount="0.003125"),
)


@pytest.mark.parametrize(
    ("price", "quantity", "fraction", "rows"),
    [
        (
            GraduatedPrice(key="g", kind=Kind.USAGE, tiers=TIERS),
            Fraction(12000),
            Fraction(1),
            [
                ("Up to 1,000", "1000", "50"),
                ("Above 1,000, up to 10,000", "9000", "365"),
                ("Above 10,000", "2000", "6.25"),
            ],
        ),
        (
            VolumePrice(key="v", kind=Kind.USAGE, tiers=TIERS),
            Fraction(1500),
            Fraction(1),
            [("Above 1,000, up to 10,000", "1500", "65")],
        ),
        (
            GraduatedPrice(key="g", kind=Kind.USAGE, tiers=TIERS, prorate_tiers=True),
            Fraction(500),
            Fraction(1, 3),
            [
                ("Up to 333.33", "333.333333", "16.666667"),
                ("Above 333.33, up to 3,333.33", "166.666667", "11.666667"),
            ],
        ),
        (
            PerUnitPrice(key="p", kind=Kind.USAGE, unit_amount="1"),
            Fraction(5),
            Fraction(1),
            [],
        ),
    ],
)
def test_the_trace_of_a_tiered_price_is_told_in_rows(price, quantity, fraction, rows) -> None:
    steps = tier_detail(price=price, quantity=quantity, fraction=fraction)
    details = tier_details(price=price, steps=steps, currency="EUR", fraction=fraction)
    assert [(row.tier, row.units, row.amount) for row in details] == rows
    paper(invoice(), line(details=details))  # all of it can be shown


def test_addresses_follow_their_country() -> None:
    sheet = paper(invoice())
    assert sheet.recipient.rows == ("500 Howard Street", "San Francisco, CA 94105", "United States")
    german = Party(name="A", address=Address(city="Berlin", postal_code="10119"), country="DE")
    other = build_paper(document=invoice(), seller=german, customer=SELLER, lines=(line(),))
    assert other.issuer.rows == ("10119 Berlin", "Germany")


def test_a_megabyte_of_name_is_cut() -> None:
    endless = Party(name="x" * 1_000_000)
    sheet = build_paper(
        document=invoice(), seller=endless, customer=endless,
        lines=(line(description="y" * 1_000_000),), terms="z" * 1_000_000,
    )  # fmt: skip
    assert len(repr(sheet)) < 20_000


@pytest.mark.parametrize(
    ("currency", "text", "shown"),
    [
        ("USD", "-1234.50", "-$1,234.50"),
        ("JPY", "1234", "¥1,234"),
        ("KWD", "-1.234", "-KWD\u00a01.234"),
        ("IQD", "1.230", "IQD\u00a01.230"),  # the locale data would round it to none
        ("CHF", "0.05", "CHF\u00a00.05"),
    ],
)
def test_amounts_have_the_digits_of_their_currency(currency, text, shown) -> None:
    assert Figures(currency=currency).amount(text) == shown


def test_no_digit_of_the_longest_price_is_lost() -> None:
    text = "123456789012345678.123456789012"
    assert Figures(currency="USD").price(text).replace(",", "") == f"${text}"
    assert Figures(currency="USD").quantity(f"-{text}").replace(",", "") == f"-{text}"


@pytest.mark.parametrize("locale", ["en", "de", "fr", "de_CH", "sv", "nb", "ja", "ar", "he", "hi"])
def test_a_negative_amount_has_a_plain_minus_and_its_digits_everywhere(locale) -> None:
    codes = [a + b + c for a in "AEIJKX" for b in "AENPQRSUW" for c in "DFRY"]
    currencies = ["USD", "EUR", "GBP", *(code for code in codes if is_currency(code))]
    for currency in currencies:
        minor = -123456789
        plain = format_amount(minor, currency=currency)
        shown = Figures(currency=currency, locale=locale).amount(plain)
        assert "-" in shown, (currency, shown)
        kept = "".join(char for char in shown if char.isdigit())
        assert kept == str(-minor), (currency, shown, currency_digits(currency))


def test_an_unknown_locale_or_zone_is_an_error() -> None:
    for choice, code in (
        ({"locale": "xx_nowhere"}, "unknown_locale"),
        ({"timezone": "Mars/Olympus"}, "unknown_timezone"),
    ):
        with pytest.raises(BillingError) as failure:
            paper(invoice(), **choice)
        assert failure.value.code == code
