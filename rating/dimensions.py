"""What a price must be fed, and what groups of usage have in common: dimensions, cells, limits."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from fractions import Fraction
from typing import Final

from engine.money import Rounding, currency_digits, round_ratio
from plans.prices import MatrixPrice, PercentagePrice, Price
from rating.exact import ratio
from rating.tables import limits_shrink

OWN_UNIT_AMOUNT: Final = -1  # the "row" of a matrix that no row matched


class Feed(StrEnum):
    """What a line of a price is rated from, and by which function.

    QUANTITY one quantity, by `rating.rate.rate`: the meter's, or the sum of the events' values.
    EVENTS   each event's value in time order, by `rating.percentage.rate_events`.
    CELLS    a quantity for each combination of the dimensions, by `rating.matrix.rate_cells`.
    """

    QUANTITY = "quantity"
    EVENTS = "events"
    CELLS = "cells"


def feed_of(*, price: Price) -> Feed:
    """What a line of this price is rated from; with `group_by`, once for each group."""
    match price:
        case PercentagePrice():
            return Feed.EVENTS
        case MatrixPrice():
            return Feed.CELLS
        case _:
            return Feed.QUANTITY


def dimensions_of(*, price: Price) -> tuple[str, ...]:
    """Properties by which usage must be kept apart: those of `group_by` first, then the matrix's.

    Groups are one line each; cells that differ in matrix dimensions alone are one line together.
    """
    names = list(price.group_by)
    if isinstance(price, MatrixPrice):
        names += [name for row in price.matrix for name in row.match]
    return tuple(dict.fromkeys(names))


def group_of(*, price: Price, dimensions: Mapping[str, str]) -> tuple[str, ...]:
    """The values that name the line of a combination; a missing property is the empty text."""
    return tuple(dimensions.get(name, "") for name in price.group_by)


def matrix_row(*, price: MatrixPrice, dimensions: Mapping[str, str]) -> int:
    """The first row all of whose values are these, as exact text, or OWN_UNIT_AMOUNT."""
    for index, row in enumerate(price.matrix):
        if all(dimensions.get(name) == value for name, value in row.match.items()):
            return index
    return OWN_UNIT_AMOUNT


def group_limit_adjustment(
    *,
    price: Price,
    currency: str,
    lines_minor: Sequence[int],
    rounding: Rounding,
    fraction: Fraction = Fraction(1),
) -> int:
    """Minor units of the line that brings a price's groups to its minimum or maximum, or 0.

    `lines_minor` are the rounded lines of all groups of one billing period, `fraction` its active
    part. Without `group_by` the lines have their limits in them and nothing is left to adjust.
    """
    if not price.group_by:
        return 0
    total = wanted = sum(lines_minor)
    minimum, maximum = group_limits(price=price, currency=currency, fraction=fraction)
    if minimum is not None:
        wanted = max(wanted, _whole(minimum, rounding))
    if maximum is not None:
        wanted = min(wanted, _whole(maximum, rounding))
    return wanted - total


def group_limits(
    *, price: Price, currency: str, fraction: Fraction = Fraction(1)
) -> tuple[Fraction | None, Fraction | None]:
    """Minimum and maximum of all groups together in minor units, not rounded."""
    share = fraction if limits_shrink(price) else Fraction(1)
    scale = share * 10 ** currency_digits(currency)
    least, most = price.minimum_amount, price.maximum_amount
    return (
        None if least is None else ratio(least) * scale,
        None if most is None else ratio(most) * scale,
    )


def _whole(value: Fraction, rounding: Rounding) -> int:
    return round_ratio(value.numerator, value.denominator, rounding=rounding)
