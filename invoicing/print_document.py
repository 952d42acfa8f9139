"""Verb: an issued document as PDF and as e-invoice, from what is stored and nothing else."""

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError
from engine.money import format_amount, parse_amount
from invoicing.document_store import parties_of
from invoicing.einvoice import TradeDocument
from invoicing.einvoice_build import LineTax, TaxedLine, build_trade_document
from invoicing.einvoice_cii import write_cii
from invoicing.einvoice_ubl import write_ubl
from invoicing.figures import Figures
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
from invoicing.printed_store import (
    PrintedLine,
    PrintedNames,
    printed_lines,
    printed_names,
)
from invoicing.words.choose import choose_words
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
    line_taxes: tuple[tuple[LineTax, ...], ...]
    sums: PaperSums
    locale: str
    sells_credit: bool


class _Speech:
    """How a document's lines and taxes are told in the language of the customer."""

    def __init__(self, *, locale: str, currency: str, names: PrintedNames) -> None:
        self.locale, self.currency, self.names = locale, currency, names
        self.words = choose_words(locale=locale)
        self.figures = Figures(currency=currency, locale=locale)

    def tax(self, tax: AppliedTax) -> str:
        """The rate by its name, else as a tax, with whose it is."""
        name = self.names.rates.get(tax.tax_rate or "") or self.words.tax
        return f"{name} {tax.jurisdiction}".strip()

    def group(self, line: LineItem) -> str | None:
        """The dimension values that a line of grouped usage is about."""
        if line.group is None:
            return None
        pairs = line.group.items()
        return ", ".join(f"{name}: {value or self.words.no_value}" for name, value in pairs)


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
    names = await printed_names(
        connection=connection,
        rates=[tax.tax_rate for tax in document.taxes if tax.tax_rate is not None],
        coupons=[each.coupon for line in document.lines for each in line.discounts],
    )
    locale = customer.locale or seller.locale or "en"
    speech = _Speech(locale=locale, currency=document.currency, names=names)
    return _Told(
        document=document,
        seller=seller,
        customer=customer,
        lines=tuple(
            _paper_line(line, printed[line.id], document.customer, speech)
            for line in document.lines
        ),
        line_taxes=tuple(tuple(_line_tax(tax) for tax in line.taxes) for line in document.lines),
        sums=PaperSums(
            discount=document.discount,
            promotional=document.promotional_applied,
            taxes=tuple(_paper_tax(tax, speech) for tax in document.taxes),
            prepaid=document.prepaid_applied if isinstance(document, Invoice) else None,
        ),
        locale=locale,
        sells_credit=any(line.sells_credit for line in printed.values()),
    )


async def branding_of(*, connection: AsyncConnection, seller: Party) -> Branding:
    """The look of the seller's documents, with its logo loaded."""
    stated = seller.branding
    if stated is None:
        return Branding()
    logo = stated.logo and await load_logo(connection=connection, logo=stated.logo)
    return Branding(logo=logo or None, accent=stated.accent or "")


def _trade(told: _Told, timezone: str) -> TradeDocument:
    taxes, sums = told.line_taxes, told.sums
    if told.sells_credit and not sums.taxes:
        # A voucher for what will be taxed when it is used.
        taxes = ((LineTax(category=VatCategory.NOT_TAXED),),) * len(told.lines)
        nothing = PaperTax(
            label="",
            percentage="0",
            taxable=told.document.total,
            amount=format_amount(0, currency=told.document.currency),
            category=VatCategory.NOT_TAXED,
        )
        sums = msgspec.structs.replace(sums, taxes=(nothing,))
    pairs = zip(told.lines, taxes, strict=True)
    return build_trade_document(
        document=told.document,
        seller=told.seller,
        customer=told.customer,
        lines=[TaxedLine(line=line, taxes=of_line) for line, of_line in pairs],
        sums=sums,
        timezone=timezone,
        payment=payment_of(seller=told.seller),
        words=choose_words(locale=told.locale),
    )


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


def _paper_tax(tax: AppliedTax, speech: _Speech) -> PaperTax:
    return PaperTax(
        label=speech.tax(tax),
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


def _paper_line(line: LineItem, printed: PrintedLine, customer: str, speech: _Speech) -> PaperLine:
    price = msgspec.convert(printed.price, Price | None)
    rates = (f"{speech.tax(tax)} {speech.figures.percent(tax.percentage)}" for tax in line.taxes)
    shown = paper_line(
        item=line,
        price=price,
        adjusts=printed.adjusted_number,
        note=speech.group(line),
        details=_details(line, price, speech) if price is not None else (),
        discounts=tuple(
            PaperDiscount(
                label=speech.names.coupons.get(each.coupon, each.coupon), amount=each.amount
            )
            for each in line.discounts
        ),
        tax=", ".join(rates) or None,
        customer=line.customer if line.customer != customer else None,
    )
    name, words = line.name or line.key, speech.words
    if price is None and printed.sells_credit:
        name, shown = words.prepaid_credit, msgspec.structs.replace(shown, note=name)
    elif price is not None and price.kind is not Kind.COMMITMENT:
        return shown
    elif price is not None:
        name = words.minimum_commitment
    return msgspec.structs.replace(shown, description=name, unit_amount=printed.unit_amount)


def _details(line: LineItem, price: Price, speech: _Speech) -> tuple[PaperDetail, ...]:
    """The tiers of a first charge for usage: a difference is no sum of whole tiers."""
    if line.quantity is None or line.reason is not Reason.INITIAL or line.adjusts:
        return ()
    if price.kind is not Kind.USAGE or price.prorate_tiers:
        return ()
    measured = max(ratio(line.quantity), Fraction(0))
    steps = tier_detail(price=price, quantity=measured, fraction=Fraction(1))
    return tier_details(price=price, steps=steps, currency=speech.currency, locale=speech.locale)
