"""Verb: an issued document as PDF, from what is stored and nothing else."""

from fractions import Fraction

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount, parse_amount
from invoicing.document_store import PrintedLine, parties_of, printed_lines
from invoicing.model import CreditNote, Invoice, LineItem, Reason
from invoicing.paper import build_paper
from invoicing.paper_lines import PaperDetail, PaperLine, paper_line, tier_details
from invoicing.pdf import render_pdf
from invoicing.pdf_archive import archive_pdf, can_archive
from plans.prices import Kind, Price
from rating.exact import ratio
from rating.explain import tier_detail


async def print_document(
    *, connection: AsyncConnection, document: Invoice | CreditNote, timezone: str
) -> bytes:
    """The PDF of an invoice or credit note as it was issued, PDF/A-2b where `einvoice` is there.

    What was paid or credited since is not on it, so one number has one paper; only a void invoice
    says that it is void.
    """
    if isinstance(document, Invoice):
        document = _as_issued(document)
    seller, customer = await parties_of(connection=connection, document=document.id)
    printed = await printed_lines(connection=connection, document=document.id)
    paper = build_paper(
        document=document,
        seller=seller,
        customer=customer,
        lines=[_paper_line(line, printed[line.id], document.currency) for line in document.lines],
        timezone=timezone,
    )
    content = render_pdf(paper=paper)
    if not can_archive():
        return content
    title = f"{paper.title} {paper.number}"
    return archive_pdf(
        content=content, title=title, language=paper.language, issued_at=document.issued_at
    )


def _as_issued(invoice: Invoice) -> Invoice:
    """The invoice with what was to be paid when it was issued."""
    total, applied = (
        parse_amount(text, currency=invoice.currency)
        for text in (invoice.total, invoice.balance_applied)
    )
    due = format_amount(total - applied, currency=invoice.currency)
    return msgspec.structs.replace(invoice, amount_due=due)


def _paper_line(line: LineItem, printed: PrintedLine, currency: str) -> PaperLine:
    price = msgspec.convert(printed.price, Price)
    return paper_line(
        item=line,
        price=price,
        adjusts=printed.adjusted_number,
        note=_group(line),
        details=_details(line, price, currency),
    )


def _group(line: LineItem) -> str | None:
    """The dimension values that a line of grouped usage is about."""
    if line.group is None:
        return None
    return ", ".join(f"{name}: {value or '(none)'}" for name, value in line.group.items())


def _details(line: LineItem, price: Price, currency: str) -> tuple[PaperDetail, ...]:
    """The tiers of a first charge for usage: a difference is no sum of whole tiers."""
    if line.quantity is None or line.reason is not Reason.INITIAL:
        return ()
    if price.kind is not Kind.USAGE or price.prorate_tiers:
        return ()
    measured = max(ratio(line.quantity), Fraction(0))
    steps = tier_detail(price=price, quantity=measured, fraction=Fraction(1))
    return tier_details(price=price, steps=steps, currency=currency)
