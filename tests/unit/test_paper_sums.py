"""Taxes, discounts, credits, payment details and languages on the paper; receipts, statements."""

from datetime import UTC, datetime

import pytest

from engine.errors import BillingError
from invoicing.figures import Figures
from invoicing.paper import build_paper
from invoicing.paper_frame import Branding, PaymentDetails
from invoicing.paper_lines import PaperDiscount
from invoicing.paper_receipt import ReceiptFacts, SettledDocument, build_receipt
from invoicing.paper_statement import (
    AgeBucket,
    Movement,
    StatementFacts,
    StatementLine,
    build_statement,
)
from invoicing.paper_sums import PaperSums, VatCategory
from plans.model import Party
from tests.einvoices import BANK, CUSTOMER, JANUARY, SELLER, credit_note, invoice, line, rich, tax


def paper(document, *lines, **choices):
    return build_paper(
        document=document, seller=SELLER, customer=CUSTOMER, lines=lines, **choices
    )  # fmt: skip


def rich_paper(**choices):
    document, lines, taxes = rich()
    sums = PaperSums(discount="50.00", promotional="11.45", taxes=taxes, prepaid="100.00")
    return paper(document, *(each.line for each in lines), sums=sums, **choices)


def pairs(facts) -> list[tuple[str, str]]:
    return [(fact.label, fact.value) for fact in facts]


def test_every_step_from_subtotal_to_amount_due_is_told() -> None:
    assert pairs(rich_paper().totals) == [
        ("Subtotal", "€479.10"),
        ("Discount", "-€50.00"),
        ("Promotional credit", "-€11.45"),
        ("VAT 19%", "€77.33"),
        ("VAT 7%", "€0.75"),
        ("Total", "€495.73"),
        ("Prepaid credit", "-€100.00"),
        ("Amount due (EUR)", "€395.73"),
    ]
    (table,) = rich_paper().tables
    assert table.rows[0] == ("VAT", "19%", "€407.00", "€77.33")


def test_a_discount_stands_under_its_line() -> None:
    (taken,) = rich_paper().rows[0].details
    assert (taken.label, taken.amount) == ("SPRING", "-€50.00")


@pytest.mark.parametrize(
    "sums",
    [
        PaperSums(),
        PaperSums(taxes=(tax("100.00", "18.99"),)),
        PaperSums(taxes=(tax("100.00", "19.00", inclusive=True),)),
        PaperSums(discount="0.01", taxes=(tax("100.00", "19.00"),)),
    ],
)
def test_sums_that_do_not_make_the_total_are_not_printed(sums) -> None:
    with pytest.raises(BillingError) as failure:
        paper(invoice("100.00", "119.00"), line("100.00"), sums=sums)
    assert failure.value.code == "paper_does_not_add_up"


def test_discounts_of_lines_must_be_the_discount() -> None:
    cut = line("100.00", discounts=(PaperDiscount(label="A", amount="5.00"),))
    with pytest.raises(BillingError):
        paper(invoice("100.00", "94.00"), cut, sums=PaperSums(discount="6.00"))


def test_tax_inside_the_price_is_told_after_the_total() -> None:
    sums = PaperSums(taxes=(tax("28.18", "2.82", "10", inclusive=True),))
    sheet = paper(invoice("31.00", "31.00"), line("31.00"), sums=sums)
    labels = [label for label, _ in pairs(sheet.totals)]
    assert labels == ["Subtotal", "Total", "Included: VAT 10%", "Amount due (EUR)"]


@pytest.mark.parametrize(
    ("category", "locale", "legend"),
    [
        (VatCategory.REVERSE_CHARGE, "en", "Reverse charge: the recipient is liable"),
        (VatCategory.REVERSE_CHARGE, "de", "Steuerschuldnerschaft des Leistungsempfängers"),
        (VatCategory.EXEMPT, "fr", "Exonéré de taxe."),
        (VatCategory.NOT_TAXED, "it", "Fuori campo imposta."),
        (VatCategory.EXPORT, "nl", "Vrijgestelde uitvoer."),
        (VatCategory.INTRA_COMMUNITY, "es", "Entrega intracomunitaria exenta."),
        (VatCategory.ZERO, "pt", "Tributado à taxa zero."),
    ],
)
def test_a_legend_says_why_nothing_is_taxed(category, locale, legend) -> None:
    sums = PaperSums(taxes=(tax("100.00", "0.00", "0", category=category),) * 2)
    sheet = paper(invoice("100.00", "100.00"), line("100.00"), sums=sums, locale=locale)
    assert sheet.notes[0].startswith(legend)
    assert sum(note.startswith(legend) for note in sheet.notes) == 1
    assert len(pairs(sheet.totals)) == 3  # a tax of nothing is in the table only


def test_own_words_replace_the_legend() -> None:
    exempt = tax("9.00", "0.00", "0", category=VatCategory.EXEMPT, reason="§ 19 UStG")
    sheet = paper(invoice("9.00", "9.00"), line("9.00"), sums=PaperSums(taxes=(exempt,)))
    assert sheet.notes[0] == "§ 19 UStG"


def test_a_credit_note_shows_its_tax() -> None:
    sheet = paper(
        credit_note("10.00", "11.90"), line("10.00"), sums=PaperSums(taxes=(tax("10.00", "1.90"),))
    )
    assert ("VAT 19%", "€1.90") in pairs(sheet.totals)
    assert sheet.headline.value == "€11.90 EUR"


