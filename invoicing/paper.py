"""What a printed invoice or credit note says, ready to draw: every text final.

Amounts are shown as they were posted: a sheet that does not add up is not printed. Texts that
somebody typed (names, addresses, terms) may be anything; figures, dates and numbers are ours.
"""

from collections.abc import Sequence
from typing import Final

from engine.money import currency_digits, format_amount, parse_amount
from engine.period import local_date
from invoicing.credit_notes import CreditReason
from invoicing.figures import decimal_value
from invoicing.model import CreditNote, Invoice, InvoiceStatus, Reason
from invoicing.paper_frame import Branding, PaperFrame, PaymentDetails, payment_facts
from invoicing.paper_lines import PaperDetail, PaperLine
from invoicing.paper_parts import Fact, Paper, PaperCells, PaperRow
from invoicing.paper_party import bounded, footer_text, paper_party
from invoicing.paper_sums import (
    PaperSums,
    check_sums,
    credit_totals,
    invoice_totals,
    legends,
    tax_tables,
)
from invoicing.words.phrases import Words
from plans.model import Party

ADJUSTED_SHOWN: Final = 6
_REASONS: Final = frozenset(reason.value for reason in Reason if reason is not Reason.INITIAL)
_CREDIT_REASONS: Final = _REASONS | {"adjustment", *(reason.value for reason in CreditReason)}
_NO_SUMS: Final = PaperSums()
_NO_BRANDING: Final = Branding()


def _reason_text(line: PaperLine, words: Words) -> str:
    reason = getattr(words, line.reason.value) if line.reason.value in _REASONS else ""
    if line.adjusts is None:
        return reason
    if reason:
        return words.reason_adjusts.format(reason=reason, number=line.adjusts)
    return words.adjusts.format(number=line.adjusts)


def _detail_cells(detail: PaperDetail, frame: PaperFrame) -> PaperCells:
    figures, label = frame.figures, detail.tier
    if detail.flat_amount is not None and decimal_value(detail.flat_amount):
        label = frame.words.flat.format(tier=label, amount=figures.price(detail.flat_amount))
    return PaperCells(
        label=label,
        quantity=figures.quantity(detail.units) if detail.units is not None else "",
        unit=figures.price(detail.unit_amount) if detail.unit_amount is not None else "",
        amount=figures.price(detail.amount),
    )


def _row(line: PaperLine, frame: PaperFrame) -> PaperRow:
    figures, words, currency = frame.figures, frame.words, frame.currency
    reason = _reason_text(line, words)
    notes = (line.customer, line.subscription, reason, line.note, line.tax)
    package = line.package_size
    cells = PaperCells(
        label=bounded(line.description),
        notes=tuple(bounded(note) for note in notes if note),
        period=frame.dates.period(line.period) if line.period is not None else (),
        quantity=figures.quantity(line.quantity) if line.quantity is not None else "",
        unit=figures.price(line.unit_amount) if line.unit_amount is not None else "",
        unit_note=words.per.format(quantity=figures.quantity(package)) if package else "",
        amount=figures.amount(line.amount),
    )
    details = [_detail_cells(detail, frame) for detail in line.details]
    for discount in line.discounts:
        minor = parse_amount(discount.amount, currency=currency)
        taken = figures.amount(format_amount(-minor, currency=currency))
        label = bounded(discount.label) or words.discount
        details.append(PaperCells(label=label, amount=taken))
    return PaperRow(cells=cells, details=tuple(details))


def _adjusted(lines: Sequence[PaperLine], words: Words) -> str:
    numbers = list(dict.fromkeys(line.adjusts for line in lines if line.adjusts))
    more = len(numbers) - ADJUSTED_SHOWN
    shown = ", ".join(numbers[:ADJUSTED_SHOWN])
    return f"{shown} {words.more.format(count=more)}" if more > 0 else shown


def _terms(invoice: Invoice, frame: PaperFrame) -> str:
    words, dates = frame.words, frame.dates
    if invoice.status is InvoiceStatus.VOID:
        return words.terms_void
    if parse_amount(invoice.amount_due, currency=invoice.currency) <= 0:
        return words.terms_settled
    days = (
        local_date(at=invoice.due_at, timezone=dates.timezone)
        - local_date(at=invoice.issued_at, timezone=dates.timezone)
    ).days
    reference = words.state_number.format(number=invoice.number)
    if days <= 0:
        return f"{words.terms_on_receipt} {reference}"
    due = dates.date_of(invoice.due_at)
    within = words.terms_one_day if days == 1 else words.terms_days
    return f"{within.format(days=days, date=due)} {reference}"


def _is_open(invoice: Invoice) -> bool:
    due = parse_amount(invoice.amount_due, currency=invoice.currency)
    return due > 0 and invoice.status is not InvoiceStatus.VOID


