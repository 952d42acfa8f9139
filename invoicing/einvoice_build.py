"""A posted document as EN 16931 tells it, or why it cannot be told."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Final

import msgspec

from engine.money import currency_digits, format_amount, format_plain, parse_amount
from engine.period import local_date
from invoicing.einvoice import (
    CREDIT_TRANSFER,
    EXEMPTION_CODES,
    SEPA_TRANSFER,
    TradeAccount,
    TradeAllowance,
    TradeDocument,
    TradeLine,
    TradeParty,
    TradeTax,
    TradeTotals,
    refuse,
    trade_party,
)
from invoicing.figures import QUANTITY_DIGITS
from invoicing.model import CreditNote, Invoice, InvoiceStatus
from invoicing.paper_frame import PaymentDetails
from invoicing.paper_lines import PaperLine
from invoicing.paper_sums import PaperSums, PaperTax, VatCategory, legend_of
from invoicing.words.en import WORDS as ENGLISH
from invoicing.words.phrases import Words
from plans.model import Party

ONE: Final = "1"
_NO_SUMS: Final = PaperSums()
_NEEDS_SELLER_VAT: Final = frozenset(VatCategory) - {VatCategory.NOT_TAXED}
_NEEDS_BUYER_VAT: Final = {VatCategory.REVERSE_CHARGE, VatCategory.INTRA_COMMUNITY}


class LineTax(msgspec.Struct, frozen=True, kw_only=True):
    """How one line is taxed; `amount` of tax in major units, inside the line when `inclusive`."""

    category: VatCategory
    percentage: str = "0"
    amount: str = "0"
    inclusive: bool = False


class TaxedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A printed line and its taxes: the standard can tell exactly one."""

    line: PaperLine
    taxes: tuple[LineTax, ...] = ()


def _rate(category: VatCategory, percentage: str) -> str | None:
    if category is VatCategory.NOT_TAXED:
        return None
    return format_plain(
        (Fraction(percentage) * 10**QUANTITY_DIGITS).numerator, digits=QUANTITY_DIGITS
    )


def _days(period: tuple[datetime, datetime], timezone: str) -> tuple[date, date]:
    """First and last local day of a period whose end is not part of it."""
    first, after = (local_date(at=at, timezone=timezone) for at in period)
    end = local_date(at=period[1] - timedelta(microseconds=1), timezone=timezone)
    return first, max(first, end if period[1] > period[0] else after)


def _only_tax(taxed: TaxedLine) -> LineTax:
    name = taxed.line.description[:60]
    match taxed.taxes:
        case (tax,):
            return tax
        case ():
            message = f"nothing says how {name!r} is taxed, not even that it is not"
            raise refuse("tax_unknown", message)
        case _:
            message = f"{name!r} has several taxes; an e-invoice knows one a line"
            raise refuse("several_rates", message)


def _priced(line: PaperLine, gross: int, currency: str) -> tuple[str, str, str | None]:
    """Quantity, unit price and the quantity that it is for, such that they make `gross`.

    Where quantity and price of the line do not (tiers, shares of a period, tax inside), the line
    is one piece at its amount; the price is never negative.
    """
    amount = Fraction(format_amount(gross, currency=currency))
    if line.quantity is not None and line.unit_amount is not None:
        quantity, price = Fraction(line.quantity), Fraction(line.unit_amount)
        base = Fraction(line.package_size or ONE)
        if price >= 0 and base > 0 and quantity * price / base == amount:
            return line.quantity, line.unit_amount, line.package_size
    sign = "-" if gross < 0 else ""
    return f"{sign}{ONE}", format_amount(abs(gross), currency=currency), None


def _line(taxed: TaxedLine, *, index: int, currency: str, timezone: str, words: Words) -> TradeLine:
    line, tax = taxed.line, _only_tax(taxed)
    inside = parse_amount(tax.amount, currency=currency) if tax.inclusive else 0
    gross = parse_amount(line.amount, currency=currency) - inside
    taken = [(parse_amount(each.amount, currency=currency), each.label) for each in line.discounts]
    quantity, price, base = _priced(line, gross, currency)
    notes = [note for note in (line.customer, line.subscription, line.note) if note]
    return TradeLine(
        id=str(index),
        name=line.description or "-",
        note=", ".join(notes) or None,
        quantity=quantity,
        unit_price=price,
        base_quantity=base,
        net_amount=format_amount(gross - sum(minor for minor, _ in taken), currency=currency),
        allowances=tuple(
            _allowance(minor, label or words.discount, currency=currency)
            for minor, label in taken
            if minor
        ),
        category=tax.category,
        percentage=_rate(tax.category, tax.percentage),
        period=_days(line.period, timezone) if line.period is not None else None,
    )


