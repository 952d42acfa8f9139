"""Verb: show documents that wait for their grace to end, as they would be posted by now.

A draft is not stored: it is what posting makes of its due instant, looked at and rolled back.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Final, Literal

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.blame import is_of_an_account
from invoicing.derive import late_usage
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.draft_store import WaitingDraft, waiting_drafts
from invoicing.model import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus
from invoicing.rehearse import RUN, StaleDerivationError, keeps_changing, mark_late, post_on_trial
from invoicing.run_report_store import list_posted
from invoicing.store import customer_names
from plans.model import Seller

PORTION: Final = 50
MOST: Final = 10_000


async def show_drafts(
    *,
    connection: AsyncConnection,
    seller: Seller,
    now: datetime,
    kind: Literal["inv", "cn"] | None,
    limit: int,
    after: str | None = None,
    reference: str | None = None,
    customer: str | None = None,
) -> list[Invoice | CreditNote]:
    """Up to `limit` drafts in the order of posting, invoices or credit notes alone or both.

    `after` (id) begins behind a draft, `reference` (id) names the only one wanted. A customer that
    cannot be derived shows none.
    """
    waiting = await waiting_drafts(connection=connection, seller=seller, now=now, customer=customer)
    bodies = [one.body for one in waiting]
    if after is not None and body_of(after) in bodies:
        waiting = waiting[bodies.index(body_of(after)) + 1 :]
    if reference is not None:
        waiting = [one for one in waiting if one.body == body_of(reference)]
    wanted = {one.body: place for place, one in enumerate(waiting)}
    found: list[Invoice | CreditNote] = []
    for due_at, same in groupby(waiting, key=lambda one: one.due_at):
        customers = list(dict.fromkeys(one.customer for one in same))
        for begin in range(0, len(customers), PORTION):
            shown = await _shown(
                connection, seller, customers[begin : begin + PORTION], due_at=due_at
            )
            fresh = [
                each
                for each in shown
                if body_of(each.id) in wanted and kind in {None, each.id.partition("_")[0]}
            ]
            found += sorted(fresh, key=lambda each: wanted[body_of(each.id)])
            if len(found) >= limit:
                return found[:limit]
    return found


def body_of(reference: str) -> str:
    """The part of an id that is the same whether the sum makes an invoice or a credit note."""
    return reference.partition("_")[2]


async def find_draft(
    *, connection: AsyncConnection, seller: Seller, now: datetime, reference: str
) -> tuple[WaitingDraft, Invoice | CreditNote] | None:
    """The draft of that id with what is known of it, whichever kind it is by now."""
    shown = await show_drafts(
        connection=connection, seller=seller, now=now, kind=None, limit=1, reference=reference
    )
    for one in await waiting_drafts(connection=connection, seller=seller, now=now):
        if shown and one.body == body_of(reference):
            return one, shown[0]
    return None


async def _shown(
    connection: AsyncConnection,
    seller: Seller,
    customers: Sequence[str],
    *,
    due_at: datetime,
    attempt: int = 0,
) -> list[Invoice | CreditNote]:
    """The documents of customers at an instant; halves what fails until one is left out."""
    try:
        return await _rehearsed(connection, seller, customers, due_at=due_at)
    except StaleDerivationError:
        keeps_changing(attempt)
        return await _shown(connection, seller, customers, due_at=due_at, attempt=attempt + 1)
    except Exception as error:
        if not is_of_an_account(error):
            raise
    middle = len(customers) // 2
    if not middle:
        return []
    return [
        document
        for half in (customers[:middle], customers[middle:])
        for document in await _shown(connection, seller, half, due_at=due_at)
    ]


async def _rehearsed(
    connection: AsyncConnection, seller: Seller, customers: Sequence[str], *, due_at: datetime
) -> list[Invoice | CreditNote]:
    async with connection.begin_nested() as trial:
        late = await late_usage(connection=connection)
        names = await customer_names(
            connection=connection, after=None, limit=len(customers), customers=customers
        )
        mine = {number for name in names for number in name.numbers}
        await mark_late(
            connection=connection,
            late={number: micros for number, micros in late.items() if number in mine},
        )
        await post_on_trial(
            connection=connection,
            seller=seller,
            as_of=due_at + seller.grace,
            due_by=due_at,
            customers=customers,
            pending=False,
        )
        found = await _read(connection)
        await trial.rollback()
    return found


async def _read(connection: AsyncConnection) -> list[Invoice | CreditNote]:
    found: list[Invoice | CreditNote] = []
    for each in await list_posted(connection=connection, run=RUN, limit=MOST):
        if each.kind == "invoice":
            (invoice,) = await list_invoices(connection=connection, limit=1, reference=each.number)
            status = InvoiceStatus.DRAFT
            found.append(msgspec.structs.replace(invoice, status=status, number=None))
        else:
            (note,) = await list_credit_notes(connection=connection, limit=1, reference=each.number)
            found.append(msgspec.structs.replace(note, status=CreditNoteStatus.DRAFT, number=None))
    return found
