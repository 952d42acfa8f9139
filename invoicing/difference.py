"""The difference between what should be charged and what is posted, per charge key. Pure."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from engine.money import Rounding, round_ratio, split_largest_remainder
from engine.period import Period
from invoicing.charges import Charge
from invoicing.model import Reason


class StandingLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A posted line as another one gives back of it; `credit_of` is the line that it credits.

    Only a credit by hand has `credit_of`: it has no charge key, and its amount, below zero, is net
    of discount and promotional credit.
    """

    id: str
    document: str
    amount_minor: int
    discount_minor: int = 0
    promotional_minor: int = 0
    credit_of: str | None = None

    @property
    def taxable_minor(self) -> int:
        """What tax was taken on."""
        return self.amount_minor - self.discount_minor - self.promotional_minor


class PostedLine(StandingLine, frozen=True, kw_only=True, gc=False):
    """A line item already posted for a charge key; `counts` is False once its document is void.

    `issued_at` and `voided_at` are those of the document; `credits` are the standing credits by
    hand of this line.
    """

    price_interval: str
    charge_start_at: datetime
    group: str
    sequence: int
    quantity_nanos: int
    period: Period
    counts: bool
    reason: Reason
    issued_at: datetime
    voided_at: datetime | None
    tax_minor: int = 0
    tax_included_minor: int = 0
    credits: tuple[StandingLine, ...] = ()


class RatedCharge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A charge, or one group of it, with its quantity (10^-9 units) and amount in minor units."""

    charge: Charge
    group: str = ""
    quantity_nanos: int
    amount_minor: int


class Difference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line to post: what one charge key owes beyond what is posted for it.

    `reductions` are the discount and the promotional credit that go back with it where credits by
    hand leave less than its share to give back; None where it takes its share.
    """

    charge: Charge
    group: str
    sequence: int
    amount_minor: int
    quantity_nanos: int
    period: Period
    reason: Reason
    adjusts: str | None
    adjusted: tuple[StandingLine, ...] = ()
    reductions: tuple[int, int] | None = None


def group_text(*, names: Sequence[str], values: Sequence[str]) -> str:
    """The group of a charge key: its dimension values as JSON, sorted by name; "" without any.

    `values` may go on beyond the names.
    """
    if not names:
        return ""
    named = dict(sorted(zip(names, values, strict=False)))
    return msgspec.json.encode(named).decode()


def differences_of(
    *, rated: Sequence[RatedCharge], charge: Charge, posted: Sequence[PostedLine]
) -> list[Difference]:
    """should − already for every group of a charge; a group that is no longer there owes nothing.

    `posted` are all lines of the charge, in the order of their sequence within each group.
    """
    if not posted:
        return [_first(line) for line in rated if line.amount_minor]
    by_group: dict[str, list[PostedLine]] = {}
    for line in posted:
        by_group.setdefault(line.group, []).append(line)
    wanted = list(rated)
    known = {line.group for line in rated}
    for group in by_group:
        if group not in known:
            gone = RatedCharge(charge=charge, group=group, quantity_nanos=0, amount_minor=0)
            wanted.append(gone)
    found = [difference_of(rated=line, posted=by_group.get(line.group, ())) for line in wanted]
    return [difference for difference in found if difference is not None]


def _first(rated: RatedCharge) -> Difference:
    return Difference(
        charge=rated.charge,
        group=rated.group,
        sequence=1,
        amount_minor=rated.amount_minor,
        quantity_nanos=rated.quantity_nanos,
        period=rated.charge.active,
        reason=_first_reason(rated.charge),
        adjusts=None,
    )


def _first_reason(charge: Charge) -> Reason:
    return Reason.TRUE_UP if charge.is_commitment else Reason.INITIAL


def _later_reason(charge: Charge, counting: Sequence[PostedLine]) -> Reason:
    """Why a key is billed again; usage is not late where all was billed before its period ended."""
    if charge.agreement.spend_thresholds and charge.is_usage:
        early = all(line.issued_at < charge.due_at for line in counting)
        return Reason.INITIAL if early else Reason.LATE_USAGE
    if charge.is_commitment:
        return Reason.TRUE_UP
    return Reason.LATE_USAGE if charge.is_usage else Reason.PRORATION


