"""Sheets in scripts that need care: mirrored, shaped, with the right shapes of Han."""

import subprocess
import sys
from io import BytesIO

import pytest
from pypdf import PdfReader

from invoicing.paper import build_paper
from invoicing.paper_frame import Branding, PaymentDetails
from invoicing.paper_receipt import build_receipt
from invoicing.paper_statement import build_statement
from invoicing.paper_sums import PaperSums
from invoicing.pdf import render_pdf
from invoicing.pdf_marks import LEFT, PAGE_WIDTH, RIGHT, Box, Link, Text
from invoicing.pdf_shaping import can_shape, mirror_brackets, seen_pieces
from invoicing.pdf_sheet import lay_pages
from invoicing.pdf_text import (
    HAN,
    JAPANESE,
    figure_runs,
    free_lines,
    japanese_runs,
    runs_width,
)
from plans.model import Party
from tests.einvoices import CUSTOMER, SELLER, rich
from tests.unit.test_paper_sums import receipt, statement

PAY = PaymentDetails(iban="DE89370400440532013000", pay_link="https://pay.example.com/i/1")


def sheet(locale: str, **parties):
    document, lines, taxes = rich()
    sums = PaperSums(discount="50.00", promotional="11.45", taxes=taxes, prepaid="100.00")
    return build_paper(
        document=document, lines=[each.line for each in lines], sums=sums, locale=locale,
        payment=PAY, branding=Branding(accent="#145aa0"),
        **{"seller": SELLER, "customer": CUSTOMER} | parties,
    )  # fmt: skip


def texts(content: bytes) -> str:
    return "\n".join(page.extract_text() for page in PdfReader(BytesIO(content)).pages)


def edges(mark) -> tuple[float, float]:
    width = runs_width(mark.runs) * mark.size if isinstance(mark, Text) else mark.width
    return mark.x, mark.x + width


@pytest.mark.parametrize("locale", ["en", "de", "ja", "ar", "he"])
def test_nothing_leaves_the_page_in_any_direction(locale) -> None:
    for marks in lay_pages(paper=sheet(locale)):
        for mark in marks:
            left, right = edges(mark)
            band = isinstance(mark, Box) and mark.width == PAGE_WIDTH
            assert band or (left >= LEFT - 0.5 and right <= RIGHT + 0.5), mark


def test_a_sheet_read_from_the_right_is_the_other_turned() -> None:
    (plain, *_), (turned, *_) = lay_pages(paper=sheet("en")), lay_pages(paper=sheet("he"))
    assert edges(plain[0])[0] == pytest.approx(LEFT)  # the title
    assert edges(turned[0])[1] == pytest.approx(RIGHT)


@pytest.mark.parametrize("locale", ["en", "ar", "he"])
def test_amounts_of_a_column_end_at_one_edge(locale) -> None:
    marks = [mark for page in lay_pages(paper=sheet(locale)) for mark in page]
    shown = {"500.00", "12.00"}
    ends = {
        round(edges(mark)[1], 3)
        for mark in marks
        if isinstance(mark, Text)
        and mark.size == 8.8
        and "".join(run.text for run in mark.runs).strip("€ \u00a0") in shown
    }
    assert len(ends) == 1


def test_amounts_and_references_read_the_same_in_every_language() -> None:
    for locale in ("en", "ja", "ar", "he"):
        text = texts(render_pdf(paper=sheet(locale)))
        for shown in ("395.73", "-50.00" if locale in {"ar", "he"} else "50.00", "H-2026-0042"):
            assert shown in text, locale


@pytest.mark.skipif(not can_shape(), reason="needs the extra intl")
def test_arabic_is_joined_and_marks_take_no_room() -> None:
    (bare,) = free_lines(text="مؤسسة", room=100, limit=1)
    (marked,) = free_lines(text="مُؤَسَّسَة", room=100, limit=1)
    assert runs_width(marked) == pytest.approx(runs_width(bare), abs=0.02)
    assert any(run.rise or run.shift for run in marked)
    apart = sum(runs_width(figure_runs(text=char, field="x")) for char in "مؤسسة")
    assert runs_width(bare) < apart  # joined forms are narrower than letters that stand alone


@pytest.mark.skipif(not can_shape(), reason="needs the extra intl")
@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ("רחוב 25 (א)", "(א) 25 בוחר"),
        ("Acme שלום 12", "Acme 12 םולש"),
        ("סכום (EUR)", "(EUR) םוכס"),
        ("abc (שלום) def", "abc (םולש) def"),
    ],
)
def test_lines_are_seen_as_their_readers_see_them(line, seen) -> None:
    pieces = [text[::-1] if backwards else text for backwards, text in seen_pieces(line)]
    assert "".join(pieces) == seen


def test_a_bracket_alone_turns_with_its_line() -> None:
    assert mirror_brackets(")x", right_to_left=True) == "(x"
    assert mirror_brackets(")x", right_to_left=False) == ")x"
    assert mirror_brackets("[a](b)", right_to_left=True) == "[a](b)"


def test_han_takes_the_shapes_of_its_reader() -> None:
    runs = figure_runs(text="直角", field="x")
    assert {run.face for run in runs} == {HAN}
    assert {run.face for run in japanese_runs(runs, japanese=True)} == {JAPANESE}
    assert japanese_runs(runs, japanese=False) == runs
    kana = figure_runs(text="直角の", field="x")
    assert {run.face for run in japanese_runs(kana, japanese=False)} == {JAPANESE}
    assert runs_width(japanese_runs(kana, japanese=True)) == pytest.approx(runs_width(kana))


def test_a_line_of_japanese_does_not_begin_with_a_closing_mark() -> None:
    lines = free_lines(text="あいうえお、かきくけこ。", room=5.0, limit=9)
    firsts = [runs[0].text[0] for runs in lines]
    assert firsts == ["あ", "お", "く"] or not set(firsts) & set("、。")


def test_a_link_covers_its_text_and_nothing_but_https_is_linked() -> None:
    links = [mark for marks in lay_pages(paper=sheet("en")) for mark in marks
             if isinstance(mark, Link)]  # fmt: skip
    assert [link.address for link in links] == ["https://pay.example.com/i/1"]


def test_receipts_and_statements_are_drawn() -> None:
    text = texts(
        render_pdf(paper=build_receipt(receipt=receipt(), seller=SELLER, customer=CUSTOMER))
    )
    assert "Receipt" in text and "Amount paid (USD)" in text and "Service period" not in text
    text = texts(
        render_pdf(
            paper=build_statement(statement=statement(), seller=SELLER, customer=Party(name="A"))
        )
    )
    assert "Statement of account" in text and "1–30 days late" in text


DRAW = """
from hashlib import sha256
from tests.unit.test_pdf_scripts import render_pdf, sheet
order = {order!r}
drawn = {{name: sha256(render_pdf(paper=sheet(name))).hexdigest() for name in order}}
print([drawn[name] for name in sorted(drawn)])
"""


def test_another_process_in_another_order_draws_the_same_bytes() -> None:
    orders = (["ar", "en", "he", "ja"], ["ja", "he", "en", "ar"])
    found = {
        subprocess.run(
            [sys.executable, "-c", DRAW.format(order=order)],
            capture_output=True, text=True, check=True,
        ).stdout
        for order in orders
    }  # fmt: skip
    assert len(found) == 1
