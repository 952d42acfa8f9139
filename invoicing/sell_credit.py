"""Verb: invoice a customer for the credit that it buys."""

from datetime import datetime, timedelta

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.journal import PREPAID_CREDITS
from engine.money import parse_amount
from invoicing.assembly import Draft, document_ids
from invoicing.credit_store import billed_customer
from invoicing.lines import Line
from invoicing.model import Reason
from invoicing.post import post_drafts
from invoicing.store import last_issued_at
from plans.credit_grant_store import StoredGrant
from plans.credit_grants import CreditPurchase
from plans.model import Seller


async def sell_credit(
    *,
    connection: AsyncConnection,
    seller: Seller,
    grant: StoredGrant,
    purchase: CreditPurchase,
    now: datetime,
) -> StoredGrant:
    """Post the invoice of a purchase; the grant that names it, not written yet.

    The posting lock must be held. Credit is taxed when it is used, so its purchase is not.
    """
    customer = await billed_customer(connection=connection, customer=grant.customer)
    latest = await last_issued_at(connection=connection)
    issued_at = now if latest is None else max(now, latest)
    days = purchase.net_terms_days
    if days is None:
        days = customer.net_terms_days
    terms = timedelta(days=seller.net_terms_days if days is None else days)
    amount = parse_amount(purchase.amount, currency=grant.currency)
    parts, ids = document_ids(
        seller_id=seller.id,
        customer=customer.id,
        billed_at=now,
        currency=grant.currency,
        group="",
        ordinal=grant.id,
    )
    line = Line(
        key=grant.key,
        contract=grant.id,
        amount_minor=amount,
        quantity_nanos=None,
        period=None,
        reason=Reason.INITIAL,
        account=PREPAID_CREDITS,
    )
    draft = Draft(
        parts=parts,
        ids=ids,
        customer=customer,
        currency=grant.currency,
        billed_at=now,
        issued_at=issued_at,
        due_at=issued_at + terms,
        lines=(line,),
        subtotal_minor=amount,
        total_minor=amount,
    )
    await post_drafts(connection=connection, seller=seller, run="", drafts=[draft])
    return msgspec.structs.replace(
        grant,
        purchase_minor=amount,
        purchase_invoice=draft.id,
        available=purchase.available,
    )
