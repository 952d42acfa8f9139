"""EN 16931 in the syntax of OASIS UBL 2.1, for networks that take XML alone."""

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

_SCHEMA: Final = "urn:oasis:names:specification:ubl:schema:xsd:"


class _Writer:
    """Writes one document: names and amounts carry its kind and its currency."""

    def __init__(self, document: TradeDocument) -> None:
        self._document = document
        self._kind = "CreditNote" if document.is_credit_note else "Invoice"
        self.root = Element(
            self._kind,
            {
                "xmlns": f"{_SCHEMA}{self._kind}-2",
                "xmlns:cac": f"{_SCHEMA}CommonAggregateComponents-2",
                "xmlns:cbc": f"{_SCHEMA}CommonBasicComponents-2",
            },
        )

    def _group(self, parent: Element, name: str) -> Element:
        return SubElement(parent, f"cac:{name}")

    def _text(self, parent: Element, name: str, text: str | None, **attributes: str) -> None:
        if text is not None and (plain := xml_text(text)):
            SubElement(parent, f"cbc:{name}", attributes).text = plain

    def _amount(self, parent: Element, name: str, text: str) -> None:
        self._text(parent, name, text, currencyID=self._document.currency)

    def _scheme(self, parent: Element) -> None:
        self._text(self._group(parent, "TaxScheme"), "ID", "VAT")

    def _period(self, parent: Element, period: tuple[date, date] | None) -> None:
        if period is not None:
            node = self._group(parent, "InvoicePeriod")
            self._text(node, "StartDate", period[0].isoformat())
            self._text(node, "EndDate", period[1].isoformat())

    def _address(self, parent: Element, name: str, party: TradeParty) -> None:
        node = self._group(parent, name)
        self._text(node, "StreetName", party.line1)
        self._text(node, "AdditionalStreetName", party.line2)
        self._text(node, "CityName", party.city)
        self._text(node, "PostalZone", party.postal_code)
        self._text(node, "CountrySubentity", party.region)
        self._text(self._group(node, "Country"), "IdentificationCode", party.country)

    def _party(self, name: str, party: TradeParty) -> None:
        node = self._group(self._group(self.root, name), "Party")
        self._text(node, "EndpointID", party.email, schemeID="EM")
        self._address(node, "PostalAddress", party)
        if party.vat_id is not None:
            taxed = self._group(node, "PartyTaxScheme")
            self._text(taxed, "CompanyID", party.vat_id)
            self._scheme(taxed)
        legal = self._group(node, "PartyLegalEntity")
        self._text(legal, "RegistrationName", party.name)
        scheme = {} if party.legal_scheme is None else {"schemeID": party.legal_scheme}
        self._text(legal, "CompanyID", party.legal_id, **scheme)

    def _category(
        self, parent: Element, name: str, category: VatCategory, rate: str | None
    ) -> Element:
        node = self._group(parent, name)
        self._text(node, "ID", category.value)
        self._text(node, "Percent", rate)
        return node

    def _allowance(self, parent: Element, allowance: TradeAllowance, *, of_document: bool) -> None:
        node = self._group(parent, "AllowanceCharge")
        self._text(node, "ChargeIndicator", str(allowance.is_charge).lower())
        self._text(node, "AllowanceChargeReason", allowance.reason)
        self._amount(node, "Amount", allowance.amount)
        if of_document:
            self._scheme(
                self._category(node, "TaxCategory", allowance.category, allowance.percentage)
            )

    def _tax(self, parent: Element, tax: TradeTax) -> None:
        node = self._group(parent, "TaxSubtotal")
        self._amount(node, "TaxableAmount", tax.taxable)
        self._amount(node, "TaxAmount", tax.amount)
        category = self._category(node, "TaxCategory", tax.category, tax.percentage)
        self._text(category, "TaxExemptionReasonCode", tax.reason_code)
        self._text(category, "TaxExemptionReason", tax.reason)
        self._scheme(category)

    def _line(self, line: TradeLine) -> None:
        credit = self._document.is_credit_note
        node = self._group(self.root, f"{self._kind}Line")
        self._text(node, "ID", line.id)
        quantity = "CreditedQuantity" if credit else "InvoicedQuantity"
        self._text(node, quantity, line.quantity, unitCode=EACH)
        self._amount(node, "LineExtensionAmount", line.net_amount)
        self._period(node, line.period)
        for allowance in line.allowances:
            self._allowance(node, allowance, of_document=False)
        item = self._group(node, "Item")
        self._text(item, "Description", line.note)
        self._text(item, "Name", line.name)
        self._scheme(self._category(item, "ClassifiedTaxCategory", line.category, line.percentage))
        price = self._group(node, "Price")
        self._amount(price, "PriceAmount", line.unit_price)
        self._text(price, "BaseQuantity", line.base_quantity, unitCode=EACH)

    def head(self) -> None:
        """What stands before the parties."""
        document, root = self._document, self.root
        self._text(root, "CustomizationID", GUIDELINE)
        self._text(root, "ID", document.number)
        self._text(root, "IssueDate", document.issued_on.isoformat())
        if document.is_credit_note:
            self._text(root, "CreditNoteTypeCode", CREDIT_NOTE_TYPE)
        else:
            if document.due_on is not None:
                self._text(root, "DueDate", document.due_on.isoformat())
            self._text(root, "InvoiceTypeCode", INVOICE_TYPE)
        self._text(root, "DocumentCurrencyCode", document.currency)
        self._text(root, "BuyerReference", document.buyer_reference)
        self._period(root, document.period)
        if document.order_reference:
            self._text(self._group(root, "OrderReference"), "ID", document.order_reference)
        for number in document.preceding:
            reference = self._group(root, "BillingReference")
            self._text(self._group(reference, "InvoiceDocumentReference"), "ID", number)
        self._party("AccountingSupplierParty", document.seller)
        self._party("AccountingCustomerParty", document.buyer)

    def payment(self) -> None:
        """Where and when to pay."""
        document, account = self._document, self._document.account
        if any(tax.category is VatCategory.INTRA_COMMUNITY for tax in document.taxes):
            place = self._group(self._group(self.root, "Delivery"), "DeliveryLocation")
            country = self._group(self._group(place, "Address"), "Country")
            self._text(country, "IdentificationCode", document.buyer.country)
        if account is not None:
            node = self._group(self.root, "PaymentMeans")
            self._text(node, "PaymentMeansCode", account.means)
            self._text(node, "PaymentID", document.payment_reference)
            payee = self._group(node, "PayeeFinancialAccount")
            self._text(payee, "ID", account.account)
            self._text(payee, "Name", account.holder)
            if account.bic:
                self._text(self._group(payee, "FinancialInstitutionBranch"), "ID", account.bic)
        if document.payment_terms:
            self._text(self._group(self.root, "PaymentTerms"), "Note", document.payment_terms)

    def sums(self) -> None:
        """Allowances, taxes and totals, then the lines."""
        document, totals = self._document, self._document.totals
        for allowance in document.allowances:
            self._allowance(self.root, allowance, of_document=True)
        taxes = self._group(self.root, "TaxTotal")
        self._amount(taxes, "TaxAmount", totals.tax)
        for tax in document.taxes:
            self._tax(taxes, tax)
        node = self._group(self.root, "LegalMonetaryTotal")
        self._amount(node, "LineExtensionAmount", totals.lines)
        self._amount(node, "TaxExclusiveAmount", totals.without_tax)
        self._amount(node, "TaxInclusiveAmount", totals.with_tax)
        self._amount(node, "AllowanceTotalAmount", totals.allowances)
        self._amount(node, "ChargeTotalAmount", totals.charges)
        self._amount(node, "PrepaidAmount", totals.paid)
        self._amount(node, "PayableAmount", totals.due)
        for line in document.lines:
            self._line(line)


def write_ubl(*, document: TradeDocument) -> bytes:
    """The XML of an Invoice or CreditNote, UTF-8; equal bytes for equal documents."""
    writer = _Writer(document)
    writer.head()
    writer.payment()
    writer.sums()
    return tostring(writer.root, encoding="utf-8", xml_declaration=True)
