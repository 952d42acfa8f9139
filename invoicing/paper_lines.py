"""Posted lines with the words and prices that a reader needs to follow them."""

from collections.abc import Sequence
from datetime import datetime
from fractions import Fraction
from typing import Final

import msgspec

from engine.money import Rounding, currency_digits, format_plain, round_ratio
from invoicing.figures import QUANTITY_DIGITS, Figures
from invoicing.model import LineItem, Reason
from invoicing.words.choose import choose_words
from invoicing.words.phrases import Words
from plans.prices import (
    FlatPrice,
    GraduatedPrice,
    PackagePrice,
    PerUnitPrice,
    Price,
    Tier,
    VolumePrice,
)
from rating.explain import TierStep
from rating.tables import bounds_shrink

# Digits beyond the currency's that a tier shows when no short decimal is exact.
INEXACT_DIGITS: Final = 4


class PaperDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One tier under a line: decimal texts, amounts in major units, possibly finer than minor."""

    tier: str
    units: str | None = None
    unit_amount: str | None = None
    flat_amount: str | None = None
    amount: str


class PaperDiscount(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken off a line, by its name; `amount` is positive, in major units."""

    label: str
    amount: str


class PaperLine(msgspec.Struct, frozen=True, kw_only=True):
    """One posted line and what the reader needs to follow it.

    `unit_amount` is the price of `package_size` units (one when None); `adjusts` the number of
    the document that a difference corrects; `note` further words, such as a share of a period.
    `amount` is before `discounts` and tax; `tax` names the rates, `customer` whose line it is when
    that is not who pays.
    """

    description: str
    subscription: str | None = None
    period: tuple[datetime, datetime] | None
    quantity: str | None = None
    unit_amount: str | None = None
    package_size: str | None = None
    amount: str
    reason: Reason = Reason.INITIAL
    adjusts: str | None = None
    note: str | None = None
    details: tuple[PaperDetail, ...] = ()
    discounts: tuple[PaperDiscount, ...] = ()
    tax: str | None = None
    customer: str | None = None


def _shown(text: str, *, digits: int) -> str:
    """The decimal as it is when 12 digits hold it, else rounded half up to `digits`."""
    value = Fraction(text)
    if 10**QUANTITY_DIGITS % value.denominator:
        scaled = value * 10**digits
        minor = round_ratio(scaled.numerator, scaled.denominator, rounding=Rounding.HALF_UP)
        return format_plain(minor, digits=digits)
    return format_plain((value * 10**QUANTITY_DIGITS).numerator, digits=QUANTITY_DIGITS)


def _tier_label(
    tiers: Sequence[Tier], index: int, share: Fraction, figures: Figures, words: Words
) -> str:
    def bound(at: int) -> str:
        return figures.quantity(_shown(str(Fraction(tiers[at].up_to or 0) * share), digits=2))

    last = tiers[index].up_to is None
    if index == 0:
        return words.all_units if last else words.up_to.format(last=bound(0))
    if last:
        return words.above.format(first=bound(index - 1))
    return words.above_up_to.format(first=bound(index - 1), last=bound(index))


def _tier_of(tiers: Sequence[Tier], units: Fraction, share: Fraction) -> int:
    return next(
        index
        for index, tier in enumerate(tiers)
        if tier.up_to is None or units <= Fraction(tier.up_to) * share
    )


def tier_details(
    *,
    price: Price,
    steps: Sequence[TierStep],
    currency: str,
    fraction: Fraction = Fraction(1),
    locale: str = "en",
) -> tuple[PaperDetail, ...]:
    """The steps of a tiered price as rows under its line; other prices have none.

    `steps` and `fraction` are those of `rating.explain.tier_detail`. What no decimal of 12 digits
    holds is shown rounded: these rows explain the amount, they do not make it.
    """
    if not isinstance(price, GraduatedPrice | VolumePrice):
        return ()
    figures, words = Figures(currency=currency, locale=locale), choose_words(locale=locale)
    share = fraction if bounds_shrink(price) else Fraction(1)
    digits = currency_digits(currency) + INEXACT_DIGITS
    rows: list[PaperDetail] = []
    for index, step in enumerate(steps):
        at = index
        if isinstance(price, VolumePrice):
            at = _tier_of(price.tiers, Fraction(step.units), share)
        rows.append(
            PaperDetail(
                tier=_tier_label(price.tiers, at, share, figures, words),
                units=_shown(step.units, digits=digits),
                unit_amount=_shown(step.unit_amount, digits=digits),
                flat_amount=_shown(step.flat_amount, digits=digits),
                amount=_shown(step.amount, digits=digits),
            )
        )
    return tuple(rows)


def paper_line(
    *,
    item: LineItem,
    price: Price | None = None,
    adjusts: str | None = None,
    note: str | None = None,
    details: Sequence[PaperDetail] = (),
    discounts: Sequence[PaperDiscount] = (),
    tax: str | None = None,
    customer: str | None = None,
) -> PaperLine:
    """The posted `item` with the words of its `price`; without one its key has to do.

    `adjusts` is the number of the document that the line corrects. A flat price has no unit, a
    tiered one shows its units in `details`.
    """
    unit_amount = package_size = None
    match price:
        case PerUnitPrice():
            unit_amount = price.unit_amount
        case PackagePrice():
            unit_amount, package_size = price.unit_amount, price.package_size
        case _:
            pass
    return PaperLine(
        description=(price.name or price.key) if price is not None else item.price,
        subscription=item.subscription,
        period=item.period,
        quantity=None if isinstance(price, FlatPrice) else item.quantity,
        unit_amount=unit_amount,
        package_size=package_size,
        amount=item.amount,
        reason=item.reason,
        adjusts=adjusts,
        note=note,
        details=tuple(details),
        discounts=tuple(discounts),
        tax=tax,
        customer=customer,
    )
