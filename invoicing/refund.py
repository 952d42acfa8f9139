"""Verbs: decide that money goes back, confirm that it went, or that it will not."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, FieldError, not_found
from engine.ids import DerivedIds, derived_body, new_id
from engine.journal import REFUNDS_PAYABLE, Posting
from engine.money import format_amount, parse_amount
from engine.period import local_date
from invoicing.bill_to_store import bill_to
from invoicing.entry_store import tell, write_entry
from invoicing.payment_store import LockedPayment, lock_payment
from invoicing.payments import Part, PaymentStatus, amount_errors
from invoicing.refund_store import (
    LockedRefund,
    end_refund,
    insert_refund,
    lock_paid,
    lock_refund,
    money_left,
    move_payment,
)
from invoicing.refunds import (
    RefundDraft,
    RefundSource,
    RefundStatus,
    RefundStep,
    Taken,
    confirmed_postings,
    refund_postings,
    take_back,
    taken_postings,
)
from invoicing.store import add_balances, lock_balances, lock_billing
from invoicing.take_back import put_back, reopen
from plans.catalog import refuse_invalid
from plans.model import Seller


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Who acts on a refund, for which seller, when and why. `connection` is its transaction."""

    connection: AsyncConnection
    seller: Seller
    actor: str
    reason: str | None
    now: datetime
    wall_now: datetime

    def ids(self, refund: str, step: str) -> DerivedIds:
        """The ids of what a step of the refund writes."""
        return DerivedIds(body=derived_body(at=self.now, parts=(self.seller.id, refund, step)))


