"""Papers as PDF files: the same paper is always the same bytes."""

from functools import lru_cache
from io import BytesIO
from typing import Final

from reportlab.lib.colors import Color, HexColor
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from engine.errors import BillingError
from invoicing.paper_parts import Paper
from invoicing.pdf_marks import PAGE_HEIGHT, PAGE_WIDTH, Box, Link, Mark, Picture, Text
from invoicing.pdf_sheet import fit_logo, lay_pages
from invoicing.pdf_text import REGULAR, plain_text

LOGO_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
LOGO_BYTES: Final = 2_000_000
LOGO_PIXELS: Final = 4_000_000
FILLED_AND_OUTLINED: Final = 2
HEAVIER: Final = 0.028


def _open_logo(content: bytes) -> ImageReader:
    """A PNG or JPEG of bounded size; nothing else is handed to a decoder."""
    if len(content) > LOGO_BYTES or not content.startswith(LOGO_SIGNATURES):
        raise BillingError("logo_unreadable", "a logo is a PNG or JPEG file of at most 2 MB")
    try:
        reader = ImageReader(BytesIO(content))
        width, height = reader.getSize()
        if not 0 < width * height <= LOGO_PIXELS:
            raise BillingError("logo_unreadable", "a logo has at most four million pixels")
        reader.getRGBData()  # decoded here, so that a damaged file fails as what it is
    except BillingError:
        raise
    except Exception as error:  # decoders raise whatever they stumble on
        raise BillingError("logo_unreadable", "the logo cannot be decoded") from error
    return reader


def check_logo(*, content: bytes) -> bool:
    """Whether documents can be drawn with it."""
    try:
        _open_logo(content)
    except BillingError:
        return False
    return True


@lru_cache(maxsize=64)
def _colour(name: str) -> Color:
    return HexColor(name)


def _draw_text(canvas: Canvas, mark: Text) -> None:
    """Run after run; a face without a bold cut gets an outline of its own colour."""
    x, size = mark.x, mark.size
    canvas.setFillColor(_colour(mark.colour))
    for run in mark.runs:
        canvas.setFont(run.face, size)
        if run.heavy:
            canvas.setStrokeColor(_colour(mark.colour))
            canvas.setLineWidth(size * HEAVIER)
        mode = FILLED_AND_OUTLINED if run.heavy else None
        canvas.drawString(x + run.shift * size, mark.y + run.rise * size, run.text, mode=mode)
        x += run.width * size


def _draw(canvas: Canvas, mark: Mark, logo: ImageReader | None) -> None:
    match mark:
        case Text():
            _draw_text(canvas, mark)
        case Box():
            canvas.setFillColor(_colour(mark.colour))
            canvas.rect(mark.x, mark.y, mark.width, mark.height, stroke=0, fill=1)
        case Link():
            corners = (mark.x, mark.y, mark.x + mark.width, mark.y + mark.height)
            canvas.linkURL(mark.address, corners, relative=0, thickness=0)
        case Picture():
            assert logo is not None
            width, height = logo.getSize()
            space = fit_logo(picture=mark, width=width, height=height)
            canvas.drawImage(
                logo, space.x, space.y, width=space.width, height=space.height, mask="auto"
            )


def render_pdf(*, paper: Paper) -> bytes:
    """The A4 document: all fonts embedded, no date of its own, equal bytes for equal papers.

    `glyph_missing` when a figure holds a character that no shipped font has (free text shows a
    box in its place); `logo_unreadable` for a logo that is no sound PNG or JPEG.
    """
    logo = _open_logo(paper.logo) if paper.logo is not None else None
    pages = lay_pages(paper=paper)
    out = BytesIO()
    canvas = Canvas(
        out,
        pagesize=(PAGE_WIDTH, PAGE_HEIGHT),
        invariant=1,
        pageCompression=1,
        lang=paper.language,
        # Else every page names Helvetica, which is not embedded; the default hides the type.
        initialFontName=REGULAR[0],  # pyright: ignore[reportArgumentType]
    )
    canvas.setTitle(f"{paper.title} {paper.number}")
    canvas.setAuthor(plain_text(text=paper.issuer.name))
    canvas.setSubject(plain_text(text=paper.recipient.name))
    canvas.setCreator("Usance")
    for marks in pages:
        for mark in marks:
            _draw(canvas, mark, logo)
        canvas.showPage()
    canvas.save()
    return out.getvalue()
