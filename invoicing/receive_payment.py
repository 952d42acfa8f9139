"""Verbs: record money that came in, and match money that waits."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, not_found
from engine.ids import DerivedIds, derived_body, new_id
from engine.money import parse_amount
from engine.period import local_date
from invoicing.bill_to_store import bill_to
from invoicing.enter_held import enter_held
from invoicing.entry_store import tell, write_entry
from invoicing.payment_store import (
    insert_payment,
    lock_named,
    lock_oldest_due,
    lock_payment,
    settle_invoices,
    take_unapplied,
)
from invoicing.payments import (
    AllocateDraft,
    AllocationDraft,
    Part,
    PaymentDraft,
    allocate_oldest,
    allocation_postings,
    amount_errors,
    named_parts,
    receipt_postings,
)
from invoicing.store import add_balances, lock_billing, reduce_invoices
from plans.catalog import refuse_invalid
from plans.model import Seller


async def receive_payment(
    *,
    connection: AsyncConnection,
    seller: Seller,
    draft: PaymentDraft,
    now: datetime,
    wall_now: datetime,
) -> str:
    """Record a payment and settle what it pays; gives its id. Error: `invalid_body`."""
    customer = (await bill_to(connection=connection, reference=draft.customer)).named
    amount = _amount(draft)
    await lock_billing(connection=connection, sweep=False)
    parts = await _parts(
        connection,
        seller,
        draft.allocations,
        amount_minor=amount,
        currency=draft.currency,
        customer=customer,
        now=now,
    )
    left = amount - sum([part.amount_minor for part in parts])
    credited = left if parts else 0
    rest = {"credited_minor": credited, "unapplied_minor": left - credited}
    payment = new_id(prefix="pay", now=wall_now)
    await insert_payment(
        connection=connection,
        row={
            "id": payment,
            "customer": customer,
            "currency": draft.currency,
            "amount_minor": amount,
            "method": draft.method.value,
            "reference": draft.reference,
            **rest,
            "received_at": now,
        },
    )
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, payment, "received")))
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind="received",
        source=payment,
        entry_on=local_date(at=now, timezone=seller.timezone),
        now=now,
        currency=draft.currency,
        postings=receipt_postings(
            payment=payment,
            customer=customer,
            amount_minor=amount,
            parts=parts,
            **rest,
        ),
    )
    await add_balances(connection=connection, changes={(customer, draft.currency): credited})
    told = (ids.find("evt"), "payment.received", payment, 1)
    await tell(connection=connection, events=[told], now=now)
    await settle(connection=connection, payment=payment, parts=parts, ids=ids, now=now)
    return payment


def _amount(draft: PaymentDraft) -> int:
    refuse_invalid(amount_errors(draft.amount, currency=draft.currency))
    return parse_amount(draft.amount, currency=draft.currency)


async def allocate_payment(
    *,
    connection: AsyncConnection,
    seller: Seller,
    payment: str,
    draft: AllocateDraft,
    now: datetime,
) -> None:
    """Match unapplied money with invoices.

    Errors: `not_found`, `nothing_to_allocate`, `invalid_body`.
    """
    await lock_billing(connection=connection, sweep=False)
    found = await lock_payment(connection=connection, payment=payment)
    if found is None:
        raise not_found(noun="payment", reference=payment)
    parts = await _parts(
        connection,
        seller,
        draft.allocations,
        amount_minor=found.unapplied_minor,
        currency=found.currency,
        customer=found.customer,
        now=now,
    )
    taken = sum(part.amount_minor for part in parts)
    if not taken:
        detail = f"the payment {payment!r} has nothing that waits, or no invoice is open"
        raise BillingError("nothing_to_allocate", detail, kind=ErrorKind.CONFLICT)
    version = found.version + 1
    await take_unapplied(connection=connection, payment=payment, applied_minor=taken)
    ids = DerivedIds(body=derived_body(at=now, parts=(seller.id, payment, version)))
    await write_entry(
        connection=connection,
        entry=ids.find("je"),
        kind=f"allocated-{version}",
        source=payment,
        entry_on=local_date(at=now, timezone=seller.timezone),
        now=now,
        currency=found.currency,
        postings=allocation_postings(payment=payment, customer=found.customer, parts=parts),
    )
    told = (ids.find("evt"), "payment.allocated", payment, version)
    await tell(connection=connection, events=[told], now=now)
    await settle(connection=connection, payment=payment, parts=parts, ids=ids, now=now)


async def _parts(
    connection: AsyncConnection,
    seller: Seller,
    allocations: Sequence[AllocationDraft] | None,
    *,
    amount_minor: int,
    currency: str,
    customer: str,
    now: datetime,
) -> list[Part]:
    """What each invoice takes of the money, the invoices locked, and in the books from now on."""
    parts = await _allocated(
        connection, allocations, amount_minor=amount_minor, currency=currency, customer=customer
    )
    named = [part.invoice.id for part in parts]
    await enter_held(connection=connection, seller=seller, now=now, invoices=named)
    return parts


async def _allocated(
    connection: AsyncConnection,
    allocations: Sequence[AllocationDraft] | None,
    *,
    amount_minor: int,
    currency: str,
    customer: str,
) -> list[Part]:
    """What each invoice takes of the money, the invoices locked."""
    if allocations is None:
        payable = await lock_oldest_due(connection=connection, customer=customer, currency=currency)
        return allocate_oldest(amount_minor=amount_minor, payable=payable)
    named = [each.invoice for each in allocations]
    parts, errors = named_parts(
        allocations=allocations,
        amount_minor=amount_minor,
        currency=currency,
        customer=customer,
        payable=await lock_named(connection=connection, references=named),
    )
    refuse_invalid(errors)
    return parts


async def settle(
    *,
    connection: AsyncConnection,
    payment: str,
    parts: Sequence[Part],
    ids: DerivedIds,
    now: datetime,
) -> None:
    """Locked invoices take what the payment pays of them."""
    if not parts:
        return
    await settle_invoices(
        connection=connection,
        payment=payment,
        settlements=[
            (ids.find("stl", ordinal), part.invoice.id, part.amount_minor)
            for ordinal, part in enumerate(parts, start=1)
        ],
        now=now,
    )
    await reduce_invoices(
        connection=connection,
        reductions=[(part.invoice.id, part.amount_minor, now) for part in parts],
    )
    events: list[tuple[str, str, str, int]] = []
    for ordinal, part in enumerate(parts, start=1):
        invoice = part.invoice
        whole = part.amount_minor == invoice.amount_due_minor
        kind = "invoice.paid" if whole else "invoice.partially_paid"
        events.append((ids.find("evt", ordinal), kind, invoice.id, invoice.version + 1))
    await tell(connection=connection, events=events, now=now)
