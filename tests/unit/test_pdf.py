"""Documents as PDF: nothing is lost between the figures and the paper."""

from datetime import UTC, datetime
from importlib.resources import files
from io import BytesIO

import msgspec
import pytest
from fontTools.ttLib import TTFont
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pypdf import PdfReader

from engine.errors import BillingError
from invoicing.model import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus, Reason
from invoicing.paper import build_paper
from invoicing.paper_frame import Branding, PaymentDetails
from invoicing.paper_lines import PaperDetail, PaperLine
from invoicing.paper_parts import Fact
from invoicing.paper_sums import PaperSums, PaperTax
from invoicing.pdf import render_pdf
from invoicing.pdf_script import join_letters, visual_order
from invoicing.pdf_text import BOLD, MISSING_MARK, REGULAR, figure_runs, free_lines, plain_text
from plans.model import Address, Party, TaxId

JANUARY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC))
SELLER = Party(name="Helios GmbH", tax_ids=(TaxId(type="VAT", value="DE811234567"),))
CUSTOMER = Party(name="Acme Robotics, Inc.", address=Address(city="Köln", country="DE"))


def line(amount="10.00", **fields) -> PaperLine:
    return PaperLine(
        **{"description": "Seats", "period": JANUARY, "subscription": "s1", "amount": amount}
        | fields
    )


def invoice_of(lines, **fields) -> Invoice:
    minor = sum(int(each.amount.replace(".", "")) for each in lines)
    total = f"{minor // 100}.{minor % 100:02}"
    return Invoice(
        **{
            "id": "inv_1", "number": "H-2026-0042", "customer": "acme", "currency": "EUR",
            "status": InvoiceStatus.OPEN, "issued_at": JANUARY[1],
            "due_at": datetime(2026, 3, 3, tzinfo=UTC), "subtotal": total, "total": total,
            "discount": "0.00", "promotional_applied": "0.00", "tax": "0.00",
            "prepaid_applied": "0.00",
            "balance_applied": "0.00", "balance_returned": "0.00",
            "amount_paid": "0.00", "amount_due": total,
            "po_number": None, "lines": (),
            "voided_at": None,
        }
        | fields
    )  # fmt: skip


def paper_of(*lines, seller=SELLER, customer=CUSTOMER, document=None, **choices):
    lines = lines or (line(),)
    return build_paper(
        document=document or invoice_of(lines), seller=seller, customer=customer, lines=lines,
        **choices,
    )  # fmt: skip


def pages_of(content: bytes) -> list[str]:
    return [page.extract_text() for page in PdfReader(BytesIO(content)).pages]


def fonts_of(content: bytes):
    for page in PdfReader(BytesIO(content)).pages:
        for font in page["/Resources"]["/Font"].values():
            yield font.get_object()


def test_all_amounts_are_on_the_paper_with_their_signs() -> None:
    lines = (
        line("500.00", quantity="25", unit_amount="20"),
        line("-32.90", quantity="-3", reason=Reason.PRORATION, adjusts="H-2026-0031"),
        line("1234567.89", quantity="1284311", unit_amount="0.00021"),
    )
    document = invoice_of(lines, balance_applied="35.00", amount_due="1235000.00")
    document = msgspec.structs.replace(document, amount_due="1234999.99")
    (text,) = pages_of(render_pdf(paper=paper_of(*lines, document=document)))
    for shown in ("€500.00", "-€32.90", "€1,234,567.89", "-€35.00", "€1,234,999.99", "-3"):
        assert shown in text
    for shown in ("1,284,311", "€0.00021", "1 Jan 2026 –", "31 Jan 2026", "H-2026-0031"):
        assert shown in text
    assert "Page 1 of 1" in text


def test_every_page_has_its_head_and_number_and_totals_are_not_alone() -> None:
    tiers = tuple(
        PaperDetail(tier=f"Tier {number}", units="1", unit_amount="0.01", amount="0.01")
        for number in range(70)
    )
    lines = [line(f"{number}.25", description=f"Price {number}") for number in range(1, 24)]
    texts = pages_of(render_pdf(paper=paper_of(*lines, line(details=tiers))))
    assert len(texts) > 2
    for number, text in enumerate(texts, start=1):
        assert f"Page {number} of {len(texts)}" in text
        assert "Service period" in text
        assert "H-2026-0042" in text
    assert "Seats (continued)" in texts[-1]
    assert "Amount due (EUR)" in texts[-1]
    assert all("Amount due (EUR)" not in text for text in texts[:-1])


@pytest.mark.parametrize("count", range(8, 20))
def test_the_last_line_goes_with_the_totals(count) -> None:
    lines = [line(description=f"Price {number}") for number in range(count)]
    texts = pages_of(render_pdf(paper=paper_of(*lines)))
    assert f"Price {count - 1}" in texts[-1]
    assert "Subtotal" in texts[-1]


