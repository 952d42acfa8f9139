"""Verb: an issued document as PDF and as e-invoice, from what is stored and nothing else."""

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError
from engine.money import format_amount, parse_amount
from invoicing.document_store import PrintedLine, parties_of, printed_lines
from invoicing.einvoice import TradeDocument
from invoicing.einvoice_build import LineTax, TaxedLine, build_trade_document
from invoicing.einvoice_cii import write_cii
from invoicing.einvoice_ubl import write_ubl
from invoicing.model import AppliedTax, CreditNote, Invoice, LineItem, Reason
from invoicing.paper import build_paper
from invoicing.paper_frame import Branding, PaymentDetails
from invoicing.paper_lines import (
    PaperDetail,
    PaperDiscount,
    PaperLine,
    paper_line,
    tier_details,
)
from invoicing.paper_sums import PaperSums, PaperTax, VatCategory
from invoicing.pdf import render_pdf
from invoicing.pdf_archive import archive_pdf, can_archive
from invoicing.words.choose import choose_words
from invoicing.words.phrases import Words
from plans.model import Party
from plans.prices import Kind, Price
from plans.seller_store import load_logo
from plans.tax_rates import TaxCategory
from rating.exact import ratio
from rating.explain import tier_detail

_CATEGORIES: Final[Mapping[TaxCategory, VatCategory]] = MappingProxyType(
    {
        TaxCategory.STANDARD: VatCategory.STANDARD,
        TaxCategory.ZERO: VatCategory.ZERO,
        TaxCategory.EXEMPT: VatCategory.EXEMPT,
        TaxCategory.REVERSE_CHARGE: VatCategory.REVERSE_CHARGE,
    }
)


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """A document with all that its paper and its e-invoice say."""

    document: Invoice | CreditNote
    seller: Party
    customer: Party
    lines: tuple[PaperLine, ...]
    sums: PaperSums

    @property
    def locale(self) -> str:
        """The language in which the customer reads."""
        return _locale(self.seller, self.customer)


async def print_document(
    *, connection: AsyncConnection, document: Invoice | CreditNote, timezone: str
) -> bytes:
    """The PDF of an invoice or credit note as it was issued.

    Where the extra `einvoice` is there it is PDF/A, with the e-invoice inside (Factur-X) when
    EN 16931 can tell the document. What was paid or credited since is not on it, so one number
    has one paper; only a void invoice says that it is void.
    """
    told = await _tell(connection, document)
    paper = build_paper(
        document=told.document,
        seller=told.seller,
        customer=told.customer,
        lines=told.lines,
        sums=told.sums,
        timezone=timezone,
        locale=told.locale,
        payment=payment_of(seller=told.seller),
        branding=await branding_of(connection=connection, seller=told.seller),
    )
    content = render_pdf(paper=paper)
    if not can_archive():
        return content
    try:
        xml = write_cii(document=_trade(told, timezone))
    except BillingError:
        xml = None  # asked for alone, it says why
    return archive_pdf(
        content=content,
        title=f"{paper.title} {paper.number}",
        language=paper.language,
        issued_at=document.issued_at,
        xml=xml,
    )


async def write_einvoice(
    *, connection: AsyncConnection, document: Invoice | CreditNote, timezone: str
) -> bytes:
    """The document as UBL by EN 16931; an `einvoice_…` error says what cannot be told."""
    return write_ubl(document=_trade(await _tell(connection, document), timezone))


async def _tell(connection: AsyncConnection, document: Invoice | CreditNote) -> _Told:
    if isinstance(document, Invoice):
        document = _as_issued(document)
    seller, customer = await parties_of(connection=connection, document=document.id)
    printed = await printed_lines(connection=connection, document=document.id)
    words = choose_words(locale=_locale(seller, customer))
    return _Told(
        document=document,
        seller=seller,
        customer=customer,
        lines=tuple(
            _paper_line(line, printed[line.id], document, words) for line in document.lines
        ),
        sums=PaperSums(
            discount=document.discount,
            promotional=document.promotional_applied,
            taxes=tuple(_paper_tax(tax, words) for tax in document.taxes),
            prepaid=document.prepaid_applied if isinstance(document, Invoice) else None,
        ),
    )


