"""What of a seller's documents goes out by e-mail, and what an address is. Pure."""

import unicodedata
from enum import StrEnum
from typing import Final

from engine.errors import FieldError
from plans.shape import Body, ShortText

ADDRESS_LENGTH: Final = 254
_NOT_IN_ADDRESSES: Final = frozenset('<>,;"()[]\\')


class EmailKind(StrEnum):
    """Which mail it is."""

    INVOICE = "invoice"
    CREDIT_NOTE = "credit_note"
    RECEIPT = "receipt"


class Mailing(Body, frozen=True, kw_only=True):
    """The seller's `emails`: which documents go out by themselves, from now on.

    Answers go to `reply_to`. With `attach_einvoice` the e-invoice goes along as XML where there
    is one. Mails of a test seller stay here unless `send_in_test`.
    """

    kinds: tuple[EmailKind, ...] = ()
    reply_to: ShortText | None = None
    attach_einvoice: bool = False
    send_in_test: bool = False


def is_address(text: str) -> bool:
    """Whether a mail can be sent to it: one `@`, no spaces, quotes, brackets or control signs."""
    local, at, domain = text.rpartition("@")
    if not (local and at and domain) or len(text) > ADDRESS_LENGTH or "@" in local:
        return False
    return not any(
        sign in _NOT_IN_ADDRESSES or unicodedata.category(sign)[0] in "CZ" for sign in text
    )


def mailing_errors(mailing: Mailing | None) -> list[FieldError]:
    """An error when answers could not reach the seller."""
    if mailing is None or mailing.reply_to is None or is_address(mailing.reply_to):
        return []
    detail = f"{mailing.reply_to[:60]!r} is not an e-mail address"
    return [FieldError(pointer="/emails/reply_to", code="invalid", detail=detail)]
