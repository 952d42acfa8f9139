"""SQL of e-mails: what waits to be told, what waits to be sent, and what became of it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.emails import Email, EmailStatus, Fate, Recipient

_COLUMNS: Final = """m.id, m.kind, c.key AS customer, c.id AS customer_id, m.document,
  m.cause = m.document AS automatic, m.recipients, m.locale, m.subject, m.status, m.reason,
  m.error, m.attempts, m.next_attempt_at, m.message_id, m.created_at, m.sent_at"""
_FROM: Final = """FROM emails m JOIN customers c ON c.seller = m.seller AND c.id = m.customer
WHERE m.seller = current_seller()"""
_ONE: Final = text(f"SELECT {_COLUMNS} {_FROM} AND m.id = :email")
_LOCKED: Final = text(f"SELECT {_COLUMNS} {_FROM} AND m.id = :email FOR UPDATE OF m")
_PAGE: Final = text(f"""
SELECT {_COLUMNS} {_FROM}
  AND m.number > coalesce((SELECT number FROM emails
    WHERE seller = current_seller() AND id = CAST(:after AS text)), 0)
  AND (CAST(:customer AS text) IS NULL OR c.key = :customer OR c.id = :customer)
  AND (CAST(:kind AS text) IS NULL OR m.kind = :kind)
  AND (CAST(:status AS text) IS NULL OR m.status = :status)
  AND (CAST(:document AS text) IS NULL OR m.document = :document)
ORDER BY m.number LIMIT :limit
""")
_INSERT: Final = text("""
INSERT INTO emails (id, kind, customer, document, cause, locale, subject, recipients, status,
  reason, created_at)
SELECT u.id, u.kind, u.customer, u.document, u.cause, u.locale, u.subject, u.recipients, u.status,
  u.reason, u.created_at
FROM ROWS FROM (jsonb_to_recordset(CAST(CAST(:rows AS text) AS jsonb)) AS (id text, kind text,
  customer text, document text, cause text, locale text, subject text, recipients jsonb,
  status text, reason text, created_at timestamptz)) WITH ORDINALITY AS u (id, kind, customer,
  document, cause, locale, subject, recipients, status, reason, created_at, ordinal)
ORDER BY u.ordinal ON CONFLICT (seller, kind, cause) DO NOTHING
""")
_CLAIM: Final = text(f"""
WITH claimed AS (
  UPDATE emails SET attempts = attempts + 1, next_attempt_at = :lease_at,
    message_id = coalesce(message_id, '<' || id || '@' || CAST(:domain AS text) || '>')
  WHERE seller = current_seller() AND id = (
    SELECT id FROM emails WHERE seller = current_seller() AND status = 'queued'
      AND (next_attempt_at IS NULL OR next_attempt_at <= :now)
    ORDER BY next_attempt_at NULLS FIRST, number LIMIT 1 FOR UPDATE SKIP LOCKED)
  RETURNING *)
SELECT {_COLUMNS} FROM claimed m JOIN customers c ON c.seller = m.seller AND c.id = m.customer
""")
# The attempt fences: one that was overtaken after its lease ran out writes nothing.
_SETTLE: Final = text("""
UPDATE emails SET status = :status, recipients = CAST(CAST(:recipients AS text) AS jsonb),
  next_attempt_at = :next_attempt_at, error = :error, reason = :reason,
  sent_at = CASE WHEN :was_sent THEN coalesce(sent_at, :now) ELSE sent_at END
WHERE seller = current_seller() AND id = :email AND attempts = :attempts
""")
_HOLD: Final = text("""
UPDATE emails SET status = 'held', reason = :reason, next_attempt_at = NULL
WHERE seller = current_seller() AND status = 'queued'
""")
_HAS_QUEUED: Final = text("""
SELECT EXISTS (SELECT FROM emails WHERE seller = current_seller() AND status = 'queued')
""")
_BLAME: Final = text("""
UPDATE customers SET bounced_emails = bounced_emails || CAST(CAST(:blamed AS text) AS jsonb)
WHERE seller = current_seller() AND id = :customer
""")
_FORGIVE: Final = text("""
UPDATE customers SET bounced_emails = (
  SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(bounced_emails)
  WHERE lower(key) <> ALL(:addresses))
WHERE seller = current_seller() AND id = :customer AND bounced_emails <> '{}'
""")
_SENDERS: Final = text("SELECT seller FROM mailing_sellers()")


class NewEmail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail to be written down; (kind, cause) is unique."""

    id: str
    kind: str
    customer: str
    document: str
    cause: str
    locale: str
    subject: str
    fate: Fate
    created_at: datetime