async def branding_of(*, connection: AsyncConnection, seller: Party) -> Branding:
    """The look of the seller's documents, with its logo loaded."""
    stated = seller.branding
    if stated is None:
        return Branding()
    logo = stated.logo and await load_logo(connection=connection, logo=stated.logo)
    return Branding(logo=logo or None, accent=stated.accent or "")


def _trade(told: _Told, timezone: str) -> TradeDocument:
    lines = [
        TaxedLine(line=line, taxes=tuple(_line_tax(tax) for tax in item.taxes))
        for line, item in zip(told.lines, told.document.lines, strict=True)
    ]
    return build_trade_document(
        document=told.document,
        seller=told.seller,
        customer=told.customer,
        lines=lines,
        sums=told.sums,
        timezone=timezone,
        payment=payment_of(seller=told.seller),
    )


def _locale(seller: Party, customer: Party) -> str:
    return customer.locale or seller.locale or "en"


def payment_of(*, seller: Party) -> PaymentDetails | None:
    """Where the seller wants to be paid."""
    stated = seller.payment_details
    return None if stated is None else PaymentDetails(**msgspec.structs.asdict(stated))


def _as_issued(invoice: Invoice) -> Invoice:
    """The invoice with what was to be paid when it was issued."""
    total, prepaid, applied = (
        parse_amount(text, currency=invoice.currency)
        for text in (invoice.total, invoice.prepaid_applied, invoice.balance_applied)
    )
    due = format_amount(total - prepaid - applied, currency=invoice.currency)
    return msgspec.structs.replace(invoice, amount_due=due)


def _paper_tax(tax: AppliedTax, words: Words) -> PaperTax:
    return PaperTax(
        label=f"{words.tax} {tax.jurisdiction}".strip(),
        percentage=tax.percentage,
        taxable=tax.taxable,
        amount=tax.amount,
        category=_CATEGORIES[TaxCategory(tax.category)],
        inclusive=tax.inclusive,
    )


def _line_tax(tax: AppliedTax) -> LineTax:
    return LineTax(
        category=_CATEGORIES[TaxCategory(tax.category)],
        percentage=tax.percentage,
        amount=tax.amount,
        inclusive=tax.inclusive,
    )


def _paper_line(
    line: LineItem, printed: PrintedLine, document: Invoice | CreditNote, words: Words
) -> PaperLine:
    price = msgspec.convert(printed.price, Price | None)
    rates = ", ".join(f"{tax.jurisdiction} {tax.percentage}%".strip() for tax in line.taxes)
    shown = paper_line(
        item=line,
        price=price,
        adjusts=printed.adjusted_number,
        note=_group(line),
        details=_details(line, price, document.currency) if price is not None else (),
        discounts=tuple(
            PaperDiscount(label=each.coupon, amount=each.amount) for each in line.discounts
        ),
        tax=f"{words.tax} {rates}" if rates else None,
        customer=line.customer if line.customer != document.customer else None,
    )
    if price is not None:
        return shown
    return msgspec.structs.replace(
        shown, description=line.name or line.key, unit_amount=printed.unit_amount
    )


def _group(line: LineItem) -> str | None:
    """The dimension values that a line of grouped usage is about."""
    if line.group is None:
        return None
    return ", ".join(f"{name}: {value or '(none)'}" for name, value in line.group.items())


def _details(line: LineItem, price: Price, currency: str) -> tuple[PaperDetail, ...]:
    """The tiers of a first charge for usage: a difference is no sum of whole tiers."""
    if line.quantity is None or line.reason is not Reason.INITIAL or line.adjusts:
        return ()
    if price.kind is not Kind.USAGE or price.prorate_tiers:
        return ()
    measured = max(ratio(line.quantity), Fraction(0))
    steps = tier_detail(price=price, quantity=measured, fraction=Fraction(1))
    return tier_details(price=price, steps=steps, currency=currency)
