"""The lines of a document and what reduces or taxes them. Pure.

A line's own amount never changes on its way to a document: what a coupon, a promotional credit and
a tax do to it stands beside it, each rounded to minor units, so that every sum can be read off.
Below zero a line gives back, and so do its discount, its promotional part and its tax.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from engine.journal import CONTRACT_BALANCE
from engine.money import Rounding, round_ratio, split_largest_remainder
from engine.period import Period
from invoicing.difference import Difference, StandingLine
from invoicing.model import Reason


class Line(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line about to be posted.

    A derived line has its charge key: `price_interval`, `charge_start_at`, `group` and `sequence`;
    one written by hand has none. `key` is what was sold, `contract` whose balance in the books it
    moves ("" for the document's own), and `account` where the books take it. `adjusts` names the
    line it corrects and `adjusted` the lines that count for its key; `reductions` are the discount
    and the promotional credit that go back with it, None its share of them. What a refundable line
    gives back was asked for as money. `name`, `unit_amount` (major units) and `revenue` (JSON: how
    it is earned) are what was written by hand, and `customer` (id) whom that is about where
    another one pays; `meter` is that of a usage price.
    """

    key: str
    contract: str
    amount_minor: int
    quantity_nanos: int | None
    period: Period | None
    reason: Reason
    subscription: str | None = None
    price_interval: str | None = None
    charge_start_at: datetime | None = None
    group: str = ""
    sequence: int = 1
    adjusts: str | None = None
    adjusted: tuple[StandingLine, ...] = ()
    reductions: tuple[int, int] | None = None
    account: str = CONTRACT_BALANCE
    name: str | None = None
    customer: str | None = None
    unit_amount: str | None = None
    revenue: str | None = None
    is_refundable: bool = False
    tax_rates: tuple[str, ...] = ()
    meter: str | None = None
    discount_minor: int = 0
    promotional_minor: int = 0
    tax_minor: int = 0
    tax_included_minor: int = 0

    @property
    def taxable_minor(self) -> int:
        """What tax is taken on: the amount less discount and promotional credit."""
        return self.amount_minor - self.discount_minor - self.promotional_minor

    @property
    def net_minor(self) -> int:
        """What the line earns: without any tax, whether it was added or included."""
        return self.taxable_minor - self.tax_included_minor

    @property
    def gross_minor(self) -> int:
        """What the customer pays for the line."""
        return self.net_minor + self.tax_minor

    @property
    def is_plain(self) -> bool:
        """Whether nothing but its amount makes the line."""
        return not (self.discount_minor or self.promotional_minor or self.tax_minor)


class LineDiscount(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one applied coupon takes off a line; below zero what it takes back. `line` from 0."""

    line: int
    application: str
    amount_minor: int


class LineTax(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One tax on a line; `line` counts from 0.

    `percentage` is decimal text; `category` says why there is none where there is none. An
    included tax is part of the line's amount.
    """

    line: int
    rate: str
    percentage: str
    included: bool
    jurisdiction: str
    category: str
    taxable_minor: int
    amount_minor: int


class CreditDraw(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one credit grant pays of a line; below zero what it gets back. `line` from 0."""

    line: int
    grant: str
    kind: str
    amount_minor: int


def line_of(difference: Difference, *, billed_at: datetime) -> Line:
    """The line that posts a difference, before anything reduces or taxes it."""
    charge = difference.charge
    price = charge.stretch.price
    ends_at = charge.agreement.ends_at
    common = bool(price.group_by) and not difference.group  # a limit over all groups
    return Line(
        key=price.key,
        contract=charge.agreement.key,
        amount_minor=difference.amount_minor,
        quantity_nanos=None if common or charge.is_commitment else difference.quantity_nanos,
        period=difference.period,
        reason=difference.reason,
        subscription=charge.agreement.id,
        price_interval=charge.stretch.id,
        charge_start_at=charge.period.start,
        group=difference.group,
        sequence=difference.sequence,
        adjusts=difference.adjusts,
        adjusted=difference.adjusted,
        reductions=difference.reductions,
        meter=price.meter,
        is_refundable=charge.agreement.refund_unused
        and ends_at is not None
        and ends_at <= billed_at,
    )


def taken_back(
    *,
    line: Line,
    sums: Mapping[str, int],
    rounding: Rounding,
    fixed: int | None,
    paid_minor: int,
    net_minor: int,
) -> dict[str, int]:
    """What goes back of each reduction (its sum so far) with a line that gives back.

    Each in proportion, all of it when nothing of the charge remains; but together `fixed` where
    that is given, and never so much that the line, which gives back `paid_minor` before them, would
    charge, nor so little that it gives back more than `net_minor`, what the charge comes to after
    them.
    """
    if not sums:
        return {}
    given = -line.amount_minor
    whole = sum([each.amount_minor for each in line.adjusted])
    backs = dict(sums)
    if given < whole:
        backs = {
            name: min(amount, round_ratio(amount * given, whole, rounding=rounding))
            for name, amount in sums.items()
        }
    total = sum(backs.values())
    wanted = min(max(total, paid_minor - net_minor), paid_minor) if fixed is None else fixed
    if not wanted:
        return {}
    if wanted != total:
        shares = split_largest_remainder(wanted, list(sums.values()))
        backs = dict(zip(sums, shares, strict=True))
    return {name: amount for name, amount in backs.items() if amount}
