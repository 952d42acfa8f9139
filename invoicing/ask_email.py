"""Verbs: ask for a mail once more, and take note that one came back."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError, ErrorKind, FieldError, not_found
from invoicing.delivery_report import DeliveryReport
from invoicing.email_store import (
    QueuedEmail,
    blame_addresses,
    find_email,
    forgive_addresses,
    insert_emails,
    settle_email,
)
from invoicing.emails import BounceDraft, Email, Fate, SendDraft, after_bounce, status_of
from invoicing.mail_facts_store import find_facts
from invoicing.queue_emails import new_email
from plans.catalog import refuse_invalid
from plans.mailing import EmailKind, is_address
from plans.model import Seller


async def ask_email(
    *,
    connection: AsyncConnection,
    seller: Seller,
    kind: EmailKind,
    reference: str,
    draft: SendDraft,
    now: datetime,
) -> str:
    """Queue a mail about a document, to the customer's addresses or to those named; gives its id.

    An address that is named is tried again even after a bounce, and its mark is taken off.
    Errors: `not_found`, `invalid_body`, `nothing_to_send` for a void document.
    """
    facts = await find_facts(connection=connection, kind=kind, reference=reference)
    if facts is None:
        raise not_found(noun=kind.value.replace("_", " "), reference=reference)
    if facts.is_void:
        detail = f"{facts.number} is void, or its money is not there: nothing is sent of it"
        raise BillingError("nothing_to_send", detail, kind=ErrorKind.CONFLICT)
    refuse_invalid(_address_errors(draft.to or ()))
    addresses = draft.to
    if addresses is None:
        addresses = tuple(one for one in facts.emails if one.lower() not in facts.bounced)
    else:
        await forgive_addresses(connection=connection, customer=facts.customer, addresses=addresses)
    if not addresses:
        detail = "the customer has no address that has not bounced: name one in `to`"
        refuse_invalid([FieldError(pointer="/to", code="required", detail=detail)])
    made = await new_email(
        connection=connection,
        seller=seller,
        kind=kind,
        facts=facts,
        addresses=addresses,
        by_hand=True,
        now=now,
    )
    await insert_emails(connection=connection, emails=[made])
    return made.id


async def note_bounce(
    *, connection: AsyncConnection, email: str, draft: BounceDraft, now: datetime
) -> Email:
    """The mail came back: it is `bounced`, and the address gets no further mail.

    Errors: `not_found`; `invalid_body` when it is not said which of several addresses, or when
    the mail never went there.
    """
    found = await _locked(connection, email)
    recipients = found.email.to
    address = draft.address
    if address is None and len(recipients) == 1:
        address = recipients[0]
    if address is None or address.lower() not in {each.lower() for each in recipients}:
        detail = f"say which: {', '.join(recipients)}" if recipients else "it went nowhere"
        code = "required" if address is None else "unknown_recipient"
        refuse_invalid([FieldError(pointer="/address", code=code, detail=detail)])
    assert address is not None, "without one it was refused"
    return await _bounce(connection, found, {address: draft.reason}, now=now)


async def note_report(
    *, connection: AsyncConnection, report: DeliveryReport, now: datetime
) -> Email:
    """The same by a report of a mail server; it may name the mailbox behind an only address.

    Errors: `not_found`, `unknown_recipient`.
    """
    found = await _locked(connection, report.email)
    known = {each.lower(): each for each in found.email.to}
    failed: dict[str, str] = {}
    for address, detail in report.failed.items():
        ours = known.get(address.lower())
        if ours is None and len(known) == 1:
            ours = next(iter(known.values()))
        if ours is None:
            told = f"the mail did not go to {address[:100]!r}"
            raise BillingError("unknown_recipient", told, kind=ErrorKind.CONFLICT)
        failed[ours] = detail
    return await _bounce(connection, found, failed, now=now) if failed else found.email


async def _locked(connection: AsyncConnection, email: str) -> QueuedEmail:
    found = await find_email(connection=connection, email=email, lock=True)
    if found is None:
        raise not_found(noun="e-mail", reference=email)
    return found


async def _bounce(
    connection: AsyncConnection, found: QueuedEmail, failed: dict[str, str], *, now: datetime
) -> Email:
    recipients = found.email.recipients
    for address, detail in failed.items():
        recipients = after_bounce(recipients=recipients, address=address, detail=detail)
    status = status_of(recipients)
    fate = Fate(
        status=status,
        recipients=recipients,
        next_attempt_at=found.email.next_attempt_at,
        error=next(iter(failed.values())),
        reason=found.email.reason,
    )
    await settle_email(connection=connection, email=found.email, fate=fate, now=now)
    await blame_addresses(connection=connection, customer=found.customer, blamed=failed)
    after = await find_email(connection=connection, email=found.email.id)
    assert after is not None
    return after.email


def _address_errors(addresses: Sequence[str]) -> list[FieldError]:
    return [
        FieldError(pointer=f"/to/{index}", code="invalid", detail=f"{address[:60]!r} is no address")
        for index, address in enumerate(addresses)
        if not is_address(address)
    ]
