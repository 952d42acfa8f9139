"""Verbs: a payment's receipt and a customer's statement of account as PDF."""

from datetime import datetime
from types import MappingProxyType
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from engine.money import parse_amount
from engine.period import local_midnight
from invoicing.document_store import list_invoices
from invoicing.paper_parts import Paper
from invoicing.paper_receipt import ReceiptFacts, SettledDocument, build_receipt
from invoicing.paper_statement import build_statement
from invoicing.payments import Payment
from invoicing.pdf import render_pdf
from invoicing.pdf_archive import archive_pdf, can_archive
from invoicing.print_document import branding_of, payment_of
from invoicing.statements import Account, Statement, paper_facts
from invoicing.words.choose import choose_words
from plans.catalog import party_of_customer, party_of_seller
from plans.model import Party, Seller
from plans.store import find_customer

_METHODS: Final = MappingProxyType({"bank": "bank_transfer", "manual": "by_hand"})
_RECEIVED: Final = "succeeded"


async def print_receipt(*, connection: AsyncConnection, payment: Payment, seller: Seller) -> bytes:
    """The receipt of a payment: what it has paid by now, and what of it is kept.

    Names and language are today's. Error: `payment_not_received` when the money is not there.
    """
    if payment.status.value != _RECEIVED:
        detail = f"the payment is {payment.status.value}: there is no receipt of it"
        raise BillingError("payment_not_received", detail, kind=ErrorKind.CONFLICT)
    issuer, customer = await _parties(connection, seller, payment.customer)
    locale = customer.locale or issuer.locale or "en"
    words = choose_words(locale=locale)
    documents: list[SettledDocument] = []
    for part in payment.allocations:
        if parse_amount(part.amount, currency=payment.currency) <= 0:
            continue
        invoice = (await list_invoices(connection=connection, limit=1, reference=part.invoice))[0]
        assert invoice.number is not None, "only what is issued is paid"
        documents.append(
            SettledDocument(
                number=invoice.number,
                issued_at=invoice.issued_at,
                total=invoice.total,
                paid=part.amount,
            )
        )
    method = payment.method.value
    facts = ReceiptFacts(
        number=payment.id,
        currency=payment.currency,
        amount=payment.amount,
        received_at=payment.attempted_at,
        method=getattr(words, _METHODS[method]) if method in _METHODS else method,
        reference=payment.reference,
        refunded=payment.refunded,
        documents=tuple(documents),
    )
    paper = build_receipt(
        receipt=facts,
        seller=issuer,
        customer=customer,
        timezone=seller.timezone,
        locale=locale,
        branding=await branding_of(connection=connection, seller=issuer),
    )
    return _rendered(paper, at=payment.attempted_at)


async def print_statement(
    *,
    connection: AsyncConnection,
    statement: Statement,
    account: Account,
    seller: Seller,
) -> bytes:
    """One currency of a statement; names, language and bank are today's."""
    issuer, customer = await _parties(connection, seller, statement.customer)
    start_at, end_at = (
        local_midnight(on=day, timezone=seller.timezone)
        for day in (statement.start_on, statement.end_on)
    )
    number = f"{statement.customer}-{account.currency}-{statement.end_on:%Y%m%d}"
    paper = build_statement(
        statement=paper_facts(account=account, number=number, period=(start_at, end_at)),
        seller=issuer,
        customer=customer,
        timezone=seller.timezone,
        locale=customer.locale or issuer.locale or "en",
        payment=payment_of(seller=issuer),
        branding=await branding_of(connection=connection, seller=issuer),
    )
    return _rendered(paper, at=end_at)


async def _parties(
    connection: AsyncConnection, seller: Seller, customer: str
) -> tuple[Party, Party]:
    found = await find_customer(connection=connection, reference=customer)
    if found is None:
        raise not_found(noun="customer", reference=customer)
    return party_of_seller(seller), party_of_customer(found)


def _rendered(paper: Paper, *, at: datetime) -> bytes:
    content = render_pdf(paper=paper)
    if not can_archive():
        return content
    title = f"{paper.title} {paper.number}"
    return archive_pdf(
        content=content, title=title, language=paper.language, issued_at=at, xml=None
    )
