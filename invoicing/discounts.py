"""Coupons on the lines of a document. Pure.

Percentages come first, one after the other on what remains, each rounded once on the sum of the
lines it applies to; then fixed amounts, up to what remains. Each is spread over its lines by
largest remainder, and no line goes below zero. A line that gives back takes back the share of the
discount that its charge had.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from fractions import Fraction

import msgspec

from engine.money import Rounding, round_ratio, split_largest_remainder
from invoicing.lines import Line, LineDiscount, taken_back


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """A coupon that a subscription has, in the order in which they were given.

    `percentage` or `amount_minor` in `currency`; `left` counts the documents it still holds for,
    None for ever; `prices` are the keys it applies to, all of them when empty.
    """

    id: str
    coupon: str
    subscription: str
    percentage: str | None
    amount_minor: int | None
    currency: str | None
    left: int | None
    prices: tuple[str, ...]
    applied_at: datetime
    removed_at: datetime | None = None


class PostedDiscount(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one applied coupon took off a posted line."""

    application: str
    amount_minor: int


def discount_lines(
    *,
    lines: Sequence[Line],
    applications: Sequence[Application],
    currency: str,
    billed_at: datetime,
    rounding: Rounding,
    posted: Mapping[str, Sequence[PostedDiscount]],
) -> tuple[list[Line], list[LineDiscount]]:
    """The lines with their discount, and what each applied coupon takes off each line.

    `posted` has, by line id, the discounts of the lines that this document corrects.
    """
    found: list[LineDiscount] = []
    for index, line in enumerate(lines):
        if line.amount_minor < 0 and line.adjusted:
            found += _taken_back(index, line, rounding, posted)
    left = [max(line.amount_minor, 0) for line in lines]
    order = [each for each in applications if each.percentage is not None]
    order += [each for each in applications if each.percentage is None]
    for application in order:
        if not _holds(application, billed_at, currency):
            continue
        mine = [
            index
            for index, line in enumerate(lines)
            if left[index] > 0 and _is_eligible(application, line)
        ]
        taken = _taken(application, sum(left[index] for index in mine), rounding)
        if not taken:
            continue
        shares = split_largest_remainder(taken, [left[index] for index in mine])
        for index, share in zip(mine, shares, strict=True):
            if share:
                left[index] -= share
                found.append(
                    LineDiscount(line=index, application=application.id, amount_minor=share)
                )
    sums: dict[int, int] = {}
    for each in found:
        sums[each.line] = sums.get(each.line, 0) + each.amount_minor
    reduced = [
        msgspec.structs.replace(line, discount_minor=sums[index]) if index in sums else line
        for index, line in enumerate(lines)
    ]
    return reduced, found


def _holds(application: Application, billed_at: datetime, currency: str) -> bool:
    if application.removed_at is not None and application.removed_at <= billed_at:
        return False
    if application.applied_at > billed_at or application.left == 0:
        return False
    return application.currency in (None, currency)


def _is_eligible(application: Application, line: Line) -> bool:
    if application.subscription != line.subscription:
        return False
    return not application.prices or line.key in application.prices


def _taken(application: Application, base: int, rounding: Rounding) -> int:
    if application.amount_minor is not None:
        return min(application.amount_minor, base)
    assert application.percentage is not None
    exact = base * Fraction(application.percentage) / 100
    return min(round_ratio(exact.numerator, exact.denominator, rounding=rounding), base)


def _taken_back(
    index: int,
    line: Line,
    rounding: Rounding,
    posted: Mapping[str, Sequence[PostedDiscount]],
) -> list[LineDiscount]:
    """Each discount of the charge in proportion to what is given back, all of it at the end."""
    sums: dict[str, int] = {}
    for each in line.adjusted:
        for discount in posted.get(each.id, ()):
            known = sums.get(discount.application, 0)
            sums[discount.application] = known + discount.amount_minor
    charged = sum(each.amount_minor for each in line.adjusted)
    backs = taken_back(
        line=line,
        sums=sums,
        rounding=rounding,
        fixed=None if line.reductions is None else line.reductions[0],
        paid_minor=-line.amount_minor,
        net_minor=charged - sum(sums.values()),
    )
    return [
        LineDiscount(line=index, application=application, amount_minor=-back)
        for application, back in backs.items()
    ]
