"""Verb: send the mails that wait, one after the other, with no transaction open meanwhile.

The attempt is committed first, with a lease; then the server is asked; then the answer is
committed. Who dies in between leaves a mail that is sent again when the lease is over, with the
same Message-ID: rather twice than not at all.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from dunning.notify import Postman
from engine.db import Database
from engine.errors import BillingError
from invoicing.email_store import (
    QueuedEmail,
    blame_addresses,
    claim_email,
    find_email,
    has_queued,
    hold_queued,
    settle_email,
)
from invoicing.emails import (
    RETRY_SECONDS,
    Delivery,
    Email,
    EmailStatus,
    Fate,
    Hold,
    Recipient,
    after_attempt,
)
from invoicing.write_email import WrittenEmail, write_email

LEASE: Final = timedelta(minutes=5)
_log: Final = logging.getLogger("usance.mail")


async def send_emails(
    *,
    database: Database,
    seller: int,
    postman: Postman | None,
    clock: Callable[[], datetime],
    limit: int,
) -> int:
    """Try up to `limit` mails that are due, by wall time; gives how many were tried.

    Without a postman there is no server: what waits is held with that reason, and sent when it is
    asked for again. Stops early when the server cannot be reached.
    """
    if postman is None:
        async with database.transaction(seller=seller) as connection:
            if await has_queued(connection=connection):
                held = await hold_queued(connection=connection, reason=Hold.NO_SMTP_SERVER.value)
                _log.warning("seller %s: %s mails held: USANCE_SMTP_URL is not set", seller, held)
        return 0
    tried = 0
    while tried < limit:
        delivery = await _send_next(database, seller, postman, clock)
        if delivery is None:
            break
        tried += 1
        if postman.unreachable:
            _log.warning("the mail server cannot be reached: %s", delivery.failure)
            break
    return tried


async def _send_next(
    database: Database, seller: int, postman: Postman, clock: Callable[[], datetime]
) -> Delivery | None:
    """One mail from its attempt to its answer; None when none is due."""
    now = clock()
    async with database.transaction(seller=seller) as connection:
        queued = await claim_email(
            connection=connection, now=now, lease_at=now + LEASE, domain=postman.server.domain
        )
    if queued is None:
        return None
    email = queued.email
    held: Fate | None = None
    if email.attempts > len(RETRY_SECONDS) + 1:
        delivery = Delivery(failure=email.error or "never ended an attempt", is_permanent=True)
    else:
        delivery, held = await _attempt(database, seller, postman, queued)
    async with database.transaction(seller=seller) as connection:
        fate = held or after_attempt(
            recipients=await _recipients_now(connection, email),
            delivery=delivery,
            attempts=email.attempts,
            now=clock(),
        )
        if await settle_email(connection=connection, email=email, fate=fate, now=clock()):
            await blame_addresses(
                connection=connection, customer=queued.customer, blamed=fate.blamed
            )
    return delivery


async def _recipients_now(connection: AsyncConnection, email: Email) -> tuple[Recipient, ...]:
    """Those of the attempt; but a report that was quicker than the answer has its say."""
    found = await find_email(connection=connection, email=email.id, lock=True)
    assert found is not None, "mails stay"
    bounced = {
        each.address: each for each in found.email.recipients if each.status is EmailStatus.BOUNCED
    }
    return tuple(bounced.get(each.address, each) for each in email.recipients)


async def _attempt(
    database: Database, seller: int, postman: Postman, queued: QueuedEmail
) -> tuple[Delivery, Fate | None]:
    try:
        async with database.transaction(seller=seller, snapshot=True) as connection:
            written: WrittenEmail = await write_email(
                connection=connection, queued=queued, sender=postman.server.sender
            )
        if written.held is not None:
            return Delivery(), written.held
        return await postman.deliver(recipients=written.recipients, content=written.content), None
    except BillingError as error:
        # What cannot be printed or addressed today will not be tomorrow: somebody must look.
        return Delivery(failure=f"{error.code}: {error.detail}"[:500], is_permanent=True), None
