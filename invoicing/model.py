"""Documents: invoices, credit notes and their lines, as they are answered."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from plans.shape import Body, Record


class InvoiceStatus(StrEnum):
    """Where an invoice is in its life; a draft is not issued yet."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


class CreditNoteStatus(StrEnum):
    """Where a credit note is in its life; a draft is not issued yet."""

    DRAFT = "draft"
    ISSUED = "issued"
    VOID = "void"


class Reason(StrEnum):
    """Why a line was posted."""

    INITIAL = "initial"
    PRORATION = "proration"
    LATE_USAGE = "late_usage"
    CORRECTION = "correction"
    BACKDATED = "backdated"
    TRUE_UP = "true_up"


class AppliedDiscount(Record, frozen=True, kw_only=True):
    """What a coupon took off a line."""

    coupon: str
    amount: str


class AppliedTax(Record, frozen=True, kw_only=True):
    """One tax on a line, or on a document: what it was taken on and what it came to.

    `tax_rate` is the rate's key, None where there is no tax: then `category` says why.
    """

    tax_rate: str | None
    percentage: str
    inclusive: bool
    jurisdiction: str
    category: str
    taxable: str
    amount: str


class AppliedCredit(Record, frozen=True, kw_only=True):
    """What a credit grant paid of a line."""

    grant: str
    kind: str
    price: str
    line: str
    amount: str


class LineItem(Record, frozen=True, kw_only=True):
    """A posted charge or difference. On a credit note its amount is in the customer's favour.

    `period` is the stretch that the line is about; `quantity` the measured or agreed quantity
    that `amount` (major units, decimal text) was rated at, or the difference of two. `group` has
    the dimension values of grouped usage. `amount` is before discount, credit and added tax. A
    line written by hand has no subscription; `key` is `price` under the name it was written with,
    and `name` how it was called.
    """

    id: str
    price: str
    key: str
    name: str | None = None
    subscription: str | None
    customer: str
    quantity: str | None
    amount: str
    discount: str
    promotional: str
    tax: str
    discounts: tuple[AppliedDiscount, ...] = ()
    taxes: tuple[AppliedTax, ...] = ()
    period: tuple[datetime, datetime] | None
    reason: Reason
    group: dict[str, str] | None
    adjusts: str | None


class Invoice(Record, frozen=True, kw_only=True):
    """An invoice, as a draft without number; amounts in major units with the currency's digits.

    `balance_returned` is what of `balance_applied` came of a payment that was returned since.
    """

    id: str
    number: str | None
    customer: str
    currency: str
    status: InvoiceStatus
    issued_at: datetime
    due_at: datetime
    invoice_group: str = ""
    subtotal: str
    discount: str
    promotional_applied: str
    tax: str
    taxes: tuple[AppliedTax, ...] = ()
    total: str
    prepaid_applied: str
    credits_applied: tuple[AppliedCredit, ...] = ()
    balance_applied: str
    balance_returned: str
    amount_paid: str
    amount_due: str
    po_number: str | None
    voided_at: datetime | None
    lines: tuple[LineItem, ...]


class CreditNote(Record, frozen=True, kw_only=True):
    """A credit note, as a draft without number; its amounts are positive in the customer's favour.

    `applied` reduced open invoices, `credited` became customer balance, `refunded` is owed as a
    refund. `invoice` (id) is the one that a note by hand credits.
    """

    id: str
    number: str | None
    customer: str
    currency: str
    status: CreditNoteStatus
    reason: str
    issued_at: datetime
    subtotal: str
    discount: str
    promotional_applied: str
    tax: str
    taxes: tuple[AppliedTax, ...] = ()
    total: str
    applied: str
    credited: str
    refunded: str
    invoice: str | None = None
    voided_at: datetime | None = None
    lines: tuple[LineItem, ...]


class VoidDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/invoices/{id}/void`: there is nothing to say."""


class BillingRunDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/billing_runs`. `customers` (keys or ids) limits the run to their documents.

    `dry_run` only tells what would be posted; `approve` has the run report it, and wait, which the
    seller's `run_approval` decides where it is not given. Without
    `wait` it is queued for a worker, and answered at once.
    """

    as_of: datetime
    customers: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    dry_run: bool = False
    approve: bool | None = None
    wait: bool = True


class ParkedAccount(Record, frozen=True, kw_only=True):
    """An account that a run could not bill, and why; the next run tries it again."""

    customer: str
    billed_at: datetime
    code: str
    detail: str


class Fallback(Record, frozen=True, kw_only=True):
    """Why customers were billed one by one that might have been billed together, which is slower.

    What they are billed is the same. `not_alike` is no failure; `impossible` is one of ours, which
    is logged.
    """

    reason: str
    detail: str
    times: int
    customers: int


class RunFailure(Record, frozen=True, kw_only=True):
    """What kept a worker from going on with a run that nobody waits for, and when it tries again.

    `times` in a row without getting on; what nobody foresaw is `impossible`, and logged once.
    """

    code: str
    detail: str
    times: int
    failed_at: datetime
    tried_again_at: datetime


class BillingRun(Record, frozen=True, kw_only=True):
    """One period close over many customers.

    `customers_done` of `customers_total`, where a customer with several due instants counts once
    for each, found as the run gets there; the rate is the mean over the time that was worked.
    """

    id: str
    as_of: datetime
    status: str
    started_at: datetime
    approved_at: datetime | None
    finished_at: datetime | None
    documents: int
    lines: int
    customers_done: int
    customers_total: int | None
    customers_per_second: str | None
    progress_at: datetime | None
    estimated_finish_at: datetime | None
    parked: tuple[ParkedAccount, ...]
    fallbacks: tuple[Fallback, ...] = ()
    failure: RunFailure | None = None


class EntryPosting(Record, frozen=True, kw_only=True):
    """One side of a journal entry: either `debit` or `credit` is named, in major units."""

    account: str
    debit: str | None
    credit: str | None
    customer: str
    contract: str | None
    document: str
    line: str | None


class JournalEntryAnswer(Record, frozen=True, kw_only=True):
    """A journal entry as it is answered; `source` is the document it belongs to."""

    id: str
    kind: str
    source: str
    entry_on: date
    posted_at: datetime
    currency: str
    postings: tuple[EntryPosting, ...]


class AccountAnswer(Record, frozen=True, kw_only=True):
    """An account and its balances by currency, positive on its normal side."""

    code: str
    type: str
    normal_side: str
    balances: dict[str, str]
