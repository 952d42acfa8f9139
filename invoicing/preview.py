"""Verb: show the documents that a customer is to get, as agreed or with something else agreed."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.database_errors import anticipated
from engine.db import Database
from engine.errors import BillingError, FieldError, invalid_field
from invoicing.ask_taxes import answer_every_tax
from invoicing.derive import late_usage
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.model import CreditNote, Invoice, LineItem
from invoicing.rehearsal import UNNAMED, Preview, PreviewDraft
from invoicing.rehearse import (
    RUN,
    StaleDerivationError,
    keeps_changing,
    mark_late,
    on_trial,
    post_on_trial,
)
from invoicing.run_report_store import list_posted
from invoicing.store import customer_names
from invoicing.tax_provider import TaxUnknownError
from invoicing.work_store import due_customers
from plans.agreement import SubscriptionDraft
from plans.cancel import cancel
from plans.change import change
from plans.model import Customer, Seller
from plans.seller_store import load_seller
from plans.store import find_customer
from plans.subscribe import subscribe
from plans.subscription_store import lock_agreement

MOST: Final = 1_000
INSTANTS: Final = 120
"""Due instants that one preview posts on trial: other posting waits for it."""
EVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


async def preview(
    *, database: Database, seller: int, draft: PreviewDraft, now: datetime, wall_now: datetime
) -> Preview:
    """Post the customer's upcoming documents in a transaction that is rolled back.

    Each due instant is billed by itself, as it will be. Errors: `invalid_body`, what
    a change, a cancellation or a subscription is refused with, `billing_busy`.
    """
    attempt = 0
    while True:
        try:
            async with on_trial(database=database, seller=seller) as connection:
                return await _rehearse(connection, draft, now=now, wall_now=wall_now)
        except StaleDerivationError:
            keeps_changing(attempt)
            attempt += 1
        except TaxUnknownError as unknown:
            await answer_every_tax(database=database, seller=seller, unknown=unknown, now=wall_now)


async def _rehearse(
    connection: AsyncConnection, draft: PreviewDraft, *, now: datetime, wall_now: datetime
) -> Preview:
    seller = await load_seller(connection=connection)
    customer = await find_customer(connection=connection, reference=draft.customer)
    if customer is None:
        detail = f"no customer {draft.customer!r}"
        raise invalid_field(pointer="/customer", code="unknown_customer", detail=detail)
    await _agree(connection, seller, customer, draft, now=now, wall_now=wall_now)
    late = await late_usage(connection=connection)
    (name,) = await customer_names(
        connection=connection, after=None, limit=1, customers=[customer.bill_to]
    )
    mine = {number: micros for number, micros in late.items() if number in name.numbers}
    await mark_late(connection=connection, late=mine)
    through, told = draft.as_of or EVER, 0
    while due := await due_customers(
        connection=connection,
        due_by=through,
        limit=1,
        customers=[customer.bill_to],
    ):
        if told == INSTANTS:
            detail = f"more than {INSTANTS} due instants lie before as_of; ask for an earlier one"
            raise invalid_field(pointer="/as_of", code="too_far_ahead", detail=detail)
        told += 1
        due_by = max(now - seller.grace, due[0].due_at)
        await post_on_trial(
            connection=connection,
            seller=seller,
            as_of=due_by + seller.grace,
            due_by=due_by,
            customers=[customer.bill_to],
            pending=False,
        )
        if draft.as_of is None:
            break
    return await _read(connection)


async def _agree(
    connection: AsyncConnection,
    seller: Seller,
    customer: Customer,
    draft: PreviewDraft,
    *,
    now: datetime,
    wall_now: datetime,
) -> None:
    """Do what is only supposed, by the very verbs that would."""
    if draft.subscription is not None:
        found = await lock_agreement(connection=connection, reference=draft.subscription)
        if found is None or found.customer != customer.id:
            detail = f"customer {customer.key!r} has no subscription {draft.subscription!r}"
            raise invalid_field(pointer="/subscription", code="unknown_subscription", detail=detail)
    elif draft.change is not None or draft.cancel is not None:
        detail = "a change or a cancellation is of a subscription"
        raise invalid_field(pointer="/subscription", code="required", detail=detail)
    times = {"now": now, "wall_now": wall_now}
    place = "change"
    try:
        if draft.change is not None and draft.subscription is not None:
            await change(
                connection=connection,
                seller=seller,
                reference=draft.subscription,
                draft=draft.change,
                **times,
            )
        place = "cancel"
        if draft.cancel is not None and draft.subscription is not None:
            await cancel(
                connection=connection, reference=draft.subscription, draft=draft.cancel, now=now
            )
        place = "subscribe"
        if draft.subscribe is not None:
            await _subscribe(connection, seller, customer, draft.subscribe, **times)
    except BillingError as error:
        raise _inside(error, place) from None
    except Exception as error:
        found = anticipated(error)
        if found is None:
            raise
        raise _inside(found, place) from None


async def _subscribe(
    connection: AsyncConnection,
    seller: Seller,
    customer: Customer,
    draft: SubscriptionDraft,
    *,
    now: datetime,
    wall_now: datetime,
) -> None:
    if draft.customer not in {customer.key, customer.id}:
        detail = f"the documents are those of {customer.key!r}"
        raise invalid_field(pointer="/customer", code="contradictory", detail=detail)
    await subscribe(connection=connection, seller=seller, draft=draft, now=now, wall_now=wall_now)


def _inside(error: BillingError, place: str) -> BillingError:
    """The same, its pointers leading into that part of the body."""
    fields = tuple(
        FieldError(pointer=f"/{place}{each.pointer}", code=each.code, detail=each.detail)
        for each in error.errors
    )
    return BillingError(error.code, error.detail, kind=error.kind, errors=fields)


async def _read(connection: AsyncConnection) -> Preview:
    """What was posted, under no name."""
    invoices: list[Invoice] = []
    credit_notes: list[CreditNote] = []
    for each in await list_posted(connection=connection, run=RUN, limit=MOST):
        if each.kind == "invoice":
            invoices += await list_invoices(connection=connection, limit=1, reference=each.number)
        else:
            credit_notes += await list_credit_notes(
                connection=connection, limit=1, reference=each.number
            )
    fresh = {line.id for document in (*invoices, *credit_notes) for line in document.lines}
    return Preview(
        invoices=tuple(
            msgspec.structs.replace(
                one, id=UNNAMED, number=UNNAMED, lines=_unnamed(one.lines, fresh)
            )
            for one in invoices
        ),
        credit_notes=tuple(
            msgspec.structs.replace(
                one, id=UNNAMED, number=UNNAMED, lines=_unnamed(one.lines, fresh)
            )
            for one in credit_notes
        ),
    )


def _unnamed(lines: Sequence[LineItem], fresh: set[str]) -> tuple[LineItem, ...]:
    return tuple(
        msgspec.structs.replace(
            line, id=UNNAMED, adjusts=UNNAMED if line.adjusts in fresh else line.adjusts
        )
        for line in lines
    )
