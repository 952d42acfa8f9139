"""Credit grants on the lines of a document. Pure.

Promotional grants pay before tax, prepaid ones after it with the tax. Within a kind the order is
priority, earliest end, oldest. What one grant pays is spread over the lines in its scope by largest
remainder; no line, and no document, goes below zero by it. Credit never pays for credit.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from engine.journal import PREPAID_CREDITS
from engine.money import Rounding, split_largest_remainder
from invoicing.assembly import Draft, summed
from invoicing.lines import CreditDraw, Line, taken_back

PROMOTIONAL = "promotional"
PREPAID = "prepaid"
Key = tuple[str, datetime]


class UsableGrant(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A grant of one customer and what is left of it.

    It pays lines of `prices` (keys) or `meters` (keys); of all when both are empty. One that ended
    has `ended_at` and pays only what is reserved, by charge key. One that follows another begins
    after the documents of its first instant.
    """

    id: str
    customer: str
    currency: str
    kind: str
    effective_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None = None
    is_successor: bool = False
    prices: tuple[str, ...] = ()
    meters: tuple[str, ...] = ()
    left_minor: int
    reserved: Mapping[Key, int] = msgspec.field(default_factory=dict)


class PostedDraw(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one promotional grant paid of a posted line."""

    credit_grant: str
    amount_minor: int


class Wallet:
    """What is left of grants while documents of one transaction draw on them, one by one."""

    def __init__(self, grants: Sequence[UsableGrant]) -> None:
        """`grants` in the order in which those of a kind are used."""
        self.grants = tuple(grants)
        self.left = {grant.id: grant.left_minor for grant in grants}
        self.reserved = {
            (grant.id, key): amount for grant in grants for key, amount in grant.reserved.items()
        }

    def usable(self, draft: Draft, kind: str) -> list[UsableGrant]:
        """Those that may pay of the document, in order."""
        return [
            grant
            for grant in self.grants
            if grant.kind == kind
            and grant.customer == draft.customer.id
            and grant.currency == draft.currency
            and self.left[grant.id] > 0
            and _lives(grant, draft.billed_at)
        ]

    def give_back(self, grant: str, amount_minor: int) -> None:
        """What a line gives back can be used again."""
        if grant in self.left:
            self.left[grant] += amount_minor

    def take(
        self, grant: UsableGrant, lines: Sequence[Line], left: list[int], most: int
    ) -> list[CreditDraw]:
        """Pay of each line up to its `left`, and `most` in all; lowers `left`."""
        found: list[CreditDraw] = []
        for key in (None,) if grant.ended_at is None else tuple(grant.reserved):
            pool = self.left[grant.id]
            if key is not None:
                pool = min(pool, self.reserved[grant.id, key])
            mine = [
                index
                for index, line in enumerate(lines)
                if left[index] > 0
                and _is_in_scope(grant, line)
                and (key is None or key == (line.price_interval, line.charge_start_at))
            ]
            taken = min(pool, sum([left[index] for index in mine]), most)
            if taken <= 0:
                continue
            most -= taken
            self.left[grant.id] -= taken
            if key is not None:
                self.reserved[grant.id, key] -= taken
            shares = split_largest_remainder(taken, [left[index] for index in mine])
            for index, share in zip(mine, shares, strict=True):
                if share:
                    left[index] -= share
                    found.append(
                        CreditDraw(line=index, grant=grant.id, kind=grant.kind, amount_minor=share)
                    )
        return found


def draw_promotional(
    *,
    draft: Draft,
    lines: Sequence[Line],
    wallet: Wallet,
    posted: Mapping[str, Sequence[PostedDraw]],
    rounding: Rounding,
) -> tuple[list[Line], list[CreditDraw]]:
    """The lines with their promotional part, and each draw of each line.

    Lines are net of coupons and not taxed yet. A line that gives back gives the share that grants
    paid of its charge back to them, all of it when nothing of the charge remains. `posted` has, by
    line id, the draws of the lines that this document corrects.
    """
    found: list[CreditDraw] = []
    for index, line in enumerate(lines):
        if line.amount_minor < 0 and line.adjusted:
            found += _given_back(index, line, posted, rounding)
    for draw in found:
        wallet.give_back(draw.grant, -draw.amount_minor)
    returned = sum([draw.amount_minor for draw in found])
    most = sum([line.amount_minor - line.discount_minor for line in lines]) - returned
    left = [max(line.amount_minor - line.discount_minor, 0) for line in lines]
    found += _drawn(draft=draft, lines=lines, wallet=wallet, kind=PROMOTIONAL, left=left, most=most)
    sums: dict[int, int] = {}
    for draw in found:
        sums[draw.line] = sums.get(draw.line, 0) + draw.amount_minor
    return [
        msgspec.structs.replace(line, promotional_minor=sums[index]) if index in sums else line
        for index, line in enumerate(lines)
    ], found


def draw_prepaid(*, draft: Draft, wallet: Wallet) -> Draft:
    """The complete draft with what prepaid grants pay of it, tax included."""
    left = [max(line.gross_minor, 0) for line in draft.lines]
    found = _drawn(
        draft=draft,
        lines=draft.lines,
        wallet=wallet,
        kind=PREPAID,
        left=left,
        most=draft.total_minor,
    )
    if not found:
        return draft
    return summed(msgspec.structs.replace(draft, draws=(*draft.draws, *found)))


def _drawn(
    *,
    draft: Draft,
    lines: Sequence[Line],
    wallet: Wallet,
    kind: str,
    left: list[int],
    most: int,
) -> list[CreditDraw]:
    found: list[CreditDraw] = []
    for grant in wallet.usable(draft, kind):
        draws = wallet.take(grant, lines, left, most)
        most -= sum([draw.amount_minor for draw in draws])
        found += draws
    return found


def _lives(grant: UsableGrant, billed_at: datetime) -> bool:
    if grant.ended_at is not None:
        return True  # what is reserved is spent on its own charges only
    if grant.expires_at is not None and grant.expires_at < billed_at:
        return False
    if grant.is_successor:
        return grant.effective_at < billed_at
    return grant.effective_at <= billed_at


def _is_in_scope(grant: UsableGrant, line: Line) -> bool:
    if line.account == PREPAID_CREDITS:
        return False
    if not (grant.prices or grant.meters):
        return True
    return line.key in grant.prices or (line.meter is not None and line.meter in grant.meters)


def _given_back(
    index: int, line: Line, posted: Mapping[str, Sequence[PostedDraw]], rounding: Rounding
) -> list[CreditDraw]:
    """Each grant's part of the charge in proportion to what is given back."""
    sums: dict[str, int] = {}
    for each in line.adjusted:
        for draw in posted.get(each.id, ()):
            sums[draw.credit_grant] = sums.get(draw.credit_grant, 0) + draw.amount_minor
    charged = sum([each.amount_minor - each.discount_minor for each in line.adjusted])
    backs = taken_back(
        line=line,
        sums=sums,
        rounding=rounding,
        fixed=None if line.reductions is None else line.reductions[1],
        paid_minor=line.discount_minor - line.amount_minor,
        net_minor=charged - sum(sums.values()),
    )
    return [
        CreditDraw(line=index, grant=grant, kind=PROMOTIONAL, amount_minor=-back)
        for grant, back in backs.items()
    ]
