"""What posted lines tell as their quantity, where their amounts are as they must be. Pure.

Seats are told as agreed. Usage that came later without moving the amount is billed with nothing, so
the lines of a key may tell less than is measured today: then what they tell must come to what they
charge. A price of single events or of a matrix is not rated from one quantity, so there is no more
to be said.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from engine.money import Rounding, format_plain
from invoicing.charges import Charge
from invoicing.difference import PostedLine, RatedCharge
from invoicing.rate_charges import NANO_DIGITS, feed_of_charge, priced_charges
from rating.dimensions import Feed
from rating.rate import AmountOutOfRangeError, Quantities, rate


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the lines of a charge, or of one group of it, tell beside what is derived."""

    charge: Charge
    told_nanos: int
    derived_nanos: int
    amount_minor: int

    @property
    def detail(self) -> str:
        """Both sides of the comparison."""
        told, derived = (
            format_plain(each, digits=NANO_DIGITS) for each in (self.told_nanos, self.derived_nanos)
        )
        return f"tells a quantity of {told}, derived {derived}"


def otherwise_told(
    *, rated: Sequence[RatedCharge], posted: Sequence[PostedLine]
) -> tuple[list[Told], list[Told]]:
    """(quantities that are wrong, those that may be of usage that moved no amount).

    `rated` and `posted` are what a charge owes and its lines, of which no amount differs.
    """
    wrong: list[Told] = []
    stale: list[Told] = []
    for each in rated:
        lines = [line for line in posted if line.group == each.group and line.counts]
        charge = each.charge
        whole = charge.is_commitment or (bool(charge.stretch.price.group_by) and not each.group)
        wanted = 0 if whole else each.quantity_nanos
        if charge.is_usage and not whole:
            told = sum(line.quantity_nanos for line in lines)
            if lines and told != wanted and not any(line.credits for line in lines):
                stale.append(_told(each, lines, told, wanted))
            continue
        for line in lines:
            gone = line.amount_minor < 0 and not line.quantity_nanos
            if line.quantity_nanos != wanted and not gone:
                wrong.append(_told(each, lines, line.quantity_nanos, wanted))
    return wrong, stale


def _told(rated: RatedCharge, lines: Sequence[PostedLine], told: int, wanted: int) -> Told:
    return Told(
        charge=rated.charge,
        told_nanos=told,
        derived_nanos=wanted,
        amount_minor=sum(line.amount_minor for line in lines),
    )


def not_what_they_charge(*, stale: Sequence[Told], rounding: Rounding) -> list[Told]:
    """Those whose quantity does not come to their amount."""
    plain = [
        each
        for each in stale
        if feed_of_charge(each.charge) in {None, Feed.QUANTITY} and each.told_nanos >= 0
    ]
    return [each for each in plain if not _comes_to(each, rounding)]


def _comes_to(each: Told, rounding: Rounding) -> bool:
    """Whether its quantity gives its amount; more digits were rated than the nine that are kept."""
    priced = priced_charges([each.charge])
    kept = np.array([each.told_nanos, each.told_nanos + 1], dtype=object)
    twice = np.zeros(2, dtype=np.int32)
    try:
        low, high = rate(
            tables=priced.tables,
            price=priced.row[twice],
            quantity=Quantities(mantissa=kept, digits=NANO_DIGITS),
            fraction_numerator=priced.numerator[twice],
            fraction_denominator=priced.denominator[twice],
            rounding=rounding,
        ).tolist()
    except AmountOutOfRangeError:
        return False
    return min(low, high) <= each.amount_minor <= max(low, high)