async def refund(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: RefundDraft,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Decide a refund of a payment or of a balance; gives its id.

    Errors: `invalid_body`, `nothing_to_refund`, `payment_returned`.
    """
    act = Act(
        connection=connection,
        seller=seller,
        actor=actor,
        reason=draft.reason,
        now=now,
        wall_now=wall_now,
    )
    await lock_billing(connection=connection, sweep=False)
    _refuse_unclear(draft)
    identity = new_id(prefix="ref", now=wall_now)
    ids = act.ids(identity, "decided")
    of = _of_balance if draft.payment is None else _of_payment
    made, postings = await of(act, draft, identity, ids)
    await _enter(act, made, "refund_decided", postings, ids)
    await _tell(act, made, "created", ids)
    if draft.confirmed:
        await _confirm(act, made)
    return identity


async def confirm_refund(
    *,
    connection: AsyncConnection,
    seller: Seller,
    refund: str,
    step: RefundStep,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> None:
    """The money went. Errors: `not_found`, `refund_not_pending`."""
    act = Act(
        connection=connection,
        seller=seller,
        actor=actor,
        reason=step.reason,
        now=now,
        wall_now=wall_now,
    )
    await lock_billing(connection=connection, sweep=False)
    await _confirm(act, await _pending(connection, refund))


async def cancel_refund(
    *,
    connection: AsyncConnection,
    seller: Seller,
    refund: str,
    step: RefundStep,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> None:
    """The money will not go: it is balance again, or pays what is still due of what it had paid.

    What is not due any more waits as unapplied cash. Errors: `not_found`, `refund_not_pending`,
    `refund_of_credit_note`.
    """
    act = Act(
        connection=connection,
        seller=seller,
        actor=actor,
        reason=step.reason,
        now=now,
        wall_now=wall_now,
    )
    await lock_billing(connection=connection, sweep=False)
    found = await _pending(connection, refund)
    if found.source is RefundSource.CREDIT_NOTE:
        detail = f"the refund {refund!r} is owed by a credit note: void that"
        raise BillingError("refund_of_credit_note", detail, kind=ErrorKind.CONFLICT)
    ids = act.ids(refund, "cancelled")
    if found.payment is not None:
        postings = await put_back(
            connection=connection, refund=found, payment=found.payment, ids=ids, now=now
        )
    else:
        postings = refund_postings(
            refund=refund, customer=found.customer, amount_minor=found.amount_minor, back=True
        )
        changes = {(found.customer, found.currency): found.amount_minor}
        await add_balances(connection=connection, changes=changes)
    await end_refund(connection=connection, refund=refund, status=RefundStatus.VOID, now=now)
    await _enter(act, found, "refund_cancelled", postings, ids)
    await _tell(act, msgspec.structs.replace(found, version=found.version + 1), "cancelled", ids)


async def _confirm(act: Act, found: LockedRefund) -> None:
    postings = confirmed_postings(
        refund=found.id, customer=found.customer, amount_minor=found.amount_minor
    )
    ids = act.ids(found.id, "confirmed")
    await end_refund(
        connection=act.connection, refund=found.id, status=RefundStatus.SUCCEEDED, now=act.now
    )
    await _enter(act, found, "refund_confirmed", postings, ids)
    await _tell(act, msgspec.structs.replace(found, version=found.version + 1), "confirmed", ids)


def _refuse_unclear(draft: RefundDraft) -> None:
    errors: list[FieldError] = []
    if (draft.payment is None) == (draft.customer is None):
        detail = "either the `payment` to refund, or the `customer` whose balance"
        errors.append(FieldError(pointer="/payment", code="invalid", detail=detail))
    elif draft.payment is None and draft.invoice is not None:
        detail = "an invoice is named with the payment that paid it"
        errors.append(FieldError(pointer="/invoice", code="invalid", detail=detail))
    refuse_invalid(errors)


async def _of_payment(
    act: Act, draft: RefundDraft, identity: str, ids: DerivedIds
) -> tuple[LockedRefund, list[Posting]]:
    connection = act.connection
    found = await lock_payment(connection=connection, payment=draft.payment or "")
    if found is None:
        detail = f"there is no payment {draft.payment!r}"
        refuse_invalid([FieldError(pointer="/payment", code="unknown_payment", detail=detail)])
    assert found is not None, "a payment that is none was refused"
    if found.status is PaymentStatus.RETURNED:
        detail = f"the payment {found.id!r} was returned: nothing of it is left"
        raise BillingError("payment_returned", detail, kind=ErrorKind.CONFLICT)
    if draft.currency not in {None, found.currency}:
        detail = f"the payment is in {found.currency}"
        refuse_invalid([FieldError(pointer="/currency", code="currency_mismatch", detail=detail)])
    taken = await _taken(connection, found, draft)
    owner = (found.customer, found.currency)
    made = await _insert(act, draft, identity, owner, taken.amount_minor)
    await reopen(
        connection=connection,
        seller=act.seller,
        payment=found.id,
        source=identity,
        parts=taken.parts,
        ids=ids,
        now=act.now,
    )
    await move_payment(
        connection=connection,
        payment=found.id,
        unapplied_minor=-taken.unapplied_minor,
        refunded_minor=taken.amount_minor,
    )
    told = (ids.find("evt", 1), "payment.refunded", found.id, found.version + 1)
    await tell(connection=connection, events=[told], now=act.now)
    return made, taken_postings(
        taken=taken,
        payment=found.id,
        customer=found.customer,
        source=identity,
        to_account=REFUNDS_PAYABLE,
    )


async def _taken(connection: AsyncConnection, payment: LockedPayment, draft: RefundDraft) -> Taken:
    """What the refund takes of the payment: never what a credit note gave back as money."""
    paid = await lock_paid(connection=connection, payment=payment.id)
    waits = payment.unapplied_minor
    if draft.invoice is not None:
        paid = [p for p in paid if draft.invoice in {p.invoice.id, p.invoice.number}]
        waits = 0
        if not paid:
            detail = f"the payment pays nothing of an invoice {draft.invoice!r}"
            refuse_invalid([FieldError(pointer="/invoice", code="unknown_invoice", detail=detail)])
    invoices = [part.invoice.id for part in paid]
    money = await money_left(connection=connection, invoices=invoices)
    free = [
        Part(invoice=part.invoice, amount_minor=min(part.amount_minor, money[part.invoice.id]))
        for part in paid
    ]
    left = waits + sum([part.amount_minor for part in free])
    amount = _wanted(draft, currency=payment.currency, left_minor=left, of="payment")
    return take_back(amount_minor=amount, unapplied_minor=waits, paid=free)


async def _of_balance(
    act: Act, draft: RefundDraft, identity: str, ids: DerivedIds
) -> tuple[LockedRefund, list[Posting]]:
    del ids
    connection = act.connection
    found = await bill_to(connection=connection, reference=draft.customer or "")
    currency = draft.currency or found.currency or act.seller.currency
    owner = (found.named, currency)
    balances = await lock_balances(connection=connection, customers=[found.named])
    amount = _wanted(draft, currency=currency, left_minor=balances.get(owner, 0), of="balance")
    made = await _insert(act, draft, identity, owner, amount)
    await add_balances(connection=connection, changes={owner: -amount})
    return made, refund_postings(
        refund=identity, customer=found.named, amount_minor=amount, back=False
    )


def _wanted(draft: RefundDraft, *, currency: str, left_minor: int, of: str) -> int:
    """The amount asked for, or all; never more than there is."""
    if draft.amount is not None:
        refuse_invalid(amount_errors(draft.amount, currency=currency))
        amount = parse_amount(draft.amount, currency=currency)
        if amount > left_minor:
            told = format_amount(left_minor, currency=currency)
            detail = f"{told} {currency} can be refunded of the {of}"
            error = FieldError(pointer="/amount", code=f"exceeds_{of}", detail=detail)
            refuse_invalid([error])
        return amount
    if not left_minor:
        detail = f"nothing in {currency} can be refunded of the {of}"
        raise BillingError("nothing_to_refund", detail, kind=ErrorKind.CONFLICT)
    return left_minor


async def _insert(
    act: Act, draft: RefundDraft, identity: str, owner: tuple[str, str], amount_minor: int
) -> LockedRefund:
    """`owner` is the customer (id) and the currency."""
    made = LockedRefund(
        id=identity,
        customer=owner[0],
        currency=owner[1],
        amount_minor=amount_minor,
        source=RefundSource.CUSTOMER_BALANCE if draft.payment is None else RefundSource.PAYMENT,
        payment=draft.payment,
        status=RefundStatus.PENDING,
        version=1,
    )
    row = msgspec.structs.asdict(made) | {"source": made.source.value, "now": act.now}
    await insert_refund(connection=act.connection, row=row | {"reference": draft.reference})
    return made


async def _pending(connection: AsyncConnection, refund: str) -> LockedRefund:
    found = await lock_refund(connection=connection, refund=refund)
    if found is None:
        raise not_found(noun="refund", reference=refund)
    if found.status is not RefundStatus.PENDING:
        detail = f"the refund {refund!r} is {found.status.value}"
        raise BillingError("refund_not_pending", detail, kind=ErrorKind.CONFLICT)
    return found


async def _enter(
    act: Act, refund: LockedRefund, kind: str, postings: Sequence[Posting], ids: DerivedIds
) -> None:
    await write_entry(
        connection=act.connection,
        entry=ids.find("je"),
        kind=kind,
        source=refund.id,
        entry_on=local_date(at=act.now, timezone=act.seller.timezone),
        now=act.now,
        currency=refund.currency,
        postings=postings,
    )


async def _tell(act: Act, refund: LockedRefund, step: str, ids: DerivedIds) -> None:
    """The outside world hears of the step, and the audit log keeps who took it."""
    told = (ids.find("evt"), f"refund.{step}", refund.id, refund.version)
    await tell(connection=act.connection, events=[told], now=act.now)
    amount = format_amount(refund.amount_minor, currency=refund.currency)
    entry = AuditEntry(
        id=new_id(prefix="aud", now=act.wall_now),
        at=act.now,
        actor=act.actor,
        action=f"refund.{step}",
        object=refund.id,
        reason=act.reason,
        detail={"amount": amount, "currency": refund.currency},
    )
    await record_act(connection=act.connection, entry=entry)