def _allowance(minor: int, reason: str, *, currency: str) -> TradeAllowance:
    """What is taken off; what is below zero adds, and is told as a charge."""
    amount = format_amount(abs(minor), currency=currency)
    return TradeAllowance(amount=amount, reason=reason, is_charge=minor < 0)


def _by_rate(taxes: Sequence[PaperTax], currency: str) -> tuple[PaperTax, ...]:
    """One tax for each category and rate: the standard knows no others."""
    found: dict[tuple[VatCategory, str | None], PaperTax] = {}
    for tax in taxes:
        key = tax.category, _rate(tax.category, tax.percentage)
        known = found.get(key)
        if known is None:
            found[key] = tax
            continue
        taxable, amount = (
            format_amount(
                sum(parse_amount(text, currency=currency) for text in pair), currency=currency
            )
            for pair in ((known.taxable, tax.taxable), (known.amount, tax.amount))
        )
        found[key] = msgspec.structs.replace(known, taxable=taxable, amount=amount)
    return tuple(found.values())


def _trade_tax(tax: PaperTax, words: Words) -> TradeTax:
    is_told = tax.category in EXEMPTION_CODES
    return TradeTax(
        category=tax.category,
        percentage=_rate(tax.category, tax.percentage),
        taxable=tax.taxable,
        amount=tax.amount,
        reason=legend_of(tax, words=words) if is_told else None,
        reason_code=EXEMPTION_CODES[tax.category] if is_told else None,
    )


def _allowances(
    lines: Sequence[TradeLine],
    taxes: Sequence[TradeTax],
    promotional_minor: int,
    currency: str,
    words: Words,
) -> tuple[TradeAllowance, ...]:
    """What promotional credit took off the document before tax, by category and rate.

    Lines that give back may bring more of it than the others take: that is a charge.
    `einvoice_does_not_add_up` when a rate is told that no line has, or twice, or when the rates
    tell of another sum than was taken.
    """
    found: list[TradeAllowance] = []
    groups = [(tax.category, tax.percentage) for tax in taxes]
    used = {(line.category, line.percentage) for line in lines}
    if len(set(groups)) != len(groups) or used != set(groups):
        raise refuse("does_not_add_up", "the rates of the lines are not the rates of the document")
    for tax in taxes:
        net = sum(
            parse_amount(line.net_amount, currency=currency)
            for line in lines
            if (line.category, line.percentage) == (tax.category, tax.percentage)
        )
        taken = net - parse_amount(tax.taxable, currency=currency)
        promotional_minor -= taken
        if taken:
            told = _allowance(taken, words.promotional_credit, currency=currency)
            found.append(
                msgspec.structs.replace(told, category=tax.category, percentage=tax.percentage)
            )
    if promotional_minor:
        raise refuse("does_not_add_up", "the rates are of other amounts than the lines")
    return tuple(found)


def _allowed_parties(
    seller: TradeParty, buyer: TradeParty, used: set[VatCategory]
) -> tuple[TradeParty, TradeParty]:
    """Both with the identities that the categories ask for, and none that they forbid."""
    if VatCategory.NOT_TAXED in used and len(used) > 1:
        raise refuse("mixed_not_taxed", "what is not subject to VAT needs a document of its own")
    if used & _NEEDS_SELLER_VAT and seller.vat_id is None:
        raise refuse("seller_vat_id_missing", "an e-invoice needs the VAT number of the seller")
    if used & _NEEDS_BUYER_VAT and buyer.vat_id is None:
        message = "reverse charge and intra-Community supply need the VAT number of the buyer"
        raise refuse("buyer_vat_id_missing", message)
    if seller.vat_id is None and seller.legal_id is None:
        raise refuse("seller_identity_missing", "an e-invoice needs an identity of the seller")
    if VatCategory.NOT_TAXED not in used:
        return seller, buyer
    return (
        msgspec.structs.replace(seller, vat_id=None, legal_id=seller.legal_id or seller.vat_id),
        msgspec.structs.replace(buyer, vat_id=None),
    )


