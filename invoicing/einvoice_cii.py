"""EN 16931 in the syntax of UN/CEFACT (CII), as Factur-X and ZUGFeRD embed it."""

from datetime import date
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from invoicing.einvoice import (
    CREDIT_NOTE_TYPE,
    EACH,
    GUIDELINE,
    INVOICE_TYPE,
    TradeAllowance,
    TradeDocument,
    TradeLine,
    TradeParty,
    TradeTax,
    xml_text,
)
from invoicing.paper_sums import VatCategory

_SPACES: Final = {
    "xmlns:rsm": "urn:un:unece:uncefact:data:standard:CrossIndustryInvoice:100",
    "xmlns:ram": (
        "urn:un:unece:uncefact:data:standard:ReusableAggregateBusinessInformationEntity:100"
    ),
    "xmlns:udt": "urn:un:unece:uncefact:data:standard:UnqualifiedDataType:100",
}


def _put(parent: Element, path: str, text: str | None = None, **attributes: str) -> Element:
    """A chain of new elements below `parent`; the last gets the text. Nothing when it is None."""
    node = parent
    for name in path.split("/"):
        node = SubElement(node, f"ram:{name}")
    node.attrib.update(attributes)
    node.text = xml_text(text) if text is not None else None
    return node


def _maybe(parent: Element, path: str, text: str | None, **attributes: str) -> None:
    if text is not None and xml_text(text):
        _put(parent, path, text, **attributes)


def _day(parent: Element, path: str, on: date) -> None:
    node = SubElement(_put(parent, path), "udt:DateTimeString", format="102")
    node.text = f"{on:%Y%m%d}"


def _party(parent: Element, name: str, party: TradeParty) -> None:
    node = _put(parent, name)
    _put(node, "Name", party.name)
    scheme = {} if party.legal_scheme is None else {"schemeID": party.legal_scheme}
    _maybe(node, "SpecifiedLegalOrganization/ID", party.legal_id, **scheme)
    address = _put(node, "PostalTradeAddress")
    _maybe(address, "PostcodeCode", party.postal_code)
    _maybe(address, "LineOne", party.line1)
    _maybe(address, "LineTwo", party.line2)
    _maybe(address, "CityName", party.city)
    _put(address, "CountryID", party.country)
    _maybe(address, "CountrySubDivisionName", party.region)
    _maybe(node, "URIUniversalCommunication/URIID", party.email, schemeID="EM")
    _maybe(node, "SpecifiedTaxRegistration/ID", party.vat_id, schemeID="VA")


def _category(parent: Element, name: str, category: VatCategory, rate: str | None) -> None:
    node = _put(parent, name)
    _put(node, "TypeCode", "VAT")
    _put(node, "CategoryCode", category.value)
    _maybe(node, "RateApplicablePercent", rate)


def _period(parent: Element, period: tuple[date, date]) -> None:
    node = _put(parent, "BillingSpecifiedPeriod")
    _day(node, "StartDateTime", period[0])
    _day(node, "EndDateTime", period[1])


def _allowance(parent: Element, allowance: TradeAllowance, *, of_document: bool) -> None:
    node = _put(parent, "SpecifiedTradeAllowanceCharge")
    SubElement(_put(node, "ChargeIndicator"), "udt:Indicator").text = str(
        allowance.is_charge
    ).lower()
    _put(node, "ActualAmount", allowance.amount)
    _put(node, "Reason", allowance.reason)
    if of_document:
        _category(node, "CategoryTradeTax", allowance.category, allowance.percentage)


def _line(parent: Element, line: TradeLine) -> None:
    node = _put(parent, "IncludedSupplyChainTradeLineItem")
    _put(node, "AssociatedDocumentLineDocument/LineID", line.id)
    product = _put(node, "SpecifiedTradeProduct")
    _put(product, "Name", line.name)
    _maybe(product, "Description", line.note)
    price = _put(node, "SpecifiedLineTradeAgreement/NetPriceProductTradePrice")
    _put(price, "ChargeAmount", line.unit_price)
    _maybe(price, "BasisQuantity", line.base_quantity, unitCode=EACH)
    _put(node, "SpecifiedLineTradeDelivery/BilledQuantity", line.quantity, unitCode=EACH)
    settlement = _put(node, "SpecifiedLineTradeSettlement")
    _category(settlement, "ApplicableTradeTax", line.category, line.percentage)
    if line.period is not None:
        _period(settlement, line.period)
    for allowance in line.allowances:
        _allowance(settlement, allowance, of_document=False)
    path = "SpecifiedTradeSettlementLineMonetarySummation/LineTotalAmount"
    _put(settlement, path, line.net_amount)


