"""Reports that a mail came back, as mail servers write them (RFC 3464). Pure."""

import email
import re
from collections.abc import Iterator, Mapping
from email.message import Message
from email.policy import compat32
from typing import Final

import msgspec

from engine.errors import BillingError, ErrorKind
from invoicing.emails import DETAIL_LENGTH, one_line

_OURS: Final = re.compile(r"<\s*(eml_[0-9a-z]{26})@[^<>\s]+>")


class DeliveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """Which mail of ours did not arrive, and why, by address."""

    email: str
    failed: Mapping[str, str]


def read_report(content: bytes) -> DeliveryReport:
    """The report in a message. Delays and successes are no failures: then `failed` is empty.

    Errors: `no_delivery_report` for any other message, `unknown_message` when it does not name a
    mail of ours by its Message-ID.
    """
    try:
        parts = list(email.message_from_bytes(content, policy=compat32).walk())
        failed = dict(_failures(parts))
    except (RecursionError, ValueError, LookupError, AttributeError):
        parts, failed = [], None
    statuses = [part for part in parts if part.get_content_type() == "message/delivery-status"]
    if not statuses or failed is None:
        detail = "the message holds no part of the type message/delivery-status"
        raise BillingError("no_delivery_report", detail)
    found = next((known for part in parts if (known := _message_id(part))), None)
    if found is None:
        detail = "the report does not hold the Message-ID of a mail of ours"
        raise BillingError("unknown_message", detail, kind=ErrorKind.NOT_FOUND)
    return DeliveryReport(email=found, failed=failed)


def _failures(parts: list[Message]) -> Iterator[tuple[str, str]]:
    for part in parts:
        action = str(part.get("Action", "")).strip().lower()
        if action != "failed":
            continue
        told = (str(part.get(name, "")) for name in ("Status", "Diagnostic-Code"))
        detail = one_line(" ".join(told))[:DETAIL_LENGTH] or "failed"
        for name in ("Original-Recipient", "Final-Recipient"):
            address = str(part.get(name, "")).rpartition(";")[2].strip().strip("<>")
            if address:
                yield address, detail
                break


def _message_id(part: Message) -> str | None:
    """The id in the head of the mail that came back, which a part is or holds as text."""
    if part.get_content_type() == "text/rfc822-headers":
        payload = part.get_payload(decode=True)
        text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
        lines = [line for line in text.splitlines() if line.lower().startswith("message-id:")]
        found = _OURS.search(" ".join(lines))
    else:
        found = _OURS.search(str(part.get("Message-ID", "")))
    return None if found is None else found[1]
