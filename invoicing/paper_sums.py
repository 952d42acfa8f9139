"""The way from the lines to what is due: discounts, credits, taxes, and whether they add up."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind
from engine.money import format_amount, parse_amount
from invoicing.model import CreditNote, Invoice, InvoiceStatus
from invoicing.paper_frame import PaperFrame
from invoicing.paper_lines import PaperLine
from invoicing.paper_parts import Fact, PaperTable
from invoicing.paper_party import bounded
from invoicing.words.phrases import Words


class VatCategory(StrEnum):
    """Why a rate is what it is, in the codes of EN 16931 (UNTDID 5305)."""

    STANDARD = "S"
    ZERO = "Z"
    EXEMPT = "E"
    REVERSE_CHARGE = "AE"
    INTRA_COMMUNITY = "K"
    EXPORT = "G"
    NOT_TAXED = "O"


_LEGENDS: Final[Mapping[VatCategory, str]] = MappingProxyType(
    {
        VatCategory.ZERO: "zero_rated",
        VatCategory.EXEMPT: "exempt",
        VatCategory.REVERSE_CHARGE: "reverse_charge",
        VatCategory.INTRA_COMMUNITY: "intra_community",
        VatCategory.EXPORT: "exported",
        VatCategory.NOT_TAXED: "not_taxed",
    }
)


class PaperTax(msgspec.Struct, frozen=True, kw_only=True):
    """One rate of the document: `amount` of tax on `taxable` (major units, without the tax).

    `percentage` is decimal text (19 is 19 %); `reason` a seller's own words on why nothing is
    taxed, printed in place of the usual legend.
    """

    label: str
    percentage: str
    taxable: str
    amount: str
    category: VatCategory = VatCategory.STANDARD
    inclusive: bool = False
    reason: str | None = None


class PaperSums(msgspec.Struct, frozen=True, kw_only=True):
    """What stands between subtotal and amount due; amounts in major units, deductions positive.

    `discount` and `promotional` (credit before tax) are of the whole document; `prepaid` credit
    pays after tax.
    """

    discount: str | None = None
    promotional: str | None = None
    taxes: tuple[PaperTax, ...] = ()
    prepaid: str | None = None


def legend_of(tax: PaperTax, *, words: Words) -> str | None:
    """Why nothing is taxed: the seller's own words, else the usual ones; None where it is taxed."""
    if tax.category not in _LEGENDS:
        return None
    return tax.reason or getattr(words, _LEGENDS[tax.category])


def _does_not_add_up(document: Invoice | CreditNote, what: str) -> BillingError:
    message = f"{document.number} is not printed: {what}"
    return BillingError("paper_does_not_add_up", message, kind=ErrorKind.CONFLICT)


def _minor(text: str | None, currency: str) -> int:
    return parse_amount(text, currency=currency) if text is not None else 0


def check_sums(
    *, document: Invoice | CreditNote, lines: Sequence[PaperLine], sums: PaperSums
) -> None:
    """What a reader would add up by hand; `paper_does_not_add_up` says what does not."""
    currency = document.currency
    subtotal = _minor(document.subtotal, currency)
    if subtotal != sum(_minor(line.amount, currency) for line in lines):
        raise _does_not_add_up(document, "its lines do not sum to its subtotal")
    shown = [each for line in lines for each in line.discounts]
    discount = _minor(sums.discount, currency)
    if shown and discount != sum(_minor(each.amount, currency) for each in shown):
        raise _does_not_add_up(document, "the discounts of its lines are not its discount")
    total = _minor(document.total, currency)
    added = sum(_minor(tax.amount, currency) for tax in sums.taxes if not tax.inclusive)
    if subtotal - discount - _minor(sums.promotional, currency) + added != total:
        raise _does_not_add_up(document, "its total differs from its subtotal without a reason")
    if isinstance(document, CreditNote):
        parts = (document.applied, document.credited, document.refunded)
        if total != sum(_minor(part, currency) for part in parts):
            raise _does_not_add_up(
                document, "what was applied, credited and refunded is not its total"
            )