def test_a_credit_note_is_titled_and_reads_in_the_customers_favour() -> None:
    note = CreditNote(
        id="cn_1", number="C-7", customer="acme", currency="EUR",
        status=CreditNoteStatus.ISSUED, reason="correction", issued_at=JANUARY[1],
        subtotal="10.00", total="10.00", applied="4.00", credited="6.00", refunded="0.00", lines=(),
        discount="0.00", promotional_applied="0.00", tax="0.00",
    )  # fmt: skip
    changed = line(reason=Reason.LATE_USAGE, adjusts="H-2026-0001")
    (text,) = pages_of(render_pdf(paper=paper_of(changed, document=note)))
    for shown in ("Credit note", "Credit in your favour", "€6.00", "Late usage, adjusts H-2026"):
        assert shown in text


def test_every_font_is_embedded() -> None:
    mixed = Party(name="株式会社 שלום Ωmega")
    names = set()
    for font in fonts_of(render_pdf(paper=paper_of(customer=mixed))):
        names.add(font["/BaseFont"].partition("+")[2])
        assert "/FontFile2" in font["/FontDescriptor"]
        assert "/ToUnicode" in font
    assert names >= {"NotoSans-Regular", "NotoSans-Bold", "DroidSansFallback"}


def test_the_same_paper_is_the_same_bytes() -> None:
    logo = BytesIO()
    Image.new("RGBA", (40, 20), (200, 30, 30, 120)).save(logo, "PNG")
    paper = paper_of(
        line(details=(PaperDetail(tier="a", amount="1"),)), branding=Branding(logo=logo.getvalue())
    )
    first = render_pdf(paper=paper)
    render_pdf(paper=paper_of(customer=Party(name="別の会社")))
    assert render_pdf(paper=paper) == first
    assert len(PdfReader(BytesIO(first)).pages[0].images) == 1


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\nbroken", b"\xff\xd8\xff"])
def test_a_logo_that_is_no_picture_is_an_error(content) -> None:
    with pytest.raises(BillingError) as failure:
        render_pdf(paper=paper_of(branding=Branding(logo=content)))
    assert failure.value.code == "logo_unreadable"


def test_markup_is_only_text() -> None:
    hostile = Party(name="<b>Bold</b> & <a href='x'>Söhne</a> &amp; %s")
    (text,) = pages_of(render_pdf(paper=paper_of(customer=hostile)))
    assert "<b>Bold</b> &" in text
    assert "&amp;" in text


def test_a_figure_that_no_font_can_draw_is_an_error() -> None:
    total = Fact(label="Amount due", value="-\U0001f4b010.00")
    paper = msgspec.structs.replace(paper_of(), totals=(total,))
    with pytest.raises(BillingError) as failure:
        render_pdf(paper=paper)
    assert failure.value.code == "glyph_missing"
    assert "U+1F4B0" in failure.value.detail
    assert "Amount due" in failure.value.detail


def test_free_text_shows_a_mark_for_what_no_font_has() -> None:
    assert plain_text(text="A\U0001f4b0B") == f"A{MISSING_MARK}B"
    assert plain_text(text="\ud800") == MISSING_MARK
    assert plain_text(text=" a\r\n\tb\u202e\x00 ") == "a b"
    assert plain_text(text="e\u0301") == "é"


def test_right_to_left_is_drawn_as_it_is_seen() -> None:
    assert visual_order("abc") == "abc"
    assert visual_order("שלום") == "םולש"
    assert visual_order("רחוב 25 (א)") == "(א) 25 בוחר"
    assert visual_order("Acme שלום 12") == "Acme 12 םולש"
    assert visual_order("שלום, Acme 5% (x)") == "(Acme 5% (x ,םולש"
    assert visual_order("רחוב 25, תל") == "לת ,25 בוחר"
    assert join_letters("سلام") == "\ufeb3\ufefc\ufee1"


@pytest.mark.parametrize("face", sorted(set(REGULAR + BOLD)))
def test_what_figures_are_made_of_has_an_outline(face) -> None:
    """A character can be mapped to an empty glyph: it would vanish all the same."""
    font = TTFont(BytesIO((files("invoicing") / "fonts" / f"{face}.ttf").read_bytes()))
    cmap, glyphs = font.getBestCmap(), font["glyf"]
    needed = "" if face.startswith("Droid") else "-+0123456789.,'’$€£¥₹–□…()"
    for char in needed:
        if ord(char) in cmap:
            assert glyphs[cmap[ord(char)]].numberOfContours != 0, (face, char)
    if face.startswith("NotoSans-"):
        assert all(ord(char) in cmap for char in "-0123456789.,$€£¥₹")


