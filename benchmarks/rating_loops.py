"""The rules of rating as loops over Decimal, the way an application would write them."""

from bisect import bisect_left
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from itertools import pairwise

import numpy as np
from rating_workloads import (
    CENT_DIGITS,
    DIGITS,
    Answer,
    Celled,
    Evented,
    Mixed,
    Quantified,
    Run,
    Workload,
)

from plans.prices import (
    GraduatedPrice,
    MatrixPrice,
    PackagePrice,
    PercentagePrice,
    Price,
    VolumePrice,
)

ONE, ZERO = Decimal(1), Decimal(0)


def cents(text: str | None) -> Decimal:
    return Decimal(text or "0") * 100


def plain_loop(work: Workload) -> Run:
    """The rule as it reads: walk the tiers, packages, events or cells, and round once."""
    if isinstance(work, Mixed):
        runs = [plain_loop(part) for part in work.parts]
        return lambda: np.concatenate([run() for run in runs])
    if isinstance(work, Quantified):
        return _quantity_loop(work)
    return _event_loop(work) if isinstance(work, Evented) else _cell_loop(work)


def _finish(exact: list[Decimal]) -> Answer:
    return np.array([int(amount.quantize(ONE)) for amount in exact], dtype=np.int64)


def _quantity_loop(work: Quantified) -> Run:
    rules = [_rule(price) for price in work.tables.prices]
    plans = work.plan.tolist()
    quantities = [Decimal(value).scaleb(-DIGITS) for value in work.quantity.tolist()]

    def run() -> Answer:
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            return _finish(
                [_by_rule(rules[plan], q) for plan, q in zip(plans, quantities, strict=True)]
            )

    return run


def _rule(price: Price) -> tuple[str, list[tuple[Decimal | None, Decimal, Decimal]]]:
    if isinstance(price, PackagePrice):
        size, up = Decimal(price.package_size), price.package_rounding
        return up, [(size, cents(price.unit_amount), ZERO)]
    assert isinstance(price, GraduatedPrice | VolumePrice)
    return "graduated" if isinstance(price, GraduatedPrice) else "volume", [
        (
            None if tier.up_to is None else Decimal(tier.up_to),
            cents(tier.unit_amount),
            cents(tier.flat_amount),
        )
        for tier in price.tiers
    ]


def _by_rule(
    rule: tuple[str, list[tuple[Decimal | None, Decimal, Decimal]]], quantity: Decimal
) -> Decimal:
    model, tiers = rule
    if model in {"up", "down"}:
        size, unit, _ = tiers[0]
        assert size is not None
        count, rest = divmod(quantity, size)
        return (count + 1 if rest and model == "up" else count) * unit
    total = lower = ZERO
    for upper, unit, flat in tiers:
        holds = upper is None or quantity <= upper
        if model == "volume":
            if holds:
                return quantity * unit + flat
            continue
        if holds or upper is None:
            return total + (quantity - lower) * unit + flat
        total += (upper - lower) * unit + flat
        lower = upper
    raise AssertionError("the last tier is open")


def _event_loop(work: Evented) -> Run:
    rules = []
    for price in work.tables.prices:
        assert isinstance(price, PercentagePrice)
        rules.append(
            (
                Decimal(price.rate),
                cents(price.fixed_amount),
                price.free_events,
                None if price.free_amount is None else Decimal(price.free_amount),
                None if price.event_minimum is None else cents(price.event_minimum),
                None if price.event_maximum is None else cents(price.event_maximum),
            )
        )
    plans = work.plan.tolist()
    values = [Decimal(value).scaleb(-CENT_DIGITS) for value in work.value.tolist()]
    lines = [values[begin:end] for begin, end in pairwise(work.offsets.tolist())]

    def run() -> Answer:
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            return _finish(
                [_by_events(rules[plan], line) for plan, line in zip(plans, lines, strict=True)]
            )

    return run


def _by_events(
    rule: tuple[Decimal, Decimal, int | None, Decimal | None, Decimal | None, Decimal | None],
    values: list[Decimal],
) -> Decimal:
    rate, fixed, free_events, free_amount, least, most = rule
    free = free_events is not None or free_amount is not None
    total = running = ZERO
    for before, value in enumerate(values):
        base = value
        if free:
            running += value
            if free_events is not None and before >= free_events:
                free = False
            elif free_amount is not None and running > free_amount:
                free, base = False, running - free_amount
            else:
                continue
        amount = base * rate + fixed
        if least is not None and amount < least:
            amount = least
        if most is not None and amount > most:
            amount = most
        total += amount
    return total


def _cell_loop(work: Celled) -> Run:
    units = []
    for price in work.tables.prices:
        assert isinstance(price, MatrixPrice)
        units.append([cents(row.unit_amount) for row in price.matrix] + [cents(price.unit_amount)])
    plans = work.plan.tolist()
    cells = [
        (row, Decimal(value).scaleb(-DIGITS))
        for row, value in zip(work.row.tolist(), work.quantity.tolist(), strict=True)
    ]
    lines = [cells[begin:end] for begin, end in pairwise(work.offsets.tolist())]

    def run() -> Answer:
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            return _finish(
                [
                    sum((quantity * units[plan][row] for row, quantity in line), start=ZERO)
                    for plan, line in zip(plans, lines, strict=True)
                ]
            )

    return run


def tuned_loop(work: Workload) -> Run | None:
    """Tiers at their best: prefixes summed beforehand, the tier by bisection, one product."""
    if not isinstance(work, Quantified) or isinstance(work.tables.prices[0], PackagePrice):
        return None
    rows = []
    for price in work.tables.prices:
        assert isinstance(price, GraduatedPrice | VolumePrice)
        graduated = isinstance(price, GraduatedPrice)
        bounds, lowers, units, bases = [], [], [], []
        base = lower = ZERO
        for tier in price.tiers:
            unit, flat = cents(tier.unit_amount), cents(tier.flat_amount)
            base = base + flat if graduated else flat
            lowers.append(lower)
            units.append(unit)
            bases.append(base)
            if tier.up_to is not None:
                upper = Decimal(tier.up_to)
                bounds.append(upper)
                if graduated:
                    base, lower = base + (upper - lower) * unit, upper
        rows.append((bounds, lowers, units, bases))
    plans = work.plan.tolist()
    quantities = [Decimal(value).scaleb(-DIGITS) for value in work.quantity.tolist()]

    def run() -> Answer:
        exact = []
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            for row, amount in zip(plans, quantities, strict=True):
                bounds, lowers, units, bases = rows[row]
                tier = bisect_left(bounds, amount)
                exact.append(bases[tier] + (amount - lowers[tier]) * units[tier])
            return _finish(exact)

    return run
