"""Verbs: find what was issued and nobody was told of, and write down the mails that tell it.

Nothing is added to posting: the numbers of a series say what is new. Each document has one mail
of its kind by a unique key, however often and by whomever this is done.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import Database
from engine.ids import new_id
from invoicing.assembly import CREDIT_NOTE_SUFFIX
from invoicing.email_store import NewEmail, insert_emails
from invoicing.email_template_store import find_template
from invoicing.emails import Hold, first_fate
from invoicing.mail_facts import MailFacts
from invoicing.mail_facts_store import (
    PAYMENTS,
    documents_after,
    lagging_series,
    move_position,
    payments_since,
    untold_payments,
)
from invoicing.mail_templates import Template, candidates, our_template, subject_of, values_of
from plans.mailing import EmailKind, Mailing
from plans.model import Mode, Seller
from plans.seller_store import load_seller

AT_ONCE: Final = 500
LOOK_BACK: Final = timedelta(hours=1)
"""Longer than any transaction lives: what commits late is still found."""


async def queue_emails(*, database: Database, seller: int, now: datetime) -> int:
    """Write down a mail for each document of the kinds that the seller sends; gives how many.

    `now` is business time. Every 500 documents are a transaction of their own.
    """
    written = 0
    while True:
        async with database.transaction(seller=seller) as connection:
            found = await load_seller(connection=connection)
            if found.emails is None or not found.emails.kinds:
                return written
            done, more = await _queue_some(connection, found, found.emails, now=now)
            written += done
        if not more:
            return written


async def begin_emails(
    *, connection: AsyncConnection, before: Mailing | None, after: Mailing | None, now: datetime
) -> None:
    """Kinds that are switched on send what is issued from now on, and nothing of before."""
    known = set[EmailKind]() if before is None else set(before.kinds)
    added = set[EmailKind]() if after is None else set(after.kinds) - known
    for each in await lagging_series(connection=connection):
        if _kind_of(each.series) in added:
            await move_position(connection=connection, source=each.series, position=each.last)
    if EmailKind.RECEIPT in added:
        await move_position(connection=connection, source=PAYMENTS, since_at=now)


async def new_email(
    *,
    connection: AsyncConnection,
    seller: Seller,
    kind: EmailKind,
    facts: MailFacts,
    addresses: Sequence[str],
    by_hand: bool,
    now: datetime,
) -> NewEmail:
    """A mail about the document as it begins; `by_hand` ones are not the document's only one."""
    email = new_id(prefix="eml", now=now)
    locale = facts.locale or seller.default_locale or "en"
    template = await template_of(connection=connection, kind=kind, locale=locale)
    values = values_of(facts, seller=seller.legal_name, locale=locale, timezone=seller.timezone)
    return NewEmail(
        id=email,
        kind=kind.value,
        customer=facts.customer,
        document=facts.document,
        cause=email if by_hand else facts.document,
        locale=locale,
        subject=subject_of(template, values=values),
        fate=first_fate(
            addresses=addresses,
            bounced=() if by_hand else facts.bounced,
            hold=hold_of(seller=seller, facts=facts, by_hand=by_hand),
        ),
        created_at=now,
    )


async def template_of(*, connection: AsyncConnection, kind: EmailKind, locale: str) -> Template:
    """The seller's words for that locale, else ours."""
    own = await find_template(connection=connection, kind=kind, locales=candidates(locale))
    return own or our_template(kind=kind, locale=locale)


def hold_of(*, seller: Seller, facts: MailFacts, by_hand: bool) -> Hold | None:
    """Why a mail about the document does not go out at all, if so."""
    if facts.is_void:
        return Hold.DOCUMENT_VOID
    if seller.emails is None and not by_hand:
        return Hold.SWITCHED_OFF
    if seller.mode is Mode.TEST and not (seller.emails and seller.emails.send_in_test):
        return Hold.TEST_MODE
    return None


async def _queue_some(
    connection: AsyncConnection, seller: Seller, mailing: Mailing, *, now: datetime
) -> tuple[int, bool]:
    """Up to 500 documents of each series and as many payments; whether there may be more."""
    written, more = 0, False
    for each in await lagging_series(connection=connection):
        kind = _kind_of(each.series)
        if kind not in mailing.kinds:
            continue
        found = await documents_after(
            connection=connection,
            kind=kind,
            series=each.series,
            position=each.position,
            limit=AT_ONCE,
        )
        written += await _write(connection, seller, kind, found, now=now)
        reached = each.position + len(found)
        await move_position(connection=connection, source=each.series, position=reached)
        more = more or reached < each.last
    since = await payments_since(connection=connection)
    if EmailKind.RECEIPT in mailing.kinds and since is not None:
        paid = await untold_payments(connection=connection, since=since, limit=AT_ONCE)
        written += await _write(connection, seller, EmailKind.RECEIPT, paid, now=now)
        if len(paid) == AT_ONCE:
            return written, True
        await move_position(connection=connection, source=PAYMENTS, since_at=now - LOOK_BACK)
    return written, more


async def _write(
    connection: AsyncConnection,
    seller: Seller,
    kind: EmailKind,
    found: Sequence[MailFacts],
    *,
    now: datetime,
) -> int:
    emails = [
        await new_email(
            connection=connection,
            seller=seller,
            kind=kind,
            facts=facts,
            addresses=facts.emails,
            by_hand=False,
            now=now,
        )
        for facts in found
    ]
    return await insert_emails(connection=connection, emails=emails)


def _kind_of(series: str) -> EmailKind:
    is_note = series.endswith(CREDIT_NOTE_SUFFIX)
    return EmailKind.CREDIT_NOTE if is_note else EmailKind.INVOICE
