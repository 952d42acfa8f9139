"""E-mails as they wait, are sent, fail and bounce. Pure.

A mail has several recipients, and each has a fate of its own: the server takes a mail for one
address and refuses it for another.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from plans.shape import Body, Record, ShortText

RETRY_SECONDS: Final = (60, 300, 900, 3_600, 10_800, 21_600, 43_200, 86_400)
"""What is waited after each attempt that failed for now; after one more the mail has failed."""
RECIPIENTS_MAX: Final = 10
DETAIL_LENGTH: Final = 500
_ENHANCED: Final = re.compile(r"^\s*([245])\.(\d{1,3})\.(\d{1,3})\b")
# Replies without an enhanced code that say that there is no such mailbox.
_NO_MAILBOX: Final = frozenset({550, 551, 553})


class EmailStatus(StrEnum):
    """How far a mail, or its copy for one recipient, has come."""

    QUEUED = "queued"
    SENT = "sent"
    FAILED = "failed"
    BOUNCED = "bounced"
    HELD = "held"


class Hold(StrEnum):
    """Why a mail is not sent."""

    TEST_MODE = "test_mode"
    NO_ADDRESS = "no_address"
    ADDRESS_BOUNCED = "address_bounced"
    NO_SMTP_SERVER = "no_smtp_server"
    SWITCHED_OFF = "switched_off"
    DOCUMENT_VOID = "document_void"


class Recipient(Record, frozen=True, kw_only=True):
    """One address, and what became of the mail for it."""

    address: str
    status: EmailStatus = EmailStatus.QUEUED
    detail: str | None = None


class Email(Record, frozen=True, kw_only=True):
    """A mail as it is answered. `document` is the id of what it is about.

    `held` mails are not sent by themselves, `reason` says why; `error` is what the server said
    last. `next_attempt_at` is null when there is none, or one at once.
    """

    id: str
    kind: str
    customer: str
    document: str
    automatic: bool
    to: tuple[str, ...]
    recipients: tuple[Recipient, ...]
    locale: str
    subject: str
    status: EmailStatus
    reason: str | None
    error: str | None
    attempts: int
    next_attempt_at: datetime | None
    message_id: str | None
    created_at: datetime
    sent_at: datetime | None


class SendDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/{id}/send`: to the customer's addresses, or to these instead."""

    to: (
        Annotated[tuple[ShortText, ...], msgspec.Meta(min_length=1, max_length=RECIPIENTS_MAX)]
        | None
    ) = None


class BounceDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/emails/{id}/bounce`: the mail came back, for one address of several."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=DETAIL_LENGTH)]
    address: ShortText | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a server answered: code and text, on one line."""

    code: int
    text: str

    @property
    def is_permanent(self) -> bool:
        """Whether trying again is of no use."""
        return self.code >= 500

    @property
    def blames_address(self) -> bool:
        """Whether there is no such mailbox: a policy against the sender is not its fault."""
        enhanced = _ENHANCED.match(self.text)
        if enhanced is None:
            return self.code in _NO_MAILBOX
        return self.is_permanent and (
            enhanced[2] == "1" or (enhanced[2], enhanced[3]) == ("2", "1")
        )

    @property
    def detail(self) -> str:
        """Both, short enough to be kept."""
        return f"{self.code} {one_line(self.text)}"[:DETAIL_LENGTH]


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one attempt.

    Without `failure` the server took the mail for all but those in `refused`; with one for nobody.
    """

    refused: Mapping[str, Reply] = msgspec.field(default_factory=dict)
    failure: str | None = None
    is_permanent: bool = False


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """How a mail stands after an attempt; `blamed` are addresses that do not exist."""

    status: EmailStatus
    recipients: tuple[Recipient, ...]
    next_attempt_at: datetime | None = None
    error: str | None = None
    reason: str | None = None
    blamed: Mapping[str, str] = msgspec.field(default_factory=dict)


def one_line(text: str) -> str:
    """Without line breaks and other control characters: fit for a header."""
    kept = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(kept.split())


def first_fate(*, addresses: Sequence[str], bounced: Collection[str], hold: Hold | None) -> Fate:
    """How a mail begins: held for a reason, or queued for the addresses that did not bounce."""
    known = {address.lower() for address in bounced}
    recipients = tuple(
        Recipient(address=address, status=EmailStatus.HELD, detail=Hold.ADDRESS_BOUNCED.value)
        if address.lower() in known
        else Recipient(address=address)
        for address in dict.fromkeys(addresses)
    )
    if hold is None and not recipients:
        hold = Hold.NO_ADDRESS
    if hold is None and all(each.status is EmailStatus.HELD for each in recipients):
        hold = Hold.ADDRESS_BOUNCED
    if hold is not None:
        return Fate(status=EmailStatus.HELD, recipients=recipients, reason=hold.value)
    return Fate(status=EmailStatus.QUEUED, recipients=recipients)


def status_of(recipients: Sequence[Recipient]) -> EmailStatus:
    """The mail's own status: while one waits it waits, and then the worst is told."""
    there = {each.status for each in recipients}
    order = (
        EmailStatus.QUEUED,
        EmailStatus.FAILED,
        EmailStatus.BOUNCED,
        EmailStatus.SENT,
        EmailStatus.HELD,
    )
    return next((status for status in order if status in there), EmailStatus.HELD)


def after_attempt(
    *, recipients: Sequence[Recipient], delivery: Delivery, attempts: int, now: datetime
) -> Fate:
    """What the `attempts`-th attempt, to all that were queued, made of a mail."""
    wait = RETRY_SECONDS[attempts - 1] if attempts <= len(RETRY_SECONDS) else None
    refused = {address.lower(): reply for address, reply in delivery.refused.items()}
    after: list[Recipient] = []
    error, blamed = delivery.failure, dict[str, str]()
    for each in recipients:
        if each.status is not EmailStatus.QUEUED:
            after.append(each)
            continue
        reply = refused.get(each.address.lower())
        if reply is None and delivery.failure is None:
            after.append(Recipient(address=each.address, status=EmailStatus.SENT))
            continue
        permanent = delivery.is_permanent if reply is None else reply.is_permanent
        detail = delivery.failure if reply is None else reply.detail
        status = EmailStatus.QUEUED
        if permanent:
            status = EmailStatus.FAILED if reply is None else EmailStatus.BOUNCED
        elif wait is None:
            status = EmailStatus.FAILED
        after.append(Recipient(address=each.address, status=status, detail=detail))
        error = error or detail
        if reply is not None and status is EmailStatus.BOUNCED and reply.blames_address:
            blamed[each.address] = reply.detail
    status = status_of(after)
    waits = status is EmailStatus.QUEUED and wait is not None
    return Fate(
        status=status,
        recipients=tuple(after),
        next_attempt_at=now + timedelta(seconds=wait or 0) if waits else None,
        error=error,
        blamed=blamed,
    )


def after_bounce(
    *, recipients: Sequence[Recipient], address: str, detail: str
) -> tuple[Recipient, ...]:
    """The recipients once the mail to `address` came back."""
    return tuple(
        Recipient(address=each.address, status=EmailStatus.BOUNCED, detail=detail)
        if each.address.lower() == address.lower()
        else each
        for each in recipients
    )
