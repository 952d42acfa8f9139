"""Verb: credit lines of an invoice by hand."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, invalid_field
from engine.ids import new_id
from engine.money import format_amount
from invoicing.assembly import Draft, document_ids, summed
from invoicing.conditions import complete
from invoicing.conditions_store import load_conditions
from invoicing.credit_note_store import creditable_lines
from invoicing.credit_notes import CreditNoteDraft, Settlement, credit_errors, credit_lines
from invoicing.credit_store import billed_customer
from invoicing.draft_store import waiting_drafts
from invoicing.enter_held import enter_held
from invoicing.model import InvoiceStatus
from invoicing.post import post_drafts
from invoicing.refund_store import money_left
from invoicing.show_drafts import body_of
from invoicing.store import document_counts, last_issued_at, lock_billing
from invoicing.void_store import IssuedInvoice, lock_invoice
from plans.catalog import refuse_invalid
from plans.model import Seller

_REFUSALS: Final = {
    InvoiceStatus.VOID: ("invoice_void", "it is void: nothing of it is owed"),
    InvoiceStatus.UNCOLLECTIBLE: ("invoice_uncollectible", "it was written off"),
}


async def issue_credit_note(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: CreditNoteDraft,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Number, tax and post the credit note, and tell the audit log; gives its id.

    It reduces what is open of the invoice; the rest is customer balance, or is paid back as far as
    payments paid the invoice. Errors: `invalid_body`, `invoice_void`, `invoice_uncollectible`,
    `not_issued`.
    """
    # A run that derived before this must derive again: what it gives back may be credited here.
    await lock_billing(connection=connection, sweep=True)
    invoice = await _invoice(connection, seller, draft.invoice, now)
    await enter_held(connection=connection, seller=seller, now=now, invoices=[invoice.id])
    lines = await creditable_lines(
        connection=connection, invoice=invoice.id, lines=[each.line for each in draft.lines]
    )
    refuse_invalid(credit_errors(draft, currency=invoice.currency, lines=lines))
    made = await _draft(connection, seller, draft, invoice, now)
    made = summed(
        msgspec.structs.replace(
            made, lines=credit_lines(draft, currency=invoice.currency, lines=lines)
        )
    )
    conditions = await load_conditions(connection=connection, seller=seller, drafts=[made])
    if conditions is not None:
        made = complete(made, conditions)
    await post_drafts(connection=connection, seller=seller, run="", drafts=[made])
    total = format_amount(-made.total_minor, currency=invoice.currency)
    entry = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="credit_note.issued",
        object=made.id,
        reason=draft.memo or draft.reason.value,
        detail={
            "invoice": invoice.id,
            "reason": draft.reason.value,
            "settle": draft.settle.value,
            "total": total,
        },
    )
    await record_act(connection=connection, entry=entry)
    return made.id


async def _invoice(
    connection: AsyncConnection, seller: Seller, reference: str, now: datetime
) -> IssuedInvoice:
    """The invoice, locked, if it can be credited."""
    found = await lock_invoice(connection=connection, reference=reference)
    if found is None:
        every = await waiting_drafts(connection=connection, seller=seller, now=now)
        if any(one.body == body_of(reference) for one in every):
            detail = f"{reference!r} is a draft: add a line to it instead"
            raise BillingError("not_issued", detail, kind=ErrorKind.CONFLICT)
        detail = f"no invoice {reference!r}"
        raise invalid_field(pointer="/invoice", code="unknown_invoice", detail=detail)
    refusal = _REFUSALS.get(InvoiceStatus(found.status))
    if refusal is not None:
        code, reason = refusal
        detail = f"the invoice {reference!r} cannot be credited: {reason}"
        raise BillingError(code, detail, kind=ErrorKind.CONFLICT)
    return found


async def _draft(
    connection: AsyncConnection,
    seller: Seller,
    draft: CreditNoteDraft,
    invoice: IssuedInvoice,
    now: datetime,
) -> Draft:
    """The note without its lines: whom it goes to, when, and what of it may be money."""
    customer = await billed_customer(connection=connection, customer=invoice.customer)
    counts = await document_counts(connection=connection, customers=[customer.id], instants=[now])
    parts, ids = document_ids(
        seller_id=seller.id,
        customer=customer.id,
        billed_at=now,
        currency=invoice.currency,
        group="",
        ordinal=f"by hand {counts.get((customer.id, now), 0)}",
    )
    latest = await last_issued_at(connection=connection)
    issued_at = now if latest is None else max(now, latest)
    refund_minor = 0
    if draft.settle is Settlement.REFUND:
        free = await money_left(connection=connection, invoices=[invoice.id])
        refund_minor = free[invoice.id]
    return Draft(
        parts=parts,
        ids=ids,
        customer=msgspec.structs.replace(customer, po_number=invoice.po_number),
        currency=invoice.currency,
        billed_at=now,
        issued_at=issued_at,
        due_at=issued_at,
        lines=(),
        reason=draft.reason.value,
        invoice=invoice.id,
        refund_minor=refund_minor,
        subtotal_minor=0,
        total_minor=0,
    )