def test_where_to_pay_is_told_only_when_something_is_due() -> None:
    told = dict(pairs(rich_paper(payment=BANK).payment))
    assert told["IBAN"] == "DE89 3704 0044 0532 0130 00"
    assert told["Reference"] == "H-2026-0042"
    paid = invoice("9.00", "9.00", amount_due="0.00")
    assert paper(paid, line("9.00"), payment=BANK).payment == ()


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "http://a.example", "https://a b", "x" * 9]
)
def test_a_link_to_pay_is_an_https_address(link) -> None:
    with pytest.raises(BillingError) as failure:
        rich_paper(payment=PaymentDetails(pay_link=link))
    assert failure.value.code == "invalid_link"


def test_a_colour_is_a_colour() -> None:
    assert rich_paper(branding=Branding(accent="#145AA0")).accent == "#145aa0"
    with pytest.raises(BillingError) as failure:
        rich_paper(branding=Branding(accent="red"))
    assert failure.value.code == "invalid_colour"


@pytest.mark.parametrize(
    ("locale", "title", "issued", "due"),
    [
        ("de", "Rechnung", "1. Feb. 2026", "395,73 €"),
        ("fr", "Facture", "1 févr. 2026", "395,73 €"),
        ("pt_BR", "Fatura", "1 de fev. de 2026", "€ 395,73"),
        ("ja", "請求書", "2026年2月1日", "€395.73"),
        ("ar", "فاتورة", "1 فبراير 2026", "395.73 €"),
        ("he", "חשבונית", "1 בפבר׳ 2026", "395.73 €"),
        ("sv", "Invoice", "1 Feb 2026", "395,73 €"),  # English words have English months
    ],
)
def test_words_dates_and_amounts_follow_the_locale(locale, title, issued, due) -> None:
    sheet = rich_paper(locale=locale)
    assert sheet.title == title
    assert dict(pairs(sheet.facts))[sheet.words.issued] == issued
    assert sheet.totals[-1].value.replace("\u00a0", " ") == due


@pytest.mark.parametrize(
    ("locale", "shown"), [("en", "7.75%"), ("de", "7,75\u00a0%"), ("tr", "%7,75")]
)
def test_percentages_follow_the_locale(locale, shown) -> None:
    assert Figures(currency="EUR", locale=locale).percent("7.750") == shown


def receipt(**fields) -> ReceiptFacts:
    settled = SettledDocument(number="H-1", issued_at=JANUARY[0], total="80.00", paid="80.00")
    return ReceiptFacts(
        **{
            "number": "R-1", "currency": "USD", "amount": "100.00", "received_at": JANUARY[1],
            "method": "Visa", "documents": (settled,),
        }
        | fields
    )  # fmt: skip


def test_a_receipt_says_what_was_settled_and_what_is_kept() -> None:
    sheet = build_receipt(receipt=receipt(), seller=SELLER, customer=CUSTOMER)
    assert pairs(sheet.totals) == [
        ("Applied to open invoices", "$80.00"),
        ("Added to your balance", "$20.00"),
        ("Amount paid (USD)", "$100.00"),
    ]
    with pytest.raises(BillingError):
        build_receipt(receipt=receipt(amount="79.99"), seller=SELLER, customer=CUSTOMER)


def statement(closing="70.00") -> StatementFacts:
    return StatementFacts(
        number="S-1", currency="EUR", period=JANUARY, opening="20.00", closing=closing,
        lines=(
            StatementLine(at=JANUARY[0], kind=Movement.INVOICE, number="H-1", amount="90.00"),
            StatementLine(at=JANUARY[0], kind=Movement.PAYMENT, number="P-1", amount="-40.00"),
        ),
        ageing=(AgeBucket(amount="50.00"), AgeBucket(first=1, last=30, amount="20.00"),
                AgeBucket(first=91, amount="0.00")),
    )  # fmt: skip


def test_a_statement_runs_from_balance_to_balance() -> None:
    sheet = build_statement(
        statement=statement(), seller=SELLER, customer=CUSTOMER, payment=BANK
    )  # fmt: skip
    shown = [(row.cells.label, row.cells.amount) for row in sheet.rows]
    assert shown == [("Opening balance", "€20.00"), ("Invoice H-1", "€110.00"),
                     ("Payment P-1", "€70.00")]  # fmt: skip
    assert pairs(sheet.totals)[1:3] == [("Charges", "€90.00"), ("Credits", "-€40.00")]
    assert [row[0] for row in sheet.tables[0].rows] == [
        "Not yet due", "1–30 days late", "More than 90 days late",
    ]  # fmt: skip
    assert sheet.payment


def test_a_statement_that_does_not_run_is_not_printed() -> None:
    with pytest.raises(BillingError) as failure:
        build_statement(statement=statement("70.01"), seller=SELLER, customer=Party(name="A"))
    assert failure.value.code == "paper_does_not_add_up"


def test_days_are_those_of_the_timezone() -> None:
    late = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    sheet = build_receipt(
        receipt=receipt(received_at=late), seller=SELLER, customer=CUSTOMER,
        timezone="Europe/Berlin", locale="ja",
    )  # fmt: skip
    assert sheet.headline_note == "2026年2月1日"