class QueuedEmail(msgspec.Struct, frozen=True, kw_only=True):
    """A mail with the id of its customer."""

    email: Email
    customer: str


def _email(row: Mapping[Any, Any]) -> QueuedEmail:
    fields = dict(row)
    customer = str(fields.pop("customer_id"))
    recipients = msgspec.convert(fields["recipients"], tuple[Recipient, ...])
    if fields["status"] == EmailStatus.HELD:
        recipients = tuple(
            msgspec.structs.replace(each, status=EmailStatus.HELD)
            if each.status is EmailStatus.QUEUED
            else each
            for each in recipients
        )
    fields |= {"recipients": recipients, "to": tuple(each.address for each in recipients)}
    return QueuedEmail(email=msgspec.convert(fields, Email), customer=customer)


async def insert_emails(*, connection: AsyncConnection, emails: Sequence[NewEmail]) -> int:
    """Write mails down, in their order; those of a (kind, cause) already there are left out."""
    if not emails:
        return 0
    rows = [
        {
            **{
                name: getattr(each, name)
                for name in ("id", "kind", "customer", "document", "cause", "locale", "subject")
            },
            "recipients": each.fate.recipients,
            "status": each.fate.status,
            "reason": each.fate.reason,
            "created_at": each.created_at,
        }
        for each in emails
    ]
    done = await connection.execute(_INSERT, {"rows": msgspec.json.encode(rows).decode()})
    return int(done.rowcount)


async def list_emails(
    *,
    connection: AsyncConnection,
    limit: int,
    after: str | None = None,
    customer: str | None = None,
    kind: str | None = None,
    status: EmailStatus | None = None,
    document: str | None = None,
) -> list[Email]:
    """Mails in the order in which they were written down."""
    query = {"customer": customer, "kind": kind, "document": document, "after": after}
    query |= {"status": None if status is None else status.value}
    rows = await connection.execute(_PAGE, {**query, "limit": limit})
    return [_email(row).email for row in rows.mappings()]


async def find_email(
    *, connection: AsyncConnection, email: str, lock: bool = False
) -> QueuedEmail | None:
    """One mail, locked when it is to be changed."""
    found = await connection.execute(_LOCKED if lock else _ONE, {"email": email})
    row = found.mappings().one_or_none()
    return None if row is None else _email(row)


async def claim_email(
    *, connection: AsyncConnection, now: datetime, lease_at: datetime, domain: str
) -> QueuedEmail | None:
    """The next mail that is to be tried, nobody else's until `lease_at`; counts the attempt."""
    of = {"now": now, "lease_at": lease_at, "domain": domain}
    row = (await connection.execute(_CLAIM, of)).mappings().one_or_none()
    return None if row is None else _email(row)


async def settle_email(
    *, connection: AsyncConnection, email: Email, fate: Fate, now: datetime
) -> bool:
    """Write what an attempt made of the mail, unless a later attempt has begun."""
    was_sent = any(each.status is EmailStatus.SENT for each in fate.recipients)
    done = await connection.execute(
        _SETTLE,
        {
            "email": email.id,
            "attempts": email.attempts,
            "status": fate.status.value,
            "recipients": msgspec.json.encode(fate.recipients).decode(),
            "next_attempt_at": fate.next_attempt_at,
            "error": fate.error,
            "reason": fate.reason,
            "was_sent": was_sent,
            "now": now,
        },
    )
    return bool(done.rowcount)


async def hold_queued(*, connection: AsyncConnection, reason: str) -> int:
    """Nothing that waits is sent: it is held for the reason. Gives how many."""
    return int((await connection.execute(_HOLD, {"reason": reason})).rowcount)


async def has_queued(*, connection: AsyncConnection) -> bool:
    """Whether a mail waits."""
    return bool((await connection.execute(_HAS_QUEUED)).scalar_one())


async def blame_addresses(
    *, connection: AsyncConnection, customer: str, blamed: Mapping[str, str]
) -> None:
    """Mark addresses of the customer, with the reasons: no further mail goes there."""
    if blamed:
        told = msgspec.json.encode({name.lower(): why for name, why in blamed.items()}).decode()
        await connection.execute(_BLAME, {"customer": customer, "blamed": told})


async def forgive_addresses(
    *, connection: AsyncConnection, customer: str, addresses: Sequence[str]
) -> None:
    """Take the marks off addresses that somebody names again."""
    lowered = [address.lower() for address in addresses]
    await connection.execute(_FORGIVE, {"customer": customer, "addresses": lowered})


async def list_mailing_sellers(*, connection: AsyncConnection) -> list[int]:
    """Numbers of the sellers whose mails somebody must look after. Names no seller."""
    return [row.seller for row in await connection.execute(_SENDERS)]
