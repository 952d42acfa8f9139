"""What a billing run would post, told so that somebody can approve it. Pure."""

from datetime import datetime
from enum import StrEnum

from invoicing.model import ParkedAccount
from plans.shape import Record

TIMES = 10
"""How many times its mean is much for a customer."""


class Remark(StrEnum):
    """Why somebody should look at a customer."""

    NEW = "new"
    GONE = "gone"
    TEN_TIMES_MEAN = "ten_times_mean"
    ZERO_INVOICE = "zero_invoice"
    CHANGED = "changed"


class ReportRow(Record, frozen=True, kw_only=True):
    """One customer in one currency; amounts in major units.

    `net` is invoiced less credited. `previous` is that of the latest instant that runs billed
    before, `mean` of the latest twelve or fewer (`periods`). `approved` is the net that was
    approved, where facts changed since.
    """

    customer: str
    currency: str
    invoices: int
    credit_notes: int
    lines: int
    invoiced: str
    credited: str
    tax: str
    net: str
    previous: str
    difference: str
    mean: str
    periods: int
    approved: str | None
    remarks: tuple[Remark, ...]


class ReportTotal(Record, frozen=True, kw_only=True):
    """All of one currency. `previous` is of the customers that are told of, gone ones too."""

    currency: str
    customers: int
    invoices: int
    zero_invoices: int
    credit_notes: int
    lines: int
    invoiced: str
    credited: str
    tax: str
    net: str
    previous: str


class Remarked(Record, frozen=True, kw_only=True):
    """How many customers have the remark, and those with the largest sums."""

    remark: Remark
    customers: int
    first: tuple[ReportRow, ...]


class RunReport(Record, frozen=True, kw_only=True):
    """What a run would post when it is approved."""

    run: str
    status: str
    as_of: datetime
    approved_at: datetime | None
    totals: tuple[ReportTotal, ...]
    biggest_changes: tuple[ReportRow, ...]
    remarks: tuple[Remarked, ...]
    parked: tuple[ParkedAccount, ...]


def remarks_of(
    *,
    net_minor: int,
    mean_minor: int,
    periods: int,
    documents: int,
    zero_invoices: int,
    was_minor: int | None,
) -> tuple[Remark, ...]:
    """What there is to remark of a customer, the same as the report store looks for."""
    found = {
        Remark.NEW: periods == 0 and documents > 0,
        Remark.GONE: periods > 0 and documents == 0 and was_minor is None,
        Remark.TEN_TIMES_MEAN: periods > 0 and mean_minor > 0 and net_minor >= TIMES * mean_minor,
        Remark.ZERO_INVOICE: zero_invoices > 0,
        Remark.CHANGED: was_minor is not None,
    }
    return tuple(remark for remark, holds in found.items() if holds)
