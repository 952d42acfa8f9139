"""What billing would post: asked and answered. Pure."""

from datetime import datetime, timedelta
from typing import Final

from engine.errors import invalid_field
from invoicing.model import CreditNote, Invoice, ParkedAccount
from plans.agreement import CancelDraft, ChangeDraft, SubscriptionDraft
from plans.shape import Body, Record

UNNAMED: Final = ""
"""The id and the number of what is never posted."""

AHEAD: Final = timedelta(days=1_830)
"""How far a dry run looks: every due instant on the way is posted on trial."""


def refuse_far(*, as_of: datetime, now: datetime) -> None:
    """Raise `invalid_body` for a dry run too far ahead: posting waits while it works."""
    if as_of - now > AHEAD:
        detail = f"a dry run looks at most {AHEAD.days} days ahead of the clock"
        raise invalid_field(pointer="/as_of", code="too_far_ahead", detail=detail)


def refuse_ahead(*, as_of: datetime, now: datetime) -> None:
    """Raise `invalid_body` for a run that would post what is not due yet."""
    if as_of > now:
        detail = f"as_of lies ahead of the clock, which stands at {now.isoformat()}"
        raise invalid_field(pointer="/as_of", code="ahead_of_clock", detail=detail)


class PreviewDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/preview`: upcoming documents of a customer, as agreed or as they would be.

    `change` and `cancel` are about `subscription` (key or id), `subscribe` is one more. Without
    `as_of` the first due instant is told, with it all of them up to that instant.
    """

    customer: str
    subscription: str | None = None
    change: ChangeDraft | None = None
    cancel: CancelDraft | None = None
    subscribe: SubscriptionDraft | None = None
    as_of: datetime | None = None


class Preview(Record, frozen=True, kw_only=True):
    """Documents as they would be posted, but without ids and numbers, which are empty."""

    invoices: tuple[Invoice, ...]
    credit_notes: tuple[CreditNote, ...]


class RehearsedDocument(Record, frozen=True, kw_only=True):
    """A document that a run would post, in one row; amounts in major units."""

    kind: str
    customer: str
    currency: str
    total: str
    amount_due: str


class RehearsedTotal(Record, frozen=True, kw_only=True):
    """What would be invoiced and credited in one currency, in major units."""

    currency: str
    invoices: str
    credit_notes: str


class RunRehearsal(Record, frozen=True, kw_only=True):
    """What a billing run would post; `first` holds some of its documents, by customer id.

    `parked` are accounts that could not be billed.
    """

    as_of: datetime
    dry_run: bool = True
    documents: int
    lines: int
    totals: tuple[RehearsedTotal, ...]
    first: tuple[RehearsedDocument, ...]
    parked: tuple[ParkedAccount, ...]