def _deduction(label: str, text: str | None, frame: PaperFrame) -> list[Fact]:
    minor = _minor(text, frame.currency)
    if not minor:
        return []
    value = frame.figures.amount(format_amount(-minor, currency=frame.currency))
    return [Fact(label=label, value=value)]


def _tax_label(tax: PaperTax, frame: PaperFrame) -> str:
    return bounded(f"{tax.label} {frame.figures.percent(tax.percentage)}")


def _before_total(document: Invoice | CreditNote, sums: PaperSums, frame: PaperFrame) -> list[Fact]:
    rows = [Fact(label=frame.words.subtotal, value=frame.figures.amount(document.subtotal))]
    rows += _deduction(frame.words.discount, sums.discount, frame)
    rows += _deduction(frame.words.promotional_credit, sums.promotional, frame)
    rows += [
        Fact(
            label=_tax_label(tax, frame),
            value=frame.figures.amount(tax.amount),
            free_label=True,
        )
        for tax in sums.taxes
        if not tax.inclusive and _minor(tax.amount, frame.currency)
    ]
    return rows


def _included(sums: PaperSums, frame: PaperFrame) -> list[Fact]:
    return [
        Fact(
            label=frame.words.included.format(tax=_tax_label(tax, frame)),
            value=frame.figures.amount(tax.amount),
            free_label=True,
        )
        for tax in sums.taxes
        if tax.inclusive
    ]


def invoice_totals(*, invoice: Invoice, sums: PaperSums, frame: PaperFrame) -> tuple[Fact, ...]:
    """Subtotal, what changes it, total, what was deducted, and last what is left to pay."""
    words, figures, currency = frame.words, frame.figures, frame.currency
    rows = _before_total(invoice, sums, frame)
    rows.append(Fact(label=words.total, value=figures.amount(invoice.total)))
    rows += _included(sums, frame)
    if invoice.status is InvoiceStatus.VOID:
        label = frame.in_currency(words.void_amount)
        return (*rows, Fact(label=label, value=figures.amount(invoice.total), strong=True))
    used = _minor(sums.prepaid, currency) + _minor(invoice.balance_applied, currency)
    settled = _minor(invoice.total, currency) - used - _minor(invoice.amount_due, currency)
    rows += _deduction(words.prepaid_credit, sums.prepaid, frame)
    rows += _deduction(words.balance_applied, invoice.balance_applied, frame)
    rows += _deduction(words.already_settled, format_amount(settled, currency=currency), frame)
    label = frame.in_currency(words.amount_due)
    return (*rows, Fact(label=label, value=figures.amount(invoice.amount_due), strong=True))


def credit_totals(*, note: CreditNote, sums: PaperSums, frame: PaperFrame) -> tuple[Fact, ...]:
    """Subtotal and what changes it, the credit, and where it went."""
    words, figures = frame.words, frame.figures
    label = frame.in_currency(words.total_credit)
    went = (
        (words.applied_to_invoices, note.applied),
        (words.added_to_balance, note.credited),
        (words.refunded, note.refunded),
    )
    return (
        *_before_total(note, sums, frame),
        *_included(sums, frame),
        Fact(label=label, value=figures.amount(note.total), strong=True),
        *(
            Fact(label=where, value=figures.amount(amount))
            for where, amount in went
            if _minor(amount, frame.currency)
        ),
    )


def tax_tables(*, sums: PaperSums, frame: PaperFrame) -> tuple[PaperTable, ...]:
    """Per rate the amount that is taxed and the tax; none when nothing is told of taxes."""
    if not sums.taxes:
        return ()
    words, figures = frame.words, frame.figures
    return (
        PaperTable(
            title="",
            headings=(words.tax, words.tax_rate, words.taxable, words.amount),
            rows=tuple(
                (
                    bounded(tax.label),
                    figures.percent(tax.percentage),
                    figures.amount(tax.taxable),
                    figures.amount(tax.amount),
                )
                for tax in sums.taxes
            ),
        ),
    )


def legends(*, sums: PaperSums, frame: PaperFrame) -> tuple[str, ...]:
    """Why something is not taxed, each reason once; all of it is free text."""
    found = (legend_of(tax, words=frame.words) for tax in sums.taxes)
    return tuple(dict.fromkeys(bounded(text) for text in found if text is not None))