def _tax(parent: Element, tax: TradeTax) -> None:
    node = _put(parent, "ApplicableTradeTax")
    _put(node, "CalculatedAmount", tax.amount)
    _put(node, "TypeCode", "VAT")
    _maybe(node, "ExemptionReason", tax.reason)
    _put(node, "BasisAmount", tax.taxable)
    _put(node, "CategoryCode", tax.category.value)
    _maybe(node, "ExemptionReasonCode", tax.reason_code)
    _maybe(node, "RateApplicablePercent", tax.percentage)


def _payment(parent: Element, document: TradeDocument) -> None:
    account = document.account
    if account is None:
        return
    node = _put(parent, "SpecifiedTradeSettlementPaymentMeans")
    _put(node, "TypeCode", account.means)
    creditor = _put(node, "PayeePartyCreditorFinancialAccount")
    if account.is_iban:
        _put(creditor, "IBANID", account.account)
    _maybe(creditor, "AccountName", account.holder)
    if not account.is_iban:
        _put(creditor, "ProprietaryID", account.account)
    _maybe(node, "PayeeSpecifiedCreditorFinancialInstitution/BICID", account.bic)


def _settlement(parent: Element, document: TradeDocument) -> None:
    node, totals = _put(parent, "ApplicableHeaderTradeSettlement"), document.totals
    _maybe(node, "PaymentReference", document.payment_reference)
    _put(node, "InvoiceCurrencyCode", document.currency)
    _payment(node, document)
    for tax in document.taxes:
        _tax(node, tax)
    if document.period is not None:
        _period(node, document.period)
    for allowance in document.allowances:
        _allowance(node, allowance, of_document=True)
    if document.due_on is not None or document.payment_terms:
        terms = _put(node, "SpecifiedTradePaymentTerms")
        _maybe(terms, "Description", document.payment_terms)
        if document.due_on is not None:
            _day(terms, "DueDateDateTime", document.due_on)
    sums = _put(node, "SpecifiedTradeSettlementHeaderMonetarySummation")
    _put(sums, "LineTotalAmount", totals.lines)
    _put(sums, "ChargeTotalAmount", totals.charges)
    _put(sums, "AllowanceTotalAmount", totals.allowances)
    _put(sums, "TaxBasisTotalAmount", totals.without_tax)
    _put(sums, "TaxTotalAmount", totals.tax, currencyID=document.currency)
    _put(sums, "GrandTotalAmount", totals.with_tax)
    _put(sums, "TotalPrepaidAmount", totals.paid)
    _put(sums, "DuePayableAmount", totals.due)
    for number in document.preceding:
        _put(node, "InvoiceReferencedDocument/IssuerAssignedID", number)


def write_cii(*, document: TradeDocument) -> bytes:
    """The XML, UTF-8; equal bytes for equal documents."""
    root = Element("rsm:CrossIndustryInvoice", _SPACES)
    context = SubElement(root, "rsm:ExchangedDocumentContext")
    _put(context, "GuidelineSpecifiedDocumentContextParameter/ID", GUIDELINE)
    head = SubElement(root, "rsm:ExchangedDocument")
    _put(head, "ID", document.number)
    _put(head, "TypeCode", CREDIT_NOTE_TYPE if document.is_credit_note else INVOICE_TYPE)
    _day(head, "IssueDateTime", document.issued_on)
    trade = SubElement(root, "rsm:SupplyChainTradeTransaction")
    for line in document.lines:
        _line(trade, line)
    agreement = _put(trade, "ApplicableHeaderTradeAgreement")
    _maybe(agreement, "BuyerReference", document.buyer_reference)
    _party(agreement, "SellerTradeParty", document.seller)
    _party(agreement, "BuyerTradeParty", document.buyer)
    _maybe(agreement, "BuyerOrderReferencedDocument/IssuerAssignedID", document.order_reference)
    delivery = _put(trade, "ApplicableHeaderTradeDelivery")
    if any(tax.category is VatCategory.INTRA_COMMUNITY for tax in document.taxes):
        _put(delivery, "ShipToTradeParty/PostalTradeAddress/CountryID", document.buyer.country)
    supplied_on = document.period[1] if document.period is not None else document.issued_on
    _day(delivery, "ActualDeliverySupplyChainEvent/OccurrenceDateTime", supplied_on)
    _settlement(trade, document)
    return tostring(root, encoding="utf-8", xml_declaration=True)
