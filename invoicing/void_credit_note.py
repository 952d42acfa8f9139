"""Verb: void a credit note that was written by hand. Its entry is mirrored today."""

from datetime import datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import DerivedIds, derived_body, new_id
from engine.period import local_date
from invoicing.credit_note_store import (
    IssuedNote,
    StandingRefund,
    lock_note,
    lock_refund,
    mark_note_void,
    mark_refund_void,
    reopen_invoice,
)
from invoicing.credit_notes import CreditNoteVoid
from invoicing.entry_store import tell, write_entry
from invoicing.model import CreditNoteStatus
from invoicing.store import add_balances, lock_balances, lock_billing
from invoicing.void_store import IssuedInvoice, issued_postings, lock_invoice
from plans.model import Seller

_PAID_OUT: Final = "succeeded"


async def void_credit_note(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: CreditNoteVoid,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Take back a note (id or number); gives its id. What it reduced of its invoice is open again.

    Errors: `not_found`, `not_by_hand`, `already_void`, `balance_used`, `refund_paid`,
    `invoice_uncollectible`.
    """
    # A run that derived before this must derive again: to it the note counted.
    await lock_billing(connection=connection, sweep=True)
    note = await lock_note(connection=connection, reference=reference)
    if note is None:
        raise not_found(noun="credit note", reference=reference)
    if note.invoice is None:
        raise _refusal("not_by_hand", note, "it follows from the facts, and billing gave it")
    if note.status == CreditNoteStatus.VOID:
        raise _refusal("already_void", note, "it was voided before")
    invoice = await lock_invoice(connection=connection, reference=note.invoice)
    assert invoice is not None, "a note by hand names its invoice"
    refund = await lock_refund(connection=connection, note=note.id)
    await _refuse_used(connection, note, invoice, refund)
    await _take_back(connection, seller, now, note=note, invoice=invoice, refund=refund)
    entry = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="credit_note.voided",
        object=note.id,
        reason=draft.reason,
        detail={"invoice": invoice.id},
    )
    await record_act(connection=connection, entry=entry)
    return note.id


async def _take_back(
    connection: AsyncConnection,
    seller: Seller,
    now: datetime,
    *,
    note: IssuedNote,
    invoice: IssuedInvoice,
    refund: StandingRefund | None,
) -> None:
    """The mirror of the note's entry, and of what it settled, credited and refunded."""
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, note.id, "voided")))
    issued = await issued_postings(connection=connection, invoice=note.id)
    await mark_note_void(connection=connection, note=note.id, now=now)
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind="voided",
        source=note.id,
        entry_on=local_date(at=now, timezone=seller.timezone),
        now=now,
        currency=note.currency,
        postings=[
            msgspec.structs.replace(posting, amount_minor=-posting.amount_minor)
            for posting in issued
        ],
    )
    owner = (note.customer, note.currency)
    await add_balances(connection=connection, changes={owner: -note.credited_minor})
    told = [(ids.find("evt"), "credit_note.voided", note.id, note.version + 1)]
    if note.applied_minor:
        await reopen_invoice(
            connection=connection,
            settlement=ids.find("stl"),
            invoice=invoice.id,
            note=note.id,
            amount_minor=note.applied_minor,
            now=now,
        )
        told.append((ids.find("evt", 1), "invoice.reopened", invoice.id, invoice.version + 1))
    if refund is not None:
        await mark_refund_void(connection=connection, refund=refund.id)
        told.append((ids.find("evt", 2), "refund.voided", refund.id, refund.version + 1))
    await tell(connection=connection, events=told, now=now)


async def _refuse_used(
    connection: AsyncConnection,
    note: IssuedNote,
    invoice: IssuedInvoice,
    refund: StandingRefund | None,
) -> None:
    """What the note gave must still be there to be taken back."""
    if note.applied_minor and invoice.written_off_at is not None:
        reason = "what it reduced of its invoice would be open, and that was written off"
        raise _refusal("invoice_uncollectible", note, reason)
    if refund is not None and refund.status == _PAID_OUT:
        raise _refusal("refund_paid", note, "its refund was paid out")
    balances = await lock_balances(connection=connection, customers=[note.customer])
    if balances.get((note.customer, note.currency), 0) < note.credited_minor:
        raise _refusal("balance_used", note, "the balance that it gave was used")


def _refusal(code: str, note: IssuedNote, reason: str) -> BillingError:
    detail = f"the credit note {note.number!r} cannot be voided: {reason}"
    return BillingError(code, detail, kind=ErrorKind.CONFLICT)
