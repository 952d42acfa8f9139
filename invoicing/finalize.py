"""Verbs: post a draft before its grace ends, and add a line to it by hand."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, FieldError, not_found
from engine.ids import new_id
from engine.money import format_amount
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.draft_store import WaitingDraft, insert_edit, waiting_drafts, waiting_edits
from invoicing.drafts import (
    DraftEdit,
    FinalizeDraft,
    WaitingEdit,
    adjustment,
    amount_of,
    edit_errors,
    place_of,
)
from invoicing.model import CreditNote, Invoice, LineItem
from invoicing.post import StaleDerivationError
from invoicing.post_due import post_due
from invoicing.show_drafts import body_of, find_draft
from invoicing.store import lock_billing
from invoicing.sweep_usage import sweep_usage
from plans.catalog import refuse_invalid
from plans.model import Seller
from plans.tax_rate_store import every_tax_rate
from plans.tax_rates import unknown_rates


async def finalize(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    draft: FinalizeDraft,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> Invoice | CreditNote:
    """Post all that the draft's customer owes at its instant, issued now; gives the document.

    Errors: `not_found`, `already_issued`, and `billing_busy` when facts change meanwhile.
    """
    sweeps = await sweep_usage(connection=connection)
    every = await waiting_drafts(connection=connection, seller=seller, now=now)
    waiting = next((one for one in every if one.body == body_of(reference)), None)
    if waiting is None:
        raise await _refusal(connection, reference)
    try:
        await post_due(
            connection=connection,
            seller=seller,
            run="",
            as_of=now,
            due_by=waiting.due_at,
            sweeps=sweeps,
            customers=[waiting.customer],
            pending=False,
        )
    except StaleDerivationError:
        message = "the subscription changed meanwhile; try again"
        raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT) from None
    posted = await _issued(connection, waiting.body)
    if posted is None:
        raise not_found(noun="draft", reference=reference)
    entry = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="draft.finalized",
        object=posted.id,
        reason=draft.reason,
    )
    await record_act(connection=connection, entry=entry)
    return posted


async def edit_draft(
    *,
    connection: AsyncConnection,
    seller: Seller,
    reference: str,
    edit: DraftEdit,
    actor: str,
    now: datetime,
    wall_now: datetime,
) -> Invoice | CreditNote:
    """Add the line, tell the audit log, and give the draft as it is then.

    Errors: `not_found`, `already_issued`, `invalid_body`.
    """
    await lock_billing(connection=connection, sweep=False)
    found = await find_draft(connection=connection, seller=seller, now=now, reference=reference)
    if found is None:
        raise await _refusal(connection, reference)
    waiting, shown = found
    await _refuse_wrong(connection, edit, currency=waiting.currency)
    added = await _added(
        connection,
        edit=edit,
        waiting=waiting,
        shown=shown,
        seller=seller,
        identity=new_id(prefix="edt", now=wall_now),
    )
    await insert_edit(connection=connection, edit=added)
    amount = format_amount(added.amount_minor, currency=waiting.currency)
    entry = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action="draft.line_added" if edit.line is None else "draft.line_adjusted",
        object=shown.id,
        reason=edit.reason,
        detail={"edit": added.id, "key": added.key, "amount": amount},
    )
    await record_act(connection=connection, entry=entry)
    again = await find_draft(connection=connection, seller=seller, now=now, reference=reference)
    if again is None:
        message = "the draft cannot be posted with this line"
        raise BillingError("invalid_body", message)
    return again[1]


async def _refuse_wrong(connection: AsyncConnection, edit: DraftEdit, *, currency: str) -> None:
    every = await every_tax_rate(connection=connection)
    rates = {rate.key: rate for rate in every if rate.archived_at is None}
    wrong = edit_errors(edit, currency=currency)
    refuse_invalid([*wrong, *unknown_rates(named=edit.tax_rates, known=rates)])


async def _added(
    connection: AsyncConnection,
    *,
    edit: DraftEdit,
    waiting: WaitingDraft,
    shown: Invoice | CreditNote,
    seller: Seller,
    identity: str,
) -> WaitingEdit:
    """The line to add."""
    line = _line_of(edit, shown)
    amount_minor = amount_of(edit, currency=waiting.currency, rounding=seller.rounding)
    if line is not None:
        amount_minor = await _adjusted(
            connection,
            waiting=waiting,
            shown=shown,
            seller=seller,
            line=line,
            said_minor=amount_minor,
        )
    key = edit.key or "" if line is None else line.price
    return WaitingEdit(
        id=identity,
        customer=waiting.customer,
        billed_at=waiting.due_at,
        currency=waiting.currency,
        invoice_group=waiting.invoice_group,
        key=key,
        name=edit.name,
        amount_minor=amount_minor,
        quantity=edit.quantity if line is None else None,
        unit_amount=edit.unit_amount if line is None else None,
        tax_rates=edit.tax_rates or _rates_of(line),
        adjusts=None if line is None else place_of(line),
    )


def _line_of(edit: DraftEdit, shown: Invoice | CreditNote) -> LineItem | None:
    """The line that is to be adjusted, if one is."""
    if edit.line is None:
        return None
    for line in shown.lines:
        if line.id == edit.line:
            return line
    detail = f"the draft has no line {edit.line!r}"
    error = FieldError(pointer="/line", code="unknown_line", detail=detail)
    raise BillingError("invalid_body", detail, errors=(error,))


def _rates_of(line: LineItem | None) -> tuple[str, ...]:
    """A line by hand keeps its own rates; others have those of the customer anyway."""
    if line is None or line.subscription is not None:
        return ()
    return tuple(tax.tax_rate for tax in line.taxes if tax.tax_rate)


async def _adjusted(
    connection: AsyncConnection,
    *,
    waiting: WaitingDraft,
    shown: Invoice | CreditNote,
    seller: Seller,
    line: LineItem,
    said_minor: int,
) -> int:
    """What the line to add charges, in minor units, so that `line` comes to what is said."""
    sign = -1 if isinstance(shown, CreditNote) else 1
    known = await waiting_edits(connection=connection, customers=[waiting.customer])
    place = place_of(line)
    earlier = sum(
        each.amount_minor
        for each in known
        if each.adjusts == place
        and (each.billed_at, each.currency, each.invoice_group)
        == (waiting.due_at, waiting.currency, waiting.invoice_group)
    )
    return sign * adjustment(
        line=line,
        said_minor=said_minor,
        earlier_minor=sign * earlier,
        currency=shown.currency,
        rounding=seller.rounding,
    )


async def _issued(connection: AsyncConnection, body: str) -> Invoice | CreditNote | None:
    for invoice in await list_invoices(connection=connection, limit=1, reference=f"inv_{body}"):
        return invoice
    for note in await list_credit_notes(connection=connection, limit=1, reference=f"cn_{body}"):
        return note
    return None


async def _refusal(connection: AsyncConnection, reference: str) -> BillingError:
    if await _issued(connection, body_of(reference)) is None:
        return not_found(noun="draft", reference=reference)
    message = "the document is issued and no draft any more"
    return BillingError("already_issued", message, kind=ErrorKind.CONFLICT)
