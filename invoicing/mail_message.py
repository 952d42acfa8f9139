"""A mail as it goes over the wire: text, page and attachments. Pure.

The same mail gives the same bytes, so that a mail sent again after a crash is known by its
Message-ID to be the same.
"""

from collections.abc import Sequence
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

import msgspec

from engine.errors import BillingError
from invoicing.emails import one_line
from invoicing.mail_templates import Written

_NAME_LENGTH = 200


class Attachment(msgspec.Struct, frozen=True, kw_only=True):
    """A file that goes along; `media_type` such as application/pdf."""

    name: str
    media_type: str
    content: bytes


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Who a mail is from and to, and what it is known by."""

    sender: str
    sender_name: str
    reply_to: str | None
    to: tuple[str, ...]
    message_id: str
    written_at: datetime


def build_message(
    *, envelope: Envelope, written: Written, attachments: Sequence[Attachment]
) -> bytes:
    """The whole message. Error: `address_unfit` for an address that no header can hold."""
    message = EmailMessage(policy=SMTP)
    name = one_line(envelope.sender_name)[:_NAME_LENGTH]
    message["From"] = _address(envelope.sender, name)
    message["To"] = [_address(address) for address in envelope.to]
    if envelope.reply_to is not None:
        message["Reply-To"] = _address(envelope.reply_to)
    message["Subject"] = one_line(written.subject)
    message["Date"] = format_datetime(envelope.written_at)
    message["Message-ID"] = envelope.message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(written.text, charset="utf-8", cte="quoted-printable")
    message.add_alternative(written.html, subtype="html", charset="utf-8", cte="quoted-printable")
    for each in attachments:
        main, _, sub = each.media_type.partition("/")
        message.add_attachment(each.content, maintype=main, subtype=sub, filename=each.name)
    mark = envelope.message_id.strip("<>").partition("@")[0]
    for index, part in enumerate(message.walk()):
        if part.is_multipart():
            part.set_boundary(f"=_{mark}_{index}")
    return message.as_bytes()


def ascii_address(text: str) -> str:
    """The address with its domain in ASCII. Error: `address_unfit`."""
    local, _, domain = text.rpartition("@")
    try:
        return f"{local.encode('ascii').decode()}@{domain.encode('idna').decode()}"
    except UnicodeError:
        detail = f"{text[:100]!r} cannot be written in ASCII, as mail servers want it"
        raise BillingError("address_unfit", detail) from None


def _address(text: str, name: str = "") -> Address:
    try:
        return Address(display_name=name, addr_spec=ascii_address(text))
    except (ValueError, IndexError):
        detail = f"{text[:100]!r} is no address that a header can hold"
        raise BillingError("address_unfit", detail) from None
