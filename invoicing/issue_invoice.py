"""Verb: issue an invoice that was written by hand."""

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.assembly import Draft, document_ids, summed
from invoicing.bill_to_store import bill_to
from invoicing.complete_drafts import complete_drafts
from invoicing.one_off import OneOffDraft, enter_by, one_off_errors, one_off_lines
from invoicing.post import post_drafts
from invoicing.store import document_counts, last_issued_at, lock_billing
from plans.catalog import refuse_invalid
from plans.model import Seller
from plans.tax_rate_store import every_tax_rate


async def issue_invoice(
    *, connection: AsyncConnection, seller: Seller, draft: OneOffDraft, now: datetime
) -> str:
    """Number, tax and post the invoice; gives its id. Error: `invalid_body`.

    It goes to whoever pays for the customer, in the customer's invoice group; balance and credits
    pay of it like of any other. Raises TaxUnknownError where a tax provider is to be asked first.
    """
    found = await bill_to(connection=connection, reference=draft.customer)
    customer = found.customer
    currency = draft.currency or found.currency or seller.currency
    every = await every_tax_rate(connection=connection)
    rates = {rate.key: rate for rate in every if rate.archived_at is None}
    refuse_invalid(one_off_errors(draft, currency=currency, now=now, rates=rates))
    await lock_billing(connection=connection, sweep=False)
    counts = await document_counts(connection=connection, customers=[customer.id], instants=[now])
    parts, ids = document_ids(
        seller_id=seller.id,
        customer=customer.id,
        billed_at=now,
        currency=currency,
        group=found.invoice_group,
        ordinal=f"by hand {counts.get((customer.id, now), 0)}",
    )
    latest = await last_issued_at(connection=connection)
    issued_at = now if latest is None else max(now, latest)
    terms = (draft.net_terms_days, customer.net_terms_days, seller.net_terms_days)
    days = next((days for days in terms if days is not None), 0)
    held_until = enter_by(draft)
    if draft.po_number is not None:
        customer = msgspec.structs.replace(customer, po_number=draft.po_number)
    made = summed(
        Draft(
            parts=parts,
            ids=ids,
            customer=customer,
            currency=currency,
            billed_at=now,
            issued_at=issued_at,
            due_at=draft.due_at or issued_at + timedelta(days=days),
            lines=one_off_lines(
                draft, currency=currency, rounding=seller.rounding, customer=found.child
            ),
            group=found.invoice_group,
            enter_by_at=held_until if held_until is not None and held_until > issued_at else None,
            subtotal_minor=0,
            total_minor=0,
        )
    )
    (made,) = await complete_drafts(connection=connection, seller=seller, drafts=[made])
    await post_drafts(connection=connection, seller=seller, run="", drafts=[made])
    return made.id