def _invoice_paper(
    invoice: Invoice, frame: PaperFrame
) -> tuple[tuple[Fact, ...], Fact, str, tuple[str, ...]]:
    """Facts, headline, its note, and the terms."""
    words, dates = frame.words, frame.dates
    facts = [
        Fact(label=words.invoice_number, value=invoice.number or ""),
        Fact(label=words.issued, value=dates.date_of(invoice.issued_at)),
        Fact(label=words.due, value=dates.date_of(invoice.due_at)),
    ]
    if invoice.po_number:
        facts.append(Fact(label=words.po_number, value=bounded(invoice.po_number), free=True))
    is_void = invoice.status is InvoiceStatus.VOID
    due = words.due_on.format(date=dates.date_of(invoice.due_at))
    note = due if _is_open(invoice) else words.nothing_to_pay
    label = words.void_amount if is_void else words.amount_due
    headline = Fact(
        label=label, value=frame.money(invoice.total if is_void else invoice.amount_due)
    )
    return tuple(facts), headline, note, (_terms(invoice, frame),)


def _credit_paper(
    note: CreditNote, lines: Sequence[PaperLine], frame: PaperFrame
) -> tuple[tuple[Fact, ...], Fact, str, tuple[str, ...]]:
    """Facts, headline, its note, and how to read it."""
    words = frame.words
    facts = [
        Fact(label=words.credit_note_number, value=note.number or ""),
        Fact(label=words.issued, value=frame.dates.date_of(note.issued_at)),
    ]
    adjusted = _adjusted(lines, words)
    if adjusted:
        facts.append(Fact(label=words.adjusted, value=adjusted, free=True))
    typed = bounded(note.reason.replace("_", " ").strip()).capitalize()
    reason = getattr(words, note.reason) if note.reason in _CREDIT_REASONS else typed
    if reason:
        facts.append(Fact(label=words.reason, value=reason, free=True))
    headline = Fact(label=words.credit_in_favour, value=frame.money(note.total))
    return tuple(facts), headline, words.no_payment_needed, (words.terms_credit,)


def _own_terms(terms: str, payment: PaymentDetails | None) -> tuple[str, ...]:
    texts = (terms, payment.note if payment is not None else None)
    return tuple(bounded(text) for text in texts if text)


def build_paper(
    *,
    document: Invoice | CreditNote,
    seller: Party,
    customer: Party,
    lines: Sequence[PaperLine],
    sums: PaperSums = _NO_SUMS,
    timezone: str = "UTC",
    locale: str = "en",
    terms: str = "",
    payment: PaymentDetails | None = None,
    branding: Branding = _NO_BRANDING,
) -> Paper:
    """The printed form of an issued document.

    `timezone` is the seller's, in which days are told; `locale` decides the words, where we have
    its language, and how numbers look; `terms` is free text of the seller's. `sums` explains what
    stands between the subtotal and what is due. `paper_does_not_add_up` when the amounts of
    `lines` are not the subtotal, or the totals contradict each other.
    """
    currency_digits(document.currency)
    check_sums(document=document, lines=lines, sums=sums)
    frame = PaperFrame.of(
        currency=document.currency, locale=locale, timezone=timezone, branding=branding
    )
    words, is_invoice = frame.words, isinstance(document, Invoice)
    if isinstance(document, Invoice):
        facts, headline, headline_note, notes = _invoice_paper(document, frame)
        totals = invoice_totals(invoice=document, sums=sums, frame=frame)
    else:
        facts, headline, headline_note, notes = _credit_paper(document, lines, frame)
        totals = credit_totals(note=document, sums=sums, frame=frame)
    pays = payment is not None and isinstance(document, Invoice) and _is_open(document)
    last = words.amount if is_invoice else words.credit
    own_terms = _own_terms(terms, payment if pays else None)
    return Paper(
        title=words.invoice if is_invoice else words.credit_note,
        number=document.number or "",
        stamp=words.void if document.status == InvoiceStatus.VOID.value else "",
        issuer=paper_party(party=seller, locale=locale),
        recipient=paper_party(party=customer, locale=locale),
        recipient_label=words.billed_to if is_invoice else words.credited_to,
        facts=facts,
        headline=headline,
        headline_note=headline_note,
        headings=(words.description, words.service_period, words.quantity, words.unit_price, last),
        rows=tuple(_row(line, frame) for line in lines),
        totals=totals,
        tables=tax_tables(sums=sums, frame=frame),
        payment=payment_facts(details=payment, number=document.number or "", words=words)
        if pays and payment is not None
        else (),
        notes=(*legends(sums=sums, frame=frame), *notes, *own_terms, frame.zone_note()),
        footer=footer_text(seller=seller),
        decimal_mark=frame.figures.decimal_mark,
        language=words.locale,
        words=words,
        accent=frame.accent,
        logo=frame.logo,
    )
