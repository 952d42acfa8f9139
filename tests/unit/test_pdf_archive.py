"""PDF/A: what passes the validator, what does not, and the e-invoice inside."""

from datetime import UTC, datetime
from io import BytesIO

import pikepdf
import pytest
from facturx import get_facturx_xml_from_pdf
from pikepdf import pdfa
from PIL import Image

from engine.errors import BillingError
from invoicing.einvoice_cii import write_cii
from invoicing.paper import build_paper
from invoicing.paper_frame import Branding, PaymentDetails
from invoicing.paper_sums import PaperSums
from invoicing.pdf import render_pdf
from invoicing.pdf_archive import archive_pdf
from plans.model import Party
from tests.einvoices import CUSTOMER, SELLER, rich, trade

ISSUED = datetime(2026, 2, 1, tzinfo=UTC)
UNBRANDED = Branding()
LINKED = PaymentDetails(iban="DE89370400440532013000", pay_link="https://pay.example.com/i/1")


def drawn(*, locale="en", seller=SELLER, branding=UNBRANDED) -> bytes:
    document, lines, taxes = rich()
    sums = PaperSums(discount="50.00", promotional="11.45", taxes=taxes, prepaid="100.00")
    paper = build_paper(
        document=document, seller=seller, customer=CUSTOMER, lines=[each.line for each in lines],
        sums=sums, locale=locale, payment=LINKED, branding=branding,
    )  # fmt: skip
    return render_pdf(paper=paper)


def archived(content: bytes, **fields) -> bytes:
    return archive_pdf(
        content=content, title="Invoice H-2026-0042", language="en", issued_at=ISSUED, **fields
    )


def verdict(content: bytes, flavour: str) -> str:
    return pdfa.validate_written(BytesIO(content), flavour).verdict


@pytest.mark.parametrize("locale", ["en", "ja", "ar", "he"])
def test_every_script_passes_as_pdf_a_2b(locale) -> None:
    seller = Party(name="株式会社 شركة الأَمَل שלום", tax_ids=SELLER.tax_ids)
    assert verdict(archived(drawn(locale=locale, seller=seller)), "2b") == "pass"


def test_a_logo_with_transparency_and_a_colour_passes() -> None:
    logo = BytesIO()
    Image.new("RGBA", (40, 20), (200, 30, 30, 120)).save(logo, "PNG")
    branding = Branding(logo=logo.getvalue(), accent="#145aa0")
    assert verdict(archived(drawn(branding=branding)), "2b") == "pass"


def test_no_name_can_stop_an_archived_document() -> None:
    hostile = "A\x00\x1b\u202e\ue123\uffff\ud800\U0001f4b0<&]]> \u0e01\u0923"
    seller = Party(name=hostile, tax_ids=SELLER.tax_ids)
    assert verdict(archived(drawn(seller=seller)), "2b") == "pass"


def test_the_plain_file_and_corrupted_copies_fail() -> None:
    plain = drawn()
    assert verdict(plain, "2b") != "pass"
    good = archived(plain)
    assert verdict(good, "2b") == "pass"
    for damage in (_without_intent, _without_font_file, _with_script):
        with pikepdf.open(BytesIO(good)) as pdf:
            damage(pdf)
            out = BytesIO()
            pdf.save(out)
        assert verdict(out.getvalue(), "2b") != "pass", damage.__name__


def _without_intent(pdf) -> None:
    del pdf.Root.OutputIntents


def _without_font_file(pdf) -> None:
    font = next(iter(pdf.pages[0].Resources.Font.values()))
    del font.FontDescriptor.FontFile2


def _with_script(pdf) -> None:
    pdf.Root.OpenAction = pikepdf.Dictionary(S=pikepdf.Name.JavaScript, JS="app.alert(1)")


def test_what_cannot_be_archived_is_not_handed_out() -> None:
    with pikepdf.open(BytesIO(drawn())) as pdf:
        _without_font_file(pdf)
        out = BytesIO()
        pdf.save(out)
    with pytest.raises(BillingError) as failure:
        archived(out.getvalue())
    assert failure.value.code == "pdf_not_archivable"


def test_the_e_invoice_is_inside_and_read_back() -> None:
    document, lines, taxes = rich()
    xml = write_cii(document=trade(document, *lines, taxes=taxes))
    content = archived(drawn(), xml=xml)
    name, found = get_facturx_xml_from_pdf(content, check_xsd=True)
    assert (name, found) == ("factur-x.xml", xml)
    report = pdfa.validate_written(BytesIO(content), "3b")
    # The validator knows no extension schemas, and finds nothing else.
    assert all("6.6.2.3.1-1" in str(finding) for finding in report.findings)
    with pikepdf.open(BytesIO(content)) as pdf:
        assert pdf.Root.AF[0].AFRelationship == pikepdf.Name.Alternative
        assert b'fx:ConformanceLevel="EN 16931"' in pdf.Root.Metadata.read_bytes()


def test_the_same_document_is_the_same_bytes() -> None:
    assert archived(drawn()) == archived(drawn())
    assert archived(drawn(), xml=b"<a/>") == archived(drawn(), xml=b"<a/>")
