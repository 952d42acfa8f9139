"""Verb: a mail as bytes, with its document, from what is stored."""

from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.errors import BillingError
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.email_store import QueuedEmail
from invoicing.emails import EmailStatus, Fate, first_fate
from invoicing.mail_facts import MailFacts
from invoicing.mail_facts_store import find_facts
from invoicing.mail_message import Attachment, Envelope, build_message
from invoicing.mail_templates import values_of, write_words
from invoicing.payment_store import list_payments
from invoicing.print_account import print_receipt
from invoicing.print_document import print_document, write_einvoice
from invoicing.queue_emails import hold_of, template_of
from plans.mailing import EmailKind
from plans.model import Seller
from plans.seller_store import load_seller

PDF: Final = "application/pdf"
XML: Final = "application/xml"


class WrittenEmail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail ready to go to `recipients`; or, with `held`, the reason why it does not go."""

    recipients: tuple[str, ...] = ()
    content: bytes = b""
    held: Fate | None = None


async def write_email(
    *, connection: AsyncConnection, queued: QueuedEmail, sender: str, only_shown: bool = False
) -> WrittenEmail:
    """The mail as it goes to whoever has not got it, its document attached.

    What has happened since it was queued counts, but when it is `only_shown`: a void document,
    mails switched off. Errors: those of printing the document, and `address_unfit`.
    """
    email = queued.email
    seller = await load_seller(connection=connection)
    kind = EmailKind(email.kind)
    facts = await find_facts(connection=connection, kind=kind, reference=email.document)
    assert facts is not None, "documents stay"
    fate = first_fate(
        addresses=email.to,
        bounced=facts.bounced if email.automatic else (),
        hold=hold_of(seller=seller, facts=facts, by_hand=not email.automatic),
    )
    if fate.status is EmailStatus.HELD and not only_shown:
        kept = msgspec.structs.replace(fate, recipients=email.recipients)
        return WrittenEmail(held=kept)
    values = values_of(
        facts, seller=seller.legal_name, locale=email.locale, timezone=seller.timezone
    )
    template = await template_of(connection=connection, kind=kind, locale=email.locale)
    envelope = Envelope(
        sender=sender,
        sender_name=seller.legal_name,
        reply_to=seller.emails.reply_to if seller.emails else None,
        to=email.to,
        message_id=email.message_id or f"<{email.id}@{sender.rpartition('@')[2]}>",
        written_at=email.created_at,
    )
    content = build_message(
        envelope=envelope,
        written=write_words(template, values=values, subject=email.subject, locale=email.locale),
        attachments=await _attachments(connection, seller, kind, facts),
    )
    recipients = tuple(
        each.address for each in email.recipients if each.status is EmailStatus.QUEUED
    )
    return WrittenEmail(recipients=recipients, content=content)


async def _attachments(
    connection: AsyncConnection, seller: Seller, kind: EmailKind, facts: MailFacts
) -> list[Attachment]:
    if kind is EmailKind.RECEIPT:
        payment = (await list_payments(connection=connection, limit=1, reference=facts.document))[0]
        content = await print_receipt(connection=connection, payment=payment, seller=seller)
        return [Attachment(name=f"{facts.number}.pdf", media_type=PDF, content=content)]
    find = list_invoices if kind is EmailKind.INVOICE else list_credit_notes
    document = (await find(connection=connection, limit=1, reference=facts.document))[0]
    zone = seller.timezone
    content = await print_document(connection=connection, document=document, timezone=zone)
    files = [Attachment(name=f"{facts.number}.pdf", media_type=PDF, content=content)]
    if seller.emails is not None and seller.emails.attach_einvoice:
        try:
            xml = await write_einvoice(connection=connection, document=document, timezone=zone)
        except BillingError:
            return files  # asked for alone, it says why
        files.append(Attachment(name=f"{facts.number}.xml", media_type=XML, content=xml))
    return files
