"""What a mail tells of its document. Pure."""

from datetime import datetime

import msgspec


class MailFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A document and the customer who gets it; amounts in minor units.

    `bounced` are addresses that a mail came back from. `is_void` when there is nothing to send.
    """

    document: str
    number: str
    customer: str
    name: str
    locale: str | None
    emails: tuple[str, ...]
    bounced: dict[str, str]
    currency: str
    total_minor: int
    due_minor: int = 0
    due_at: datetime | None = None
    issued_at: datetime
    po_number: str | None = None
    reference: str | None = None
    invoices: tuple[str, ...] = ()
    is_void: bool = False