def _account(payment: PaymentDetails | None, currency: str) -> TradeAccount | None:
    if payment is None or not (payment.iban or payment.account_number):
        return None
    iban = "".join((payment.iban or "").split())
    return TradeAccount(
        means=SEPA_TRANSFER if iban and currency == "EUR" else CREDIT_TRANSFER,
        account=iban or payment.account_number or "",
        is_iban=bool(iban),
        holder=payment.account_holder,
        bic=payment.bic,
    )


def _totals(
    document: Invoice | CreditNote,
    lines: Sequence[TradeLine],
    allowances: Sequence[TradeAllowance],
    taxes: Sequence[TradeTax],
) -> TradeTotals:
    currency = document.currency

    def minor(texts: Sequence[str]) -> int:
        return sum(parse_amount(text, currency=currency) for text in texts)

    net = minor([line.net_amount for line in lines])
    taken = minor([each.amount for each in allowances if not each.is_charge])
    charged = minor([each.amount for each in allowances if each.is_charge])
    tax, total = minor([each.amount for each in taxes]), minor([document.total])
    if net - taken + charged + tax != total:
        raise refuse("does_not_add_up", "lines, allowances and taxes are not the total")
    due = document.amount_due if isinstance(document, Invoice) else document.total
    paid = total - minor([due])

    def text(value: int) -> str:
        return format_amount(value, currency=currency)

    return TradeTotals(
        lines=text(net),
        allowances=text(taken),
        charges=text(charged),
        without_tax=text(net - taken + charged),
        tax=text(tax),
        with_tax=text(total),
        paid=text(paid),
        due=due,
    )


def build_trade_document(
    *,
    document: Invoice | CreditNote,
    seller: Party,
    customer: Party,
    lines: Sequence[TaxedLine],
    sums: PaperSums = _NO_SUMS,
    timezone: str = "UTC",
    payment: PaymentDetails | None = None,
    words: Words = ENGLISH,
) -> TradeDocument:
    """The document for both writers; every error is named `einvoice_…` and says what is missing.

    `words` are those of its paper: reasons and terms are told in them.
    Prepaid credit and balance applied count as paid, as the standard has no other place for them.
    """
    currency = document.currency
    if currency_digits(currency) > 2:
        raise refuse("currency_digits", f"an e-invoice has two decimals, {currency} has more")
    if document.status == InvoiceStatus.VOID.value:
        raise refuse("void", "a void document is not sent as an e-invoice")
    issuer = trade_party(party=seller, role="seller")
    buyer = trade_party(party=customer, role="buyer")
    traded = tuple(
        _line(each, index=index, currency=currency, timezone=timezone, words=words)
        for index, each in enumerate(lines, start=1)
    )
    if not traded:
        raise refuse("no_lines", "an e-invoice has at least one line")
    issuer, buyer = _allowed_parties(issuer, buyer, {line.category for line in traded})
    taxes = tuple(_trade_tax(tax, words) for tax in _by_rate(sums.taxes, currency))
    promotional_minor = parse_amount(document.promotional_applied, currency=currency)
    allowances = _allowances(traded, taxes, promotional_minor, currency, words)
    is_invoice = isinstance(document, Invoice)
    periods = [line.period for line in traded if line.period is not None]
    return TradeDocument(
        number=document.number or "",
        is_credit_note=not is_invoice,
        issued_on=local_date(at=document.issued_at, timezone=timezone),
        due_on=local_date(at=document.due_at, timezone=timezone)
        if isinstance(document, Invoice)
        else None,
        currency=currency,
        seller=issuer,
        buyer=buyer,
        lines=traded,
        allowances=allowances,
        taxes=taxes,
        totals=_totals(document, traded, allowances, taxes),
        account=_account(payment, currency) if is_invoice else None,
        payment_reference=(payment.reference if payment else None) or document.number,
        payment_terms=None if is_invoice else words.terms_credit,
        order_reference=document.po_number if isinstance(document, Invoice) else None,
        preceding=tuple(
            dict.fromkeys(each.line.adjusts for each in lines if each.line.adjusts is not None)
        ),
        period=(min(first for first, _ in periods), max(last for _, last in periods))
        if periods
        else None,
    )