def difference_of(*, rated: RatedCharge, posted: Sequence[PostedLine]) -> Difference | None:
    """should − already for one key; None when nothing is left to post.

    `posted` are all lines of the key in the order of their sequence, void ones too: they keep
    their numbers but count nothing. What was credited by hand is not given back again.
    """
    counting = [line for line in posted if line.counts]
    amount = rated.amount_minor - sum(line.amount_minor for line in counting)
    by_hand = credits_of(posted)
    reductions = None
    if amount < 0 and by_hand:
        amount, reductions = _at_most(amount, counting, by_hand)
    if amount == 0:
        return None
    sequence = max((line.sequence for line in posted), default=0) + 1
    if not counting:
        return Difference(
            charge=rated.charge,
            group=rated.group,
            sequence=sequence,
            amount_minor=amount,
            quantity_nanos=rated.quantity_nanos,
            period=rated.charge.active,
            reason=_first_reason(rated.charge) if not posted else Reason.CORRECTION,
            adjusts=posted[0].id if posted else None,
        )
    usage, whole = rated.charge.is_usage, rated.charge.is_usage or rated.charge.is_commitment
    freed = _freed(posted)
    measured = rated.quantity_nanos - sum(line.quantity_nanos for line in counting)
    return Difference(
        charge=rated.charge,
        group=rated.group,
        sequence=sequence,
        amount_minor=amount,
        quantity_nanos=measured if usage else rated.quantity_nanos,
        period=rated.charge.active if whole or freed else _changed(rated.charge.active, counting),
        reason=Reason.CORRECTION if freed else _later_reason(rated.charge, counting),
        adjusts=(freed or counting)[0].id,
        adjusted=(*counting, *by_hand),
        reductions=reductions,
    )


def credits_of(posted: Sequence[PostedLine]) -> tuple[StandingLine, ...]:
    """The standing credits by hand of all lines of a key."""
    return tuple([credit for line in posted for credit in line.credits])


def _at_most(
    amount: int, counting: Sequence[PostedLine], by_hand: Sequence[StandingLine]
) -> tuple[int, tuple[int, int]]:
    """What is given back (below zero) beside credits by hand, and the reductions that go with it.

    Together they give back what was billed, net of reductions, and not a minor unit more: where
    the difference is larger, what goes back of the reductions leaves exactly the rest.
    """
    whole = sum(line.amount_minor for line in counting)
    discount = sum(line.discount_minor for line in counting)
    promotional = sum(line.promotional_minor for line in counting)
    reduced = discount + promotional
    net = whole - reduced
    rest = net + sum(credit.amount_minor for credit in by_hand)
    if rest <= 0:
        return 0, (0, 0)
    most = rest + reduced * rest // net
    given = min(-amount, most)
    back = given - rest
    if given == -amount and reduced:
        share = round_ratio(reduced * given, whole, rounding=Rounding.HALF_UP)
        back = max(back, share)
    if not reduced:
        return -given, (0, 0)
    of_discount, of_promotional = split_largest_remainder(back, (discount, promotional))
    return -given, (of_discount, of_promotional)


def _freed(posted: Sequence[PostedLine]) -> list[PostedLine]:
    """Lines of void documents that no correction has billed again since."""
    corrections = [line for line in posted if line.reason is Reason.CORRECTION]
    return [
        line
        for line in posted
        if line.voided_at is not None
        and not any(
            later.sequence > line.sequence and later.issued_at >= line.voided_at
            for later in corrections
        )
    ]


def _changed(active: Period, counting: Sequence[PostedLine]) -> Period:
    """The stretch that is charged differently: between the end billed so far and the end now."""
    end = counting[0].period.end
    for line in counting[1:]:
        if line.amount_minor < 0 and line.period.end == end:
            end = line.period.start
        elif line.amount_minor > 0 and line.period.start == end:
            end = line.period.end
    if active.end == end:
        return active
    return Period(min(active.end, end), max(active.end, end))
