"""Verbs: what a payment had paid is open again, or is paid again after all; and a return."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import DerivedIds, derived_body, new_id
from engine.journal import CASH, Posting
from engine.money import format_amount
from engine.period import local_date
from invoicing.entry_store import tell, write_entry
from invoicing.model import InvoiceStatus
from invoicing.payment_store import LockedPayment, lock_named, lock_payment
from invoicing.payments import Part, PaymentStatus, put_back_postings
from invoicing.receive_payment import settle
from invoicing.refund_store import (
    LockedRefund,
    balance_used_by,
    lock_paid,
    mark_returned,
    move_payment,
    reopen_invoices,
    taken_by,
)
from invoicing.refunds import (
    ReturnDraft,
    Taken,
    reopening_postings,
    take_back,
    taken_postings,
)
from invoicing.store import add_balances, lock_balances, lock_billing
from plans.model import Seller


async def return_payment(
    *,
    connection: AsyncConnection,
    seller: Seller,
    payment: str,
    draft: ReturnDraft,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> None:
    """The bank took the money back: what it paid is open again, what was left of it is gone.

    Invoices that used the balance that it made are open again too, as far as that is not there, the
    last one first. Errors: `not_found`, `already_returned`, `payment_refunded`, `balance_used`.
    """
    await lock_billing(connection=connection, sweep=False)
    found = await lock_payment(connection=connection, payment=payment)
    if found is None:
        raise not_found(noun="payment", reference=payment)
    _refuse_spent(found)
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, payment, "returned")))
    parts, used = await _reopen_all(connection, seller, found, ids, now)
    left = found.credited_minor - sum([part.amount_minor for part in used])
    postings = taken_postings(
        taken=Taken(unapplied_minor=found.unapplied_minor, parts=(*parts, *used)),
        payment=payment,
        customer=found.customer,
        source=payment,
        to_account=CASH,
        credited_minor=left,
    )
    await mark_returned(connection=connection, payment=payment, code=draft.code, now=now)
    posted_on = local_date(at=now, timezone=seller.timezone)
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind="returned",
        source=payment,
        entry_on=posted_on,
        now=now,
        currency=found.currency,
        postings=postings,
    )
    await add_balances(connection=connection, changes={(found.customer, found.currency): -left})
    told = (ids.find("evt"), "payment.returned", payment, found.version + 1)
    await tell(connection=connection, events=[told], now=now)
    act = _act(payment, draft, actor, now, wall_now)
    await record_act(connection=connection, entry=act)


def _act(
    payment: str, draft: ReturnDraft, actor: str, now: datetime, wall_now: datetime
) -> AuditEntry:
    return AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="payment.returned",
        object=payment,
        reason=draft.reason,
        detail={"code": draft.code} if draft.code else {},
    )


async def _reopen_all(
    connection: AsyncConnection,
    seller: Seller,
    payment: LockedPayment,
    ids: DerivedIds,
    now: datetime,
) -> tuple[list[Part], list[Part]]:
    """What of invoices is open again: what the payment had paid, and what used its balance."""
    parts = await lock_paid(connection=connection, payment=payment.id)
    await reopen(
        connection=connection,
        seller=seller,
        payment=payment.id,
        source=payment.id,
        parts=parts,
        ids=ids,
        now=now,
    )
    # Read after the others were written: an invoice may be among both.
    used = await _missing_balance(connection, payment)
    body = derived_body(at=now, parts=(seller.id, payment.id, "balance_returned"))
    await reopen(
        connection=connection,
        seller=seller,
        payment=None,
        source=payment.id,
        parts=used,
        ids=DerivedIds(body=body),
        now=now,
    )
    return parts, used


def _refuse_spent(payment: LockedPayment) -> None:
    if payment.status is PaymentStatus.RETURNED:
        detail = f"the payment {payment.id!r} was returned before"
        raise BillingError("already_returned", detail, kind=ErrorKind.CONFLICT)
    if payment.refunded_minor:
        detail = f"of the payment {payment.id!r} a refund was made: cancel that if it did not go"
        raise BillingError("payment_refunded", detail, kind=ErrorKind.CONFLICT)


async def _missing_balance(connection: AsyncConnection, payment: LockedPayment) -> list[Part]:
    """What of invoices used the balance that the payment made and that is not there any more.

    Error: `balance_used` where it went elsewhere: it was paid out.
    """
    owner = (payment.customer, payment.currency)
    balances = await lock_balances(connection=connection, customers=[payment.customer])
    missing = payment.credited_minor - balances.get(owner, 0)
    if missing <= 0:
        return []
    used = await balance_used_by(
        connection=connection, customer=payment.customer, currency=payment.currency
    )
    taken = take_back(amount_minor=missing, unapplied_minor=0, paid=used)
    if taken.amount_minor < missing:
        gone = format_amount(missing - taken.amount_minor, currency=payment.currency)
        detail = (
            f"{gone} {payment.currency} of the balance that it made were paid out:"
            " cancel the refund if it did not go"
        )
        raise BillingError("balance_used", detail, kind=ErrorKind.CONFLICT)
    return list(taken.parts)


async def reopen(
    *,
    connection: AsyncConnection,
    seller: Seller,
    payment: str | None,
    source: str,
    parts: Sequence[Part],
    ids: DerivedIds,
    now: datetime,
) -> None:
    """What the payment had paid of locked invoices is due again; a write-off of theirs is undone.

    `source` is what takes it back: a refund, or the payment itself. Without `payment` it is what
    the customer's balance had paid.
    """
    if not parts:
        return
    invoice = parts[0].invoice
    undone = reopening_postings(parts=parts, customer=invoice.customer)
    if undone:
        await write_entry(
            connection=connection,
            entry=ids.find("je", 1),
            kind="write_off_undone" if payment is not None else "write_off_undone-balance",
            source=source,
            entry_on=local_date(at=now, timezone=seller.timezone),
            now=now,
            currency=invoice.currency,
            postings=undone,
        )
    numbered = list(enumerate(parts, start=1))
    await reopen_invoices(
        connection=connection,
        payment=payment,
        settlements=[
            (ids.find("stl", ordinal), part.invoice.id, part.amount_minor)
            for ordinal, part in numbered
        ],
        now=now,
    )
    told = [
        (
            ids.find("evt", ordinal + 1),
            "invoice.reopened",
            part.invoice.id,
            part.invoice.version + 1,
        )
        for ordinal, part in numbered
    ]
    await tell(connection=connection, events=told, now=now)


async def put_back(
    *,
    connection: AsyncConnection,
    refund: LockedRefund,
    payment: str,
    ids: DerivedIds,
    now: datetime,
) -> list[Posting]:
    """The refund does not go: its money pays what is still due of what it was taken from.

    Gives the postings; the rest waits as unapplied cash of the payment, which must be locked by
    nobody else: the posting lock is held.
    """
    found = await lock_payment(connection=connection, payment=payment)
    assert found is not None, "a refund names its payment"
    taken = await taken_by(connection=connection, refund=refund.id)
    invoices = await lock_named(connection=connection, references=list(taken))
    parts = [
        Part(invoice=invoice, amount_minor=min(amount, invoice.amount_due_minor))
        for invoice, amount in ((invoices[key], amount) for key, amount in taken.items())
        if invoice.status in {InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE}
        and invoice.amount_due_minor
    ]
    waits = refund.amount_minor - sum([part.amount_minor for part in parts])
    await move_payment(
        connection=connection,
        payment=payment,
        unapplied_minor=waits,
        refunded_minor=-refund.amount_minor,
    )
    told = (ids.find("evt", len(parts) + 1), "payment.refund_cancelled", payment, found.version + 1)
    await tell(connection=connection, events=[told], now=now)
    await settle(connection=connection, payment=payment, parts=parts, ids=ids, now=now)
    return put_back_postings(
        refund=refund.id,
        payment=payment,
        customer=refund.customer,
        parts=parts,
        unapplied_minor=waits,
    )
