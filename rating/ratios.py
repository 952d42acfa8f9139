"""One line in exact ratios, every step kept: slow, the last word where arrays are too narrow."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from math import ceil, floor
from typing import Final

import msgspec

from engine.money import currency_digits
from plans.prices import (
    DynamicPrice,
    FlatPrice,
    FlatTier,
    GraduatedPercentagePrice,
    GraduatedPrice,
    MatrixPrice,
    PackagePrice,
    PercentagePrice,
    PerUnitPrice,
    Price,
    QuantityRounding,
    RateTier,
    StairstepPrice,
    Tier,
    TieredPrice,
    VolumePrice,
)
from rating.exact import ratio
from rating.tables import FINE, bounds_shrink, is_prorated, limits_shrink, upper_bounds

ONE: Final = Fraction(1)
ZERO: Final = Fraction(0)

Cells = Sequence[tuple[int, Fraction]]
"""Matrix row (or OWN_UNIT_AMOUNT) and quantity of each combination of dimensions."""


class Step(msgspec.Struct, frozen=True):
    """`units` at `unit_amount` plus `flat_amount`, in units and major units."""

    label: str
    units: Fraction
    unit_amount: Fraction
    flat_amount: Fraction

    def amount(self) -> Fraction:
        """What the step adds to the line."""
        return self.units * self.unit_amount + self.flat_amount


class EventWork(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events of a line, amounts in major units.

    `crossing` counts from 1: the event that went beyond the free amount and pays on `excess`.
    `paying_value` is what the rate is taken of. `raised` and `lowered` are the events at their
    own minimum and maximum.
    """

    count: int
    value: Fraction
    free: int = 0
    free_value: Fraction = ZERO
    crossing: int | None = None
    excess: Fraction | None = None
    paying: int = 0
    paying_value: Fraction = ZERO
    raised: int = 0
    lowered: int = 0


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One line from what was used to what is owed, amounts in major units.

    The steps sum to `gross`; `amount` is gross × `share`, inside the limits.
    """

    quantity: Fraction
    allowance: Fraction
    left: Fraction
    billed: Fraction
    events: EventWork | None
    steps: tuple[Step, ...]
    gross: Fraction
    share: Fraction
    minimum: Fraction | None
    maximum: Fraction | None
    amount: Fraction


def exact_amount(
    *,
    price: Price,
    fraction: Fraction,
    currency: str,
    quantity: Fraction = ZERO,
    events: Sequence[Fraction] = (),
    cells: Cells = (),
) -> Fraction:
    """The amount in minor units before it is rounded, the line's minimum and maximum included.

    `fraction` is the active part of the period; prices that are not prorated ignore it. A
    percentage price takes `events` in time order, a matrix `cells`, every other one `quantity`.
    """
    work = work_out(price=price, fraction=fraction, quantity=quantity, events=events, cells=cells)
    return work.amount * 10 ** currency_digits(currency)


def work_out(
    *,
    price: Price,
    fraction: Fraction,
    quantity: Fraction = ZERO,
    events: Sequence[Fraction] = (),
    cells: Cells = (),
) -> Work:
    """The line with all its steps; arguments as in `exact_amount`."""
    allowance = left = billed = ZERO
    done: EventWork | None = None
    match price:
        case PercentagePrice():
            done, steps = _event_steps(price, events, _bound_share(price, fraction))
            quantity = done.value
        case MatrixPrice():
            steps = tuple(_cell_steps(price, cells))
            quantity = sum((cell for _, cell in cells), start=ZERO)
        case _:
            allowance = _allowance(price, fraction)
            left = max(quantity - allowance, ZERO)
            billed = _stepped(left, price.quantity_rounding)
            steps = tuple(quantity_steps(price=price, billed=billed, fraction=fraction))
    gross = max(sum((step.amount() for step in steps), start=ZERO), ZERO)
    share = fraction if is_prorated(price) else ONE
    minimum, maximum = _limits(price, fraction)
    amount = gross * share
    if minimum is not None:
        amount = max(amount, minimum)
    if maximum is not None:
        amount = min(amount, maximum)
    return Work(
        quantity=quantity,
        allowance=allowance,
        left=left,
        billed=billed,
        events=done,
        steps=steps,
        gross=gross,
        share=share,
        minimum=minimum,
        maximum=maximum,
        amount=amount,
    )


def billed_quantity(*, price: Price, quantity: Fraction, fraction: Fraction) -> Fraction:
    """What is left of a quantity after the allowance, rounded as the price says."""
    left = max(quantity - _allowance(price, fraction), ZERO)
    return _stepped(left, price.quantity_rounding)


def _allowance(price: Price, fraction: Fraction) -> Fraction:
    return ratio(price.included_quantity or "0") * _bound_share(price, fraction)


def _bound_share(price: Price, fraction: Fraction) -> Fraction:
    return fraction if bounds_shrink(price) else ONE


def _limits(price: Price, fraction: Fraction) -> tuple[Fraction | None, Fraction | None]:
    """Those of the line: over groups they are a line of their own."""
    if price.group_by:
        return None, None
    share = fraction if limits_shrink(price) else ONE
    least, most = price.minimum_amount, price.maximum_amount
    return (
        None if least is None else ratio(least) * share,
        None if most is None else ratio(most) * share,
    )


def _stepped(quantity: Fraction, rounding: QuantityRounding | None) -> Fraction:
    if rounding is None:
        return quantity
    step = Fraction(10) ** -rounding.digits
    match rounding.mode:
        case "up":
            return ceil(quantity / step) * step
        case "down":
            return floor(quantity / step) * step
        case "half_up":
            return floor(quantity / step + Fraction(1, 2)) * step


def quantity_steps(*, price: Price, billed: Fraction, fraction: Fraction) -> Iterator[Step]:
    """The steps of a price that is rated from one quantity, after allowance and rounding."""
    match price:
        case FlatPrice():
            yield Step("flat amount", ONE, ratio(price.flat_amount), ZERO)
        case PerUnitPrice():
            yield Step("units", billed, ratio(price.unit_amount), ZERO)
        case DynamicPrice():
            yield Step("amounts of the events", billed, ONE, ZERO)
        case PackagePrice():
            packages = billed / ratio(price.package_size)
            count = ceil(packages) if price.package_rounding == "up" else floor(packages)
            yield Step("packages", Fraction(count), ratio(price.unit_amount), ZERO)
        case GraduatedPrice() | VolumePrice() | StairstepPrice() | GraduatedPercentagePrice():
            if billed > 0 or price.flat_at_zero:
                yield from _tier_steps(price, billed, _bound_share(price, fraction))
        case PercentagePrice() | MatrixPrice():
            return


def _tier_steps(price: TieredPrice, quantity: Fraction, share: Fraction) -> Iterator[Step]:
    lower = ZERO
    tiers = zip(price.tiers, upper_bounds(price), strict=True)
    for number, (tier, bound) in enumerate(tiers, start=1):
        upper = quantity if tier.up_to is None else Fraction(bound, FINE) * share
        unit, flat = _tier_unit(tier), ratio(tier.flat_amount or "0")
        holds = quantity <= upper
        if isinstance(price, GraduatedPrice | GraduatedPercentagePrice):
            yield Step(f"tier {number}", min(quantity, upper) - lower, unit, flat)
        elif holds:
            yield Step(f"tier {number}", quantity, unit, flat)
        if holds:
            return
        lower = upper


def _tier_unit(tier: Tier | FlatTier | RateTier) -> Fraction:
    match tier:
        case Tier():
            return ratio(tier.unit_amount or "0")
        case FlatTier():
            return ZERO
        case RateTier():
            return ratio(tier.rate or "0") / 100


def _cell_steps(price: MatrixPrice, cells: Cells) -> Iterator[Step]:
    """One step for each combination: below zero counts as zero, as everywhere."""
    for row, quantity in cells:
        own = row < 0
        label = "no row matches" if own else f"row {row + 1}"
        unit = price.unit_amount if own else price.matrix[row].unit_amount
        units = _stepped(max(quantity, ZERO), price.quantity_rounding)
        yield Step(label, units, ratio(unit), ZERO)


def _event_steps(
    price: PercentagePrice, events: Sequence[Fraction], share: Fraction
) -> tuple[EventWork, tuple[Step, ...]]:
    """The events walked in time order: free, crossing, paying; then the rate and what is fixed."""
    most_free = None if price.free_events is None else price.free_events * share
    free_amount = None if price.free_amount is None else ratio(price.free_amount) * share
    free = most_free is not None or free_amount is not None
    running = free_value = ZERO
    crossing: int | None = None
    bases: list[Fraction] = []
    for index, value in enumerate(events):
        running += value
        if not free:
            bases.append(value)
        elif most_free is not None and index >= most_free:
            free = False
            bases.append(value)
        elif free_amount is not None and running > free_amount:
            free, crossing = False, index
            bases.append(running - free_amount)
        else:
            free_value = running
    rate, fixed = ratio(price.rate) / 100, ratio(price.fixed_amount or "0")
    least = None if price.event_minimum is None else ratio(price.event_minimum)
    most = None if price.event_maximum is None else ratio(price.event_maximum)
    raised = lowered = 0
    moved = ZERO
    for base in bases:
        charged = amount = base * rate + fixed
        if least is not None and charged < least:
            charged, raised = least, raised + 1
        if most is not None and charged > most:
            charged, lowered = most, lowered + 1
        moved += charged - amount
    paying_value = sum(bases, start=ZERO)
    work = EventWork(
        count=len(events),
        value=running,
        free=len(events) - len(bases),
        free_value=free_value,
        crossing=None if crossing is None else crossing + 1,
        excess=None if crossing is None else bases[0],
        paying=len(bases),
        paying_value=paying_value,
        raised=raised,
        lowered=lowered,
    )
    steps = [Step("rate on what pays", paying_value, rate, ZERO)]
    if fixed:
        steps.append(Step("paying events", Fraction(len(bases)), fixed, ZERO))
    if raised or lowered:
        steps.append(Step("event minimum and maximum", ZERO, ZERO, moved))
    return work, tuple(steps)
