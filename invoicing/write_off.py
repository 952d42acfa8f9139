"""Verb: write off an open invoice. It is not expected any more, and may still be paid."""

from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import DerivedIds, derived_body, new_id
from engine.money import format_amount
from engine.period import local_date
from invoicing.enter_held import enter_held
from invoicing.entry_store import tell, write_entry
from invoicing.loss_store import billed_parts, mark_written_off
from invoicing.losses import WriteOffDraft, losses_of, write_off_postings
from invoicing.model import InvoiceStatus
from invoicing.store import lock_billing
from invoicing.void_store import IssuedInvoice, lock_invoice
from plans.model import Seller

_REFUSALS: Final = {
    InvoiceStatus.PAID: ("invoice_paid", "nothing is due of it"),
    InvoiceStatus.VOID: ("invoice_not_open", "it is void"),
    InvoiceStatus.UNCOLLECTIBLE: ("already_written_off", "it was written off before"),
}
_SOLD_CREDIT: Final = "it sold credit: void it, and what was not used of the credit is void too"


async def write_off(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: WriteOffDraft,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Give up what is due of an open invoice (id or number); gives its id.

    What was earned of it, with its tax, is lost; what was not goes back to the contract balances.
    Its lines count as before: no run bills them again. Errors: `not_found`, `invoice_paid`,
    `already_written_off`, `invoice_not_open`, `credit_purchase`.
    """
    await lock_billing(connection=connection, sweep=False)
    invoice = await lock_invoice(connection=connection, reference=reference)
    if invoice is None:
        raise not_found(noun="invoice", reference=reference)
    if invoice.status != InvoiceStatus.OPEN:
        raise _refusal(reference, *_REFUSALS[InvoiceStatus(invoice.status)])
    await enter_held(connection=connection, seller=seller, now=now, invoices=[invoice.id])
    parts = await billed_parts(connection=connection, invoice=invoice.id)
    if parts is None:
        raise _refusal(reference, "credit_purchase", _SOLD_CREDIT)
    version = invoice.version + 1
    step = f"written_off-{version}"
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, invoice.id, step)))
    losses = losses_of(
        parts=parts,
        due_minor=invoice.amount_due_minor,
        at=now,
        timezone=seller.timezone,
        rounding=seller.rounding,
    )
    await mark_written_off(connection=connection, invoice=invoice.id, now=now)
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind=step,
        source=invoice.id,
        entry_on=local_date(at=now, timezone=seller.timezone),
        now=now,
        currency=invoice.currency,
        postings=write_off_postings(losses=losses, customer=invoice.customer, invoice=invoice.id),
    )
    told = (ids.find("evt"), "invoice.written_off", invoice.id, version)
    await tell(connection=connection, events=[told], now=now)
    act = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="invoice.written_off",
        object=invoice.id,
        reason=draft.reason,
        detail=_amount(invoice),
    )
    await record_act(connection=connection, entry=act)
    return invoice.id


def _amount(invoice: IssuedInvoice) -> dict[str, str]:
    amount = format_amount(invoice.amount_due_minor, currency=invoice.currency)
    return {"amount": amount, "currency": invoice.currency}


def _refusal(reference: str, code: str, reason: str) -> BillingError:
    detail = f"the invoice {reference!r} cannot be written off: {reason}"
    return BillingError(code, detail, kind=ErrorKind.CONFLICT)
