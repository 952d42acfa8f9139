"""Verb: void an issued invoice. Its entry is mirrored today and its charge keys are free again."""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import DerivedIds, derived_body
from engine.period import local_date
from invoicing.close_grant import take_given_back, void_bought
from invoicing.credit_note_store import is_credited_by_hand
from invoicing.credit_store import prepaid_draws, reserve_voided
from invoicing.entry_store import tell, write_entry
from invoicing.held_entry_store import end_held
from invoicing.model import InvoiceStatus
from invoicing.payment_store import paid_of
from invoicing.posting_rules import void_postings
from invoicing.store import add_balances, lock_billing
from invoicing.void_store import (
    issued_postings,
    lock_invoice,
    mark_void,
)
from plans.model import Seller

_REFUSALS: Final = {
    InvoiceStatus.PAID: ("invoice_paid", "what settled it stands: correct it by a credit note"),
    InvoiceStatus.VOID: ("already_void", "it was voided before"),
    InvoiceStatus.UNCOLLECTIBLE: ("invoice_not_open", "it was written off, and is lost already"),
}


async def void_invoice(
    *, connection: AsyncConnection, seller: Seller, reference: str, now: datetime
) -> str:
    """Take back an open invoice (id or number); gives its id.

    What a customer's balance or a credit note paid of it becomes customer balance again; grants get
    back what they paid, and credit that it sold is void. What its
    lines charged is owed as before: the customer's next document bills it once more. Errors:
    `not_found`, `invoice_paid`, `invoice_credited`, `already_void`, `invoice_not_open`,
    `credit_used`, `credit_settled`.
    """
    # A run that derived before this must derive again: to it the lines counted.
    await lock_billing(connection=connection, sweep=True)
    invoice = await lock_invoice(connection=connection, reference=reference)
    if invoice is None:
        raise not_found(noun="invoice", reference=reference)
    if await is_credited_by_hand(connection=connection, invoice=invoice.id):
        detail = f"the invoice {reference!r} was credited by hand: void its credit notes first"
        raise BillingError("invoice_credited", detail, kind=ErrorKind.CONFLICT)
    status = InvoiceStatus(invoice.status)
    if await paid_of(connection=connection, invoices=[invoice.id]):
        status = InvoiceStatus.PAID
    if status is not InvoiceStatus.OPEN:
        code, reason = _REFUSALS[status]
        detail = f"the invoice {reference!r} cannot be voided: {reason}"
        raise BillingError(code, detail, kind=ErrorKind.CONFLICT)
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, invoice.id, "voided")))
    prepaid = await prepaid_draws(connection=connection, document=invoice.id)
    issued = await issued_postings(connection=connection, invoice=invoice.id)
    await mark_void(connection=connection, invoice=invoice.id, now=now)
    await take_given_back(connection=connection, seller=seller, invoice=invoice.id, now=now)
    held = await end_held(connection=connection, invoice=invoice.id, now=now, is_entered=False)
    if not held:
        await write_entry(
            connection=connection,
            entry=ids.find("je"),
            kind="voided",
            source=invoice.id,
            entry_on=local_date(at=now, timezone=seller.timezone),
            now=now,
            currency=invoice.currency,
            postings=void_postings(
                issued=issued, due_minor=invoice.amount_due_minor, prepaid=prepaid
            ),
        )
    await reserve_voided(connection=connection, invoice=invoice.id)
    await void_bought(connection=connection, seller=seller, invoice=invoice.id, now=now)
    told = (ids.find("evt"), "invoice.voided", invoice.id, invoice.version + 1)
    await tell(connection=connection, events=[told], now=now)
    given_back = {
        (invoice.customer, invoice.currency): invoice.total_minor
        - invoice.amount_due_minor
        - sum(prepaid.values())
    }
    await add_balances(connection=connection, changes=given_back)
    return invoice.id
