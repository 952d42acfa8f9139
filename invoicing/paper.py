"""What a printed document says, ready to draw: every text final, nothing left to decide.

Amounts are shown as they were posted: a sheet that does not add up is not printed. Texts that
somebody typed (names, addresses, terms) may be anything; figures, dates and numbers are ours.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Final

import msgspec
from babel.dates import format_date

from engine.errors import BillingError, ErrorKind
from engine.money import currency_digits, format_amount, parse_amount
from engine.period import local_date, local_midnight, zone
from invoicing.figures import Figures, decimal_value
from invoicing.model import CreditNote, Invoice, InvoiceStatus, Reason
from invoicing.paper_lines import PaperDetail, PaperLine
from invoicing.paper_party import PaperParty, bounded, footer_text, paper_party
from plans.model import Party

REASON_TEXTS: Final = {
    Reason.INITIAL: "",
    Reason.PRORATION: "Prorated change",
    Reason.LATE_USAGE: "Late usage",
    Reason.CORRECTION: "Correction",
    Reason.BACKDATED: "Backdated change",
    Reason.TRUE_UP: "True-up",
}
ADJUSTED_SHOWN: Final = 6


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled value; `free` when somebody typed it."""

    label: str
    value: str
    free: bool = False


class PaperCells(msgspec.Struct, frozen=True, kw_only=True):
    """One row of figures; `label` and `notes` are free text, the rest is ours."""

    label: str
    notes: tuple[str, ...] = ()
    period: tuple[str, ...] = ()
    quantity: str = ""
    unit: str = ""
    unit_note: str = ""
    amount: str


class PaperRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line with the tiers that make it up."""

    cells: PaperCells
    details: tuple[PaperCells, ...] = ()


class Paper(msgspec.Struct, frozen=True, kw_only=True):
    """A document ready to draw. `decimal_mark` is what figures of a column align on."""

    title: str
    number: str
    stamp: str
    issuer: PaperParty
    recipient: PaperParty
    recipient_label: str
    facts: tuple[Fact, ...]
    headline: Fact
    headline_note: str
    headings: tuple[str, str, str, str, str]
    rows: tuple[PaperRow, ...]
    totals: tuple[Fact, ...]
    notes: tuple[str, ...]
    footer: str
    decimal_mark: str
    logo: bytes | None = None


class _Dates(msgspec.Struct, frozen=True, kw_only=True):
    """How instants are told to the reader."""

    timezone: str
    locale: str

    def day(self, on: date) -> str:
        """1 Feb 2026: a month by name cannot be taken for a day."""
        return format_date(on, "d MMM y", locale=self.locale)

    def date_of(self, at: datetime) -> str:
        return self.day(local_date(at=at, timezone=self.timezone))

    def instant(self, at: datetime) -> str:
        """Local date and time; with its offset where the clock shows that hour twice."""
        local = at.astimezone(zone(self.timezone))
        precision = "microseconds" if local.microsecond else "seconds" if local.second else ""
        clock = local.time().isoformat(timespec=precision or "minutes")
        twice = local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset()
        return f"{self.day(local.date())} {clock}{local.strftime(' %z') if twice else ''}"

    def period(self, period: tuple[datetime, datetime]) -> tuple[str, ...]:
        """Whole local days as first and last day, anything else as two instants."""
        start, end = period
        first, after = (local_date(at=at, timezone=self.timezone) for at in period)
        midnights = all(
            local_midnight(on=on, timezone=self.timezone) == at
            for on, at in ((first, start), (after, end))
        )
        if start >= end:
            return (self.day(first) if midnights else self.instant(start),)
        if not midnights:
            return f"{self.instant(start)} –", self.instant(end)
        last = after - timedelta(days=1)
        if first >= last:
            return (self.day(first),)
        return f"{self.day(first)} –", self.day(last)


def _reason_text(line: PaperLine) -> str:
    reason = REASON_TEXTS[line.reason]
    if line.adjusts is None:
        return reason
    return f"{reason}, adjusts {line.adjusts}" if reason else f"Adjusts {line.adjusts}"


def _detail_cells(detail: PaperDetail, figures: Figures) -> PaperCells:
    label = detail.tier
    if detail.flat_amount is not None and decimal_value(detail.flat_amount):
        label = f"{label}, flat {figures.price(detail.flat_amount)}"
    return PaperCells(
        label=label,
        quantity=figures.quantity(detail.units) if detail.units is not None else "",
        unit=figures.price(detail.unit_amount) if detail.unit_amount is not None else "",
        amount=figures.price(detail.amount),
    )


def _row(line: PaperLine, figures: Figures, dates: _Dates) -> PaperRow:
    notes = (line.subscription, _reason_text(line), line.note)
    package = line.package_size
    cells = PaperCells(
        label=bounded(line.description),
        notes=tuple(bounded(note) for note in notes if note),
        period=dates.period(line.period) if line.period is not None else (),
        quantity=figures.quantity(line.quantity) if line.quantity is not None else "",
        unit=figures.price(line.unit_amount) if line.unit_amount is not None else "",
        unit_note=f"per {figures.quantity(package)}" if package is not None else "",
        amount=figures.amount(line.amount),
    )
    details = tuple(_detail_cells(detail, figures) for detail in line.details)
    return PaperRow(cells=cells, details=details)


def _adjusted(lines: Sequence[PaperLine]) -> str:
    numbers = list(dict.fromkeys(line.adjusts for line in lines if line.adjusts))
    more = len(numbers) - ADJUSTED_SHOWN
    return ", ".join(numbers[:ADJUSTED_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _does_not_add_up(document: Invoice | CreditNote, what: str) -> BillingError:
    message = f"{document.number} is not printed: {what}"
    return BillingError("paper_does_not_add_up", message, kind=ErrorKind.CONFLICT)


def _check_sums(document: Invoice | CreditNote, lines: Sequence[PaperLine]) -> None:
    """What a reader would add up by hand."""
    currency = document.currency
    subtotal = parse_amount(document.subtotal, currency=currency)
    if subtotal != sum(parse_amount(line.amount, currency=currency) for line in lines):
        raise _does_not_add_up(document, "its lines do not sum to its subtotal")
    total = parse_amount(document.total, currency=currency)
    if subtotal != total:
        raise _does_not_add_up(document, "its total differs from its subtotal without a reason")
    if isinstance(document, CreditNote):
        parts = (document.applied, document.credited, document.refunded)
        if total != sum(parse_amount(part, currency=currency) for part in parts):
            raise _does_not_add_up(
                document, "what was applied, credited and refunded is not its total"
            )


def _invoice_totals(invoice: Invoice, figures: Figures) -> tuple[Fact, ...]:
    """Subtotal, total, what was deducted, and last what is left to pay."""
    currency = invoice.currency
    applied = parse_amount(invoice.balance_applied, currency=currency)
    due = parse_amount(invoice.amount_due, currency=currency)
    settled = parse_amount(invoice.total, currency=currency) - applied - due
    rows = [
        Fact(label="Subtotal", value=figures.amount(invoice.subtotal)),
        Fact(label="Total", value=figures.amount(invoice.total)),
    ]
    if invoice.status is InvoiceStatus.VOID:
        void = Fact(label=f"Void amount ({currency})", value=figures.amount(invoice.total))
        return (*rows, void)
    for label, minor in (("Balance applied", applied), ("Already settled", settled)):
        if minor:
            deducted = figures.amount(format_amount(-minor, currency=currency))
            rows.append(Fact(label=label, value=deducted))
    rows.append(Fact(label=f"Amount due ({currency})", value=figures.amount(invoice.amount_due)))
    return tuple(rows)


def _credit_totals(note: CreditNote, figures: Figures) -> tuple[Fact, ...]:
    to_refund = Fact(label="To be refunded", value=figures.amount(note.refunded))
    is_refund = parse_amount(note.refunded, currency=note.currency) > 0
    rows = [
        Fact(label="Subtotal", value=figures.amount(note.subtotal)),
        Fact(label="Applied to open invoices", value=figures.amount(note.applied)),
        Fact(label="Added to your balance", value=figures.amount(note.credited)),
        *((to_refund,) if is_refund else ()),
        Fact(label=f"Total credit ({note.currency})", value=figures.amount(note.total)),
    ]
    return tuple(rows)


def _terms(invoice: Invoice, dates: _Dates) -> str:
    if invoice.status is InvoiceStatus.VOID:
        return "This invoice is void. Nothing is to be paid for it."
    if parse_amount(invoice.amount_due, currency=invoice.currency) <= 0:
        return "Nothing is left to pay."
    days = (
        local_date(at=invoice.due_at, timezone=dates.timezone)
        - local_date(at=invoice.issued_at, timezone=dates.timezone)
    ).days
    reference = f"Please state {invoice.number} with your payment."
    if days <= 0:
        return f"Payment is due on receipt. {reference}"
    within = f"{days} day{'' if days == 1 else 's'}"
    return f"Payment is due within {within}, by {dates.date_of(invoice.due_at)}. {reference}"


def _invoice_paper(
    invoice: Invoice, figures: Figures, dates: _Dates
) -> tuple[tuple[Fact, ...], Fact, str, tuple[str, ...]]:
    """Facts, headline, its note, and the terms."""
    facts = [
        Fact(label="Invoice number", value=invoice.number),
        Fact(label="Issued", value=dates.date_of(invoice.issued_at)),
        Fact(label="Due", value=dates.date_of(invoice.due_at)),
    ]
    if invoice.po_number:
        facts.append(Fact(label="PO number", value=bounded(invoice.po_number), free=True))
    is_void = invoice.status is InvoiceStatus.VOID
    is_open = parse_amount(invoice.amount_due, currency=invoice.currency) > 0 and not is_void
    note = f"Due {dates.date_of(invoice.due_at)}" if is_open else "Nothing to pay"
    label = "Void amount" if is_void else "Amount due"
    shown = figures.amount(invoice.total if is_void else invoice.amount_due)
    headline = Fact(label=label, value=f"{shown} {invoice.currency}")
    return tuple(facts), headline, note, (_terms(invoice, dates),)


def _credit_paper(
    note: CreditNote, lines: Sequence[PaperLine], figures: Figures, dates: _Dates
) -> tuple[tuple[Fact, ...], Fact, str, tuple[str, ...]]:
    """Facts, headline, its note, and how to read it."""
    facts = [
        Fact(label="Credit note number", value=note.number),
        Fact(label="Issued", value=dates.date_of(note.issued_at)),
    ]
    adjusted = _adjusted(lines)
    if adjusted:
        facts.append(Fact(label="Adjusts", value=adjusted, free=True))
    reason = note.reason.replace("_", " ").strip()
    if reason:
        facts.append(Fact(label="Reason", value=bounded(reason).capitalize(), free=True))
    total = figures.amount(note.total)
    headline = Fact(label="Credit in your favour", value=f"{total} {note.currency}")
    terms = "Amounts are in your favour: nothing is to be paid for this document."
    return tuple(facts), headline, "No payment needed", (terms,)


def build_paper(
    *,
    document: Invoice | CreditNote,
    seller: Party,
    customer: Party,
    lines: Sequence[PaperLine],
    timezone: str = "UTC",
    locale: str = "en",
    terms: str = "",
    logo: bytes | None = None,
) -> Paper:
    """The printed form of an issued document.

    `timezone` is the seller's, in which days are told; `locale` decides how numbers and dates
    look; `terms` is free text such as bank details. `paper_does_not_add_up` when the amounts of
    `lines` are not the subtotal, or the totals contradict each other.
    """
    currency_digits(document.currency)
    _check_sums(document, lines)
    figures = Figures(currency=document.currency, locale=locale)
    dates = _Dates(timezone=timezone, locale=locale)
    if isinstance(document, Invoice):
        facts, headline, headline_note, notes = _invoice_paper(document, figures, dates)
        title, totals = "Invoice", _invoice_totals(document, figures)
    else:
        facts, headline, headline_note, notes = _credit_paper(document, lines, figures, dates)
        title, totals = "Credit note", _credit_totals(document, figures)
    zone_note = f"Dates and times are those of {timezone}; whole days include the last."
    last = "Credit" if isinstance(document, CreditNote) else "Amount"
    return Paper(
        title=title,
        number=document.number,
        stamp="Void" if document.status == InvoiceStatus.VOID.value else "",
        issuer=paper_party(party=seller, locale=locale),
        recipient=paper_party(party=customer, locale=locale),
        recipient_label="Credited to" if isinstance(document, CreditNote) else "Billed to",
        facts=facts,
        headline=headline,
        headline_note=headline_note,
        headings=("Description", "Service period", "Quantity", "Unit price", last),
        rows=tuple(_row(line, figures, dates) for line in lines),
        totals=totals,
        notes=(*notes, *((bounded(terms),) if terms else ()), zone_note),
        footer=footer_text(seller=seller),
        decimal_mark=figures.decimal_mark,
        logo=logo,
    )
