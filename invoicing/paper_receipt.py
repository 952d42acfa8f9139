"""A receipt: what was paid, when, how, and which documents it settled."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind
from engine.money import format_amount, parse_amount
from invoicing.paper_frame import Branding, PaperFrame
from invoicing.paper_parts import Fact, Paper, PaperCells, PaperRow
from invoicing.paper_party import bounded, footer_text, paper_party
from plans.model import Party

_NO_BRANDING: Final = Branding()


class SettledDocument(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice and the part of the payment that went to it (major units)."""

    number: str
    issued_at: datetime
    total: str
    paid: str


class ReceiptFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A payment as received; what its documents do not take up is kept, or `refunded`."""

    number: str
    currency: str
    amount: str
    received_at: datetime
    method: str
    reference: str | None = None
    refunded: str | None = None
    documents: tuple[SettledDocument, ...] = ()


def _rows(documents: Sequence[SettledDocument], frame: PaperFrame) -> tuple[PaperRow, ...]:
    return tuple(
        PaperRow(
            cells=PaperCells(
                label=f"{frame.words.invoice} {document.number}",
                period=(frame.dates.date_of(document.issued_at),),
                unit=frame.figures.amount(document.total),
                amount=frame.figures.amount(document.paid),
            )
        )
        for document in documents
    )


def build_receipt(
    *,
    receipt: ReceiptFacts,
    seller: Party,
    customer: Party,
    timezone: str = "UTC",
    locale: str = "en",
    branding: Branding = _NO_BRANDING,
) -> Paper:
    """The printed receipt; `paper_does_not_add_up` when more was settled than was paid."""
    frame = PaperFrame.of(
        currency=receipt.currency, locale=locale, timezone=timezone, branding=branding
    )
    words, figures, currency = frame.words, frame.figures, receipt.currency
    paid = parse_amount(receipt.amount, currency=currency)
    settled = sum(parse_amount(each.paid, currency=currency) for each in receipt.documents)
    back = parse_amount(receipt.refunded, currency=currency) if receipt.refunded else 0
    if settled + back > paid:
        message = f"{receipt.number} is not printed: it settles more than was paid"
        raise BillingError("paper_does_not_add_up", message, kind=ErrorKind.CONFLICT)
    facts = [
        Fact(label=words.receipt_number, value=receipt.number),
        Fact(label=words.paid_on, value=frame.dates.date_of(receipt.received_at)),
        Fact(label=words.method, value=bounded(receipt.method), free=True),
    ]
    if receipt.reference:
        facts.append(Fact(label=words.reference, value=bounded(receipt.reference), free=True))
    totals = [
        Fact(
            label=words.applied_to_invoices,
            value=figures.amount(format_amount(settled, currency=currency)),
        )
    ]
    for kept_as, minor in ((words.added_to_balance, paid - settled - back), (words.refunded, back)):
        if minor:
            kept = figures.amount(format_amount(minor, currency=currency))
            totals.append(Fact(label=kept_as, value=kept))
    label = frame.in_currency(words.amount_paid)
    totals.append(Fact(label=label, value=figures.amount(receipt.amount), strong=True))
    return Paper(
        title=words.receipt,
        number=receipt.number,
        stamp="",
        issuer=paper_party(party=seller, locale=locale),
        recipient=paper_party(party=customer, locale=locale),
        recipient_label=words.received_from,
        facts=tuple(facts),
        headline=Fact(label=words.amount_paid, value=frame.money(receipt.amount)),
        headline_note=frame.dates.date_of(receipt.received_at),
        headings=(words.document, words.issued, "", words.total, words.paid),
        rows=_rows(receipt.documents, frame),
        totals=tuple(totals),
        notes=(words.thanks, frame.zone_note()),
        footer=footer_text(seller=seller),
        decimal_mark=figures.decimal_mark,
        language=words.locale,
        words=words,
        accent=frame.accent,
        logo=frame.logo,
    )
