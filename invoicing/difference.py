"""The difference between what should be charged and what is posted, per charge key. Pure."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from engine.period import Period
from invoicing.charges import Charge
from invoicing.model import Reason

GroupedKey = tuple[str, datetime]


class PostedLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line item already posted for a charge key; `counts` is False once its document is void."""

    id: str
    document: str
    price_interval: str
    charge_start_at: datetime
    sequence: int
    amount_minor: int
    quantity_nanos: int
    period: Period
    counts: bool


class RatedCharge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A charge with the quantity it was rated at (10^-9 units) and its amount in minor units."""

    charge: Charge
    quantity_nanos: int
    amount_minor: int


class Difference(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A line to post: what one charge key owes beyond what is posted for it."""

    charge: Charge
    sequence: int
    amount_minor: int
    quantity_nanos: int
    period: Period
    reason: Reason
    adjusts: str | None
    adjusted_documents: tuple[str, ...]


def difference_of(*, rated: RatedCharge, posted: Sequence[PostedLine]) -> Difference | None:
    """should − already for one key; None when nothing is left to post.

    `posted` are all lines of the key in the order of their sequence, void ones too: they keep
    their numbers but count nothing.
    """
    counting = [line for line in posted if line.counts]
    amount = rated.amount_minor - sum(line.amount_minor for line in counting)
    if amount == 0:
        return None
    sequence = max((line.sequence for line in posted), default=0) + 1
    if not counting:
        return Difference(
            charge=rated.charge,
            sequence=sequence,
            amount_minor=amount,
            quantity_nanos=rated.quantity_nanos,
            period=rated.charge.active,
            reason=Reason.INITIAL if not posted else Reason.CORRECTION,
            adjusts=posted[0].id if posted else None,
            adjusted_documents=(),
        )
    usage = rated.charge.is_usage
    measured = rated.quantity_nanos - sum(line.quantity_nanos for line in counting)
    return Difference(
        charge=rated.charge,
        sequence=sequence,
        amount_minor=amount,
        quantity_nanos=measured if usage else rated.quantity_nanos,
        period=rated.charge.active if usage else _changed(rated.charge.active, counting),
        reason=Reason.LATE_USAGE if usage else Reason.PRORATION,
        adjusts=counting[0].id,
        adjusted_documents=tuple(dict.fromkeys(line.document for line in counting)),
    )


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