def test_each_font_comes_with_its_licence() -> None:
    names = {entry.name for entry in (files("invoicing") / "fonts").iterdir()}
    for family in ("NotoSans", "DejaVuSans", "DroidSansFallback"):
        assert f"LICENSE-{family}.txt" in names


@pytest.mark.timeout(600)
def test_a_megabyte_of_text_takes_bounded_space() -> None:
    endless = Party(name="W" * 1_000_000, address=Address(line1="é" * 500))
    paper = paper_of(line(description="字" * 1_000_000, subscription="s" * 1_000_000),
                     seller=endless, customer=endless, terms="t " * 500_000)  # fmt: skip
    assert len(pages_of(render_pdf(paper=paper))) <= 2


@pytest.mark.timeout(600)
def test_ten_thousand_lines_are_printed() -> None:
    lines = [line(f"{number}.05", quantity=str(number)) for number in range(10_000)]
    paper = paper_of(*lines)
    content = render_pdf(paper=paper)
    assert len(PdfReader(BytesIO(content)).pages) > 300


@pytest.mark.parametrize("size", ["1", "123456789012345678.123456789012"])
def test_a_figure_too_wide_is_made_smaller_never_cut(size) -> None:
    paper = paper_of(line(quantity=f"-{size}", unit_amount=size))
    (text,) = pages_of(render_pdf(paper=paper))
    assert f"-{size}" in text.replace(",", "")


ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()), max_size=60)


@settings(max_examples=60, deadline=None)
@given(name=ANY_TEXT, row=ANY_TEXT, note=ANY_TEXT)
def test_no_text_can_stop_a_document(name, row, note) -> None:
    party = Party(name=name, address=Address(line1=row, city=note))
    paper = paper_of(
        line(description=row, note=note, adjusts=name), seller=party, customer=party, terms=note
    )
    (text, *_) = pages_of(render_pdf(paper=paper))
    assert "€10.00" in text


@settings(max_examples=200, deadline=None)
@given(text=ANY_TEXT, room=st.floats(min_value=0.1, max_value=40), limit=st.integers(1, 5))
def test_wrapped_text_keeps_within_its_limits(text, room, limit) -> None:
    lines = free_lines(text=text, room=room, limit=limit)
    assert len(lines) <= limit
    for runs in lines:
        alone = sum(len(run.text) for run in runs) <= 1
        assert alone or sum(run.width for run in runs) <= room + 1e-6


@settings(max_examples=100, deadline=None)
@given(text=ANY_TEXT)
def test_a_figure_is_drawn_whole_or_not_at_all(text) -> None:
    try:
        drawn = "".join(run.text for run in figure_runs(text=text, field="amount"))
    except BillingError as error:
        outcome = error.code
    else:
        outcome = letters(drawn)
    assert outcome in {letters(text), "glyph_missing"}


def letters(text: str) -> int:
    """How many letters are there: lam with alef is one character of two."""
    return len(text) + sum("\ufef5" <= char <= "\ufefc" for char in text)


PAYMENT = PaymentDetails(account_holder="Helios", bank="Bank", iban="DE89 3704 0044 0532 0130 00")


def test_few_lines_do_not_leave_half_a_page_white() -> None:
    tax = PaperTax(label="VAT", percentage="19", taxable="40.00", amount="7.60")
    lines = tuple(line("10.00", note="one", tax="two", description=f"Item {n}") for n in range(4))
    document = invoice_of(lines, total="47.60", amount_due="47.60", tax="7.60")
    sums = PaperSums(taxes=(tax,))
    first, *others = pages_of(
        render_pdf(paper=paper_of(*lines, document=document, sums=sums, payment=PAYMENT))
    )
    assert "Item 3" in first and "Amount due (EUR)" in first
    assert all("Payment details" in page for page in others)


def test_notes_are_never_alone_on_a_page() -> None:
    for count in range(1, 40):
        lines = tuple(line("1.00", description=f"Item {n}") for n in range(count))
        last = pages_of(render_pdf(paper=paper_of(*lines, payment=PAYMENT)))[-1]
        assert "Payment details" in last and "Payment is due" in last


def test_a_long_legal_name_is_printed_whole() -> None:
    name = "The Association of Makers of Extraordinarily Long Names " * 3
    customer = Party(name=name, address=Address(line1="Street " * 25, country="DE"))
    first = pages_of(render_pdf(paper=paper_of(customer=customer)))[0]
    assert name.strip() in " ".join(first.split())


def test_a_party_never_takes_the_whole_page() -> None:
    rows = {f"line{n}": "word " * 400 for n in (1, 2)}
    ids = tuple(TaxId(type="VAT", value="9" * 255) for _ in range(12))
    customer = Party(name="n" * 2000, address=Address(**rows), tax_ids=ids)
    pages = pages_of(render_pdf(paper=paper_of(customer=customer)))
    assert "Amount due" in pages[0]
