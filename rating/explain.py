"""One line with its trace: what a document shows, a check compares and a bookkeeper reads.

The numbers are those of `rating.ratios`; the kernels give the same amounts for whole columns.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Final

import msgspec

from engine.money import Rounding, currency_digits, format_amount, format_plain, round_ratio
from plans.prices import FlatPrice, GraduatedPercentagePrice, MatrixPrice, PercentagePrice, Price
from rating.exact import ratio_text
from rating.ratios import (
    ONE,
    ZERO,
    Cells,
    EventWork,
    Step,
    Work,
    billed_quantity,
    quantity_steps,
    work_out,
)

_SHOWN_DIGITS: Final = 12
_LABEL_WIDTH: Final = 28


class TierStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a trace: `units` at `unit_amount` plus `flat_amount` make `amount`.

    All are decimals in units and major units, or a ratio `a/b` where no decimal is exact.
    """

    label: str = ""
    units: str
    unit_amount: str
    flat_amount: str
    amount: str


class EventTrace(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the events of a percentage price; see `rating.ratios.EventWork`."""

    count: int
    value: str
    free: int
    free_value: str
    crossing: int | None
    excess: str | None
    paying: int
    paying_value: str
    raised: int
    lowered: int


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One line from quantity to minor units; numbers as in `TierStep`, amounts in major units.

    `fraction` is set where the period is a part; `share` is what of it the amount takes.
    `limited_by` names the limit that decided the amount. `exact` is not rounded, `rounded` has
    the currency's digits.
    """

    price: str
    model: str
    currency: str
    quantity: str
    allowance: str
    after_allowance: str
    billed_quantity: str
    events: EventTrace | None
    steps: tuple[TierStep, ...]
    gross: str
    fraction: str | None
    share: str
    minimum: str | None
    maximum: str | None
    limited_by: str | None
    exact: str
    rounding: Rounding
    rounded: str
    rounded_minor: int


def explain(
    *,
    price: Price,
    currency: str,
    rounding: Rounding,
    fraction: Fraction = ONE,
    quantity: Fraction = ZERO,
    events: Sequence[Fraction] = (),
    cells: Cells = (),
) -> Trace:
    """The trace of one line; a percentage takes `events`, a matrix `cells`, others `quantity`."""
    work = work_out(price=price, fraction=fraction, quantity=quantity, events=events, cells=cells)
    minor = work.amount * 10 ** currency_digits(currency)
    rounded_minor = round_ratio(minor.numerator, minor.denominator, rounding=rounding)
    return Trace(
        price=price.key,
        model=str(price.__struct_config__.tag),
        currency=currency,
        quantity=ratio_text(work.quantity),
        allowance=ratio_text(work.allowance),
        after_allowance=ratio_text(work.left),
        billed_quantity=ratio_text(work.billed),
        events=None if work.events is None else _event_trace(work.events),
        steps=tuple(_tier_step(step) for step in work.steps),
        gross=ratio_text(work.gross),
        fraction=None if fraction == ONE else _share_text(fraction),
        share=_share_text(work.share),
        minimum=None if work.minimum is None else ratio_text(work.minimum),
        maximum=None if work.maximum is None else ratio_text(work.maximum),
        limited_by=_limited_by(work),
        exact=ratio_text(work.amount),
        rounding=rounding,
        rounded=format_amount(rounded_minor, currency=currency),
        rounded_minor=rounded_minor,
    )


def tier_detail(*, price: Price, quantity: Fraction, fraction: Fraction) -> tuple[TierStep, ...]:
    """The steps that add up to the amount before proration, minimum and maximum.

    For prices that are rated from one quantity; the others have none here.
    """
    billed = billed_quantity(price=price, quantity=quantity, fraction=fraction)
    steps = quantity_steps(price=price, billed=billed, fraction=fraction)
    return tuple(_tier_step(step) for step in steps)


def explain_text(trace: Trace) -> str:
    """The trace as lines a bookkeeper can check with a pocket calculator."""
    return "\n".join(_lines(trace)) + "\n"


def _tier_step(step: Step) -> TierStep:
    return TierStep(
        label=step.label,
        units=ratio_text(step.units),
        unit_amount=ratio_text(step.unit_amount),
        flat_amount=ratio_text(step.flat_amount),
        amount=ratio_text(step.amount()),
    )


def _event_trace(work: EventWork) -> EventTrace:
    return EventTrace(
        count=work.count,
        value=ratio_text(work.value),
        free=work.free,
        free_value=ratio_text(work.free_value),
        crossing=work.crossing,
        excess=None if work.excess is None else ratio_text(work.excess),
        paying=work.paying,
        paying_value=ratio_text(work.paying_value),
        raised=work.raised,
        lowered=work.lowered,
    )


def _limited_by(work: Work) -> str | None:
    if work.amount == work.gross * work.share:
        return None
    return "maximum" if work.amount == work.maximum else "minimum"


def _share_text(share: Fraction) -> str:
    return f"{share.numerator}/{share.denominator}"


def _lines(trace: Trace) -> Iterator[str]:
    yield f"{trace.price}: {trace.model} price in {trace.currency}"
    if trace.events is not None:
        yield from _event_lines(trace.events)
    elif trace.model not in _WITHOUT_QUANTITY:
        yield from _quantity_lines(trace)
    for step in trace.steps:
        yield _line(step.label, _product_text(step, trace))
    if len(trace.steps) != 1:
        yield _line("sum", _shown(trace.gross))
    if trace.share != "1/1":
        yield _line(f"share of the period {trace.share}", f"of {_shown(trace.gross)}")
    elif trace.fraction is not None:
        yield _line(f"part of the period {trace.fraction}", "does not change the amount")
    for name, limit in (("minimum", trace.minimum), ("maximum", trace.maximum)):
        if limit is not None:
            applied = ", decides" if trace.limited_by == name else ""
            yield _line(name, f"{_shown(limit)}{applied}")
    yield _line("exact", _shown(trace.exact))
    words = {Rounding.HALF_UP: "half up", Rounding.HALF_EVEN: "half to even"}
    yield _line(f"rounded {words[trace.rounding]}", f"{trace.rounded} {trace.currency}")


_WITHOUT_QUANTITY: Final = frozenset(
    str(model.__struct_config__.tag) for model in (FlatPrice, MatrixPrice)
)
_BY_RATE: Final = frozenset(
    str(model.__struct_config__.tag) for model in (PercentagePrice, GraduatedPercentagePrice)
)


def _line(label: str, text: str) -> str:
    return f"  {label:<{_LABEL_WIDTH}} {text}"


def _quantity_lines(trace: Trace) -> Iterator[str]:
    yield _line("quantity", _shown(trace.quantity))
    if trace.allowance != "0":
        yield _line("less the allowance", f"{_shown(trace.allowance)}")
    if trace.after_allowance != trace.quantity:
        yield _line("left", _shown(trace.after_allowance))
    if trace.billed_quantity != trace.after_allowance:
        yield _line("rounded quantity", _shown(trace.billed_quantity))


def _event_lines(events: EventTrace) -> Iterator[str]:
    yield _line("events", f"{events.count} worth {_shown(events.value)}")
    if events.free:
        yield _line("free events", f"{events.free} worth {_shown(events.free_value)}")
    if events.crossing is not None and events.excess is not None:
        yield _line("crossing the free amount", f"event {events.crossing}")
        yield _line("what is beyond", f"{_shown(events.excess)} pays")
    yield _line("paying events", f"{events.paying}, on {_shown(events.paying_value)}")
    if events.raised:
        yield _line("raised to their minimum", f"{events.raised}")
    if events.lowered:
        yield _line("lowered to their maximum", f"{events.lowered}")


def _product_text(step: TierStep, trace: Trace) -> str:
    """`units × unit + flat = amount`, without the parts that are nothing."""
    parts: list[str] = []
    if step.unit_amount != "0":
        by_rate = trace.model in _BY_RATE and not step.label.startswith("paying")
        price = _per_cent(step.unit_amount) if by_rate else _shown(step.unit_amount)
        parts.append(f"{_shown(step.units)} × {price}")
    if step.flat_amount != "0" or not parts:
        parts.append(_shown(step.flat_amount))
    product = " + ".join(parts)
    amount = _shown(step.amount)
    return amount if product == amount else f"{product} = {amount}"


def _per_cent(share: str) -> str:
    return f"{ratio_text(Fraction(share) * 100)} %"


def _shown(text: str) -> str:
    """An exact decimal as it is; of a ratio, twelve digits more than enough, marked as cut."""
    if "/" not in text:
        return text
    scaled = Fraction(text) * 10**_SHOWN_DIGITS
    cut = round_ratio(scaled.numerator, scaled.denominator, rounding=Rounding.HALF_UP)
    return f"{text} ≈ {format_plain(cut, digits=_SHOWN_DIGITS)}"
