"""Verb: make whole documents from what is derived: lines, discounts, credits, tax, totals.

Reads only, so that what is posted and what is previewed come from here alike.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind
from engine.ids import ORDINAL_MAX
from invoicing.assembly import Draft, assemble
from invoicing.complete_drafts import complete_drafts
from invoicing.derive import Derived
from invoicing.draft_store import waiting_edits
from invoicing.drafts import with_edits
from invoicing.store import document_counts, last_issued_at
from plans.model import Seller


async def prepare(
    *,
    connection: AsyncConnection,
    seller: Seller,
    as_of: datetime,
    derived: Sequence[Derived],
) -> list[Draft]:
    """The documents of what is derived, complete but for their numbers and what settles them.

    They follow the order given. Error: `too_many_lines`. Raises TaxUnknownError
    where a tax provider is to be asked first.
    """
    issued_at = await issue_instant(connection=connection, as_of=as_of)
    counts = await document_counts(
        connection=connection,
        customers=[item.due.customer.id for item in derived],
        instants=list({item.due.due_at for item in derived}),
    )
    drafts: list[Draft] = []
    for item in derived:
        drafts.extend(
            assemble(
                seller_id=seller.id,
                customer=item.due.customer,
                billed_at=item.due.due_at,
                issued_at=issued_at,
                default_terms_days=seller.net_terms_days,
                ordinal=counts.get((item.due.customer.id, item.due.due_at), 0),
                differences=item.differences,
            )
        )
        if len(item.differences) > ORDINAL_MAX - 2:
            message = f"{len(item.differences)} lines do not fit one document"
            raise BillingError("too_many_lines", message, kind=ErrorKind.INVALID)
    edits = await waiting_edits(
        connection=connection, customers=[item.due.customer.id for item in derived]
    )
    if edits:
        drafts = with_edits(drafts, edits)
    return await complete_drafts(connection=connection, seller=seller, drafts=drafts)


async def issue_instant(*, connection: AsyncConnection, as_of: datetime) -> datetime:
    """When documents of now are issued: never before one that is there."""
    latest = await last_issued_at(connection=connection)
    return as_of if latest is None else max(as_of, latest)
