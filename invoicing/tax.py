"""Tax on the lines of a document. Pure.

Tax is taken on what is left after discount and promotional credit. The rates of a line add up and
are rounded once, per line or, over all lines with the same rates, per document; the parts are split
by largest remainder. A line that gives back takes with it the tax of the line it corrects: at the
rates of then, and all that is left of it when nothing of that line remains.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import lcm

import msgspec

from engine.journal import PREPAID_CREDITS
from engine.money import Rounding, round_ratio, split_largest_remainder, split_signed
from invoicing.difference import StandingLine
from invoicing.lines import Line, LineTax
from plans.model import TaxExempt, TaxRounding
from plans.tax_rates import TaxCategory, TaxRate


class TaxTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the tax of a customer's lines.

    `own` are the customer's rates, or those of its place; `named` has every rate by its key.
    `given` are the taxes of lines, by their index, that somebody else worked out.
    """

    own: tuple[TaxRate, ...] = ()
    named: Mapping[str, TaxRate]
    exempt: TaxExempt = TaxExempt.NONE
    tax_rounding: TaxRounding
    rounding: Rounding
    given: Mapping[int, Sequence["GivenTax"]] = msgspec.field(default_factory=dict)


class GivenTax(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tax on top of a line that is told by its amount."""

    rate: str
    percentage: str
    jurisdiction: str
    category: str
    amount_minor: int


class PostedTax(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is posted of one rate on the lines that count for a charge key."""

    rate: str
    percentage: str
    included: bool
    jurisdiction: str
    category: str
    amount_minor: int


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """One rate on one line, before it is rounded."""

    rate: str
    percentage: str
    included: bool
    jurisdiction: str
    category: str
    share: Fraction


def tax_lines(
    *,
    lines: Sequence[Line],
    terms: TaxTerms,
    posted: Mapping[str, Sequence[PostedTax]],
) -> tuple[list[Line], list[LineTax]]:
    """The lines with their tax, and each tax of each line.

    `posted` has, by line id, the taxes of the lines that this document corrects.
    """
    amounts: dict[int, list[tuple[_Part, int]]] = {}
    together: dict[tuple[_Part, ...], list[int]] = {}
    for index, line in enumerate(lines):
        if line.amount_minor < 0 and line.adjusted:
            amounts[index] = _given_back(line, terms, posted)
            continue
        if index in terms.given:
            amounts[index] = [(_part_given(tax), tax.amount_minor) for tax in terms.given[index]]
            continue
        parts = _parts(line, terms)
        if not parts:
            continue
        if terms.tax_rounding is TaxRounding.LINE:
            amounts[index] = _rounded(parts, line.taxable_minor, terms.rounding)
        else:
            together.setdefault(parts, []).append(index)
    for parts, indexes in together.items():
        bases = [lines[index].taxable_minor for index in indexes]
        amounts.update(zip(indexes, _spread(parts, bases, terms.rounding), strict=True))
    taxed = [_taxed(line, amounts.get(index, ())) for index, line in enumerate(lines)]
    return taxed, [
        LineTax(
            line=index,
            rate=part.rate,
            percentage=part.percentage,
            included=part.included,
            jurisdiction=part.jurisdiction,
            category=part.category,
            taxable_minor=taxed[index].net_minor,
            amount_minor=amount,
        )
        for index in sorted(amounts)
        for part, amount in amounts[index]
    ]


def _part_given(tax: GivenTax) -> _Part:
    return _Part(
        rate=tax.rate,
        percentage=tax.percentage,
        included=False,
        jurisdiction=tax.jurisdiction,
        category=tax.category,
        share=Fraction(tax.percentage) / 100,
    )


def _parts(line: Line, terms: TaxTerms) -> tuple[_Part, ...]:
    """The rates of a line: its own, else the customer's; or why there are none."""
    rates = tuple(terms.named[key] for key in line.tax_rates)
    if not rates and line.account != PREPAID_CREDITS:  # credit is taxed when it is used
        rates = terms.own
    if terms.exempt is not TaxExempt.NONE and (rates or terms.exempt is TaxExempt.REVERSE):
        reverse = terms.exempt is TaxExempt.REVERSE
        category = TaxCategory.REVERSE_CHARGE if reverse else TaxCategory.EXEMPT
        jurisdiction = rates[0].jurisdiction if rates else ""
        return (
            _Part(
                rate="",
                percentage="0",
                included=False,
                jurisdiction=jurisdiction,
                category=category,
                share=Fraction(0),
            ),
        )
    return tuple(
        _Part(
            rate=rate.key,
            percentage=rate.percentage,
            included=rate.inclusive,
            jurisdiction=rate.jurisdiction,
            category=TaxCategory.STANDARD if rate.share else TaxCategory.ZERO,
            share=rate.share,
        )
        for rate in rates
    )


def _exact(parts: Sequence[_Part], base: int) -> tuple[Fraction, Fraction]:
    """(tax inside `base`, tax on top of it), not rounded."""
    inside = sum((part.share for part in parts if part.included), Fraction(0))
    outside = sum((part.share for part in parts if not part.included), Fraction(0))
    net = base / (1 + inside)
    return base - net, net * outside


def _whole(value: Fraction, rounding: Rounding) -> int:
    return round_ratio(value.numerator, value.denominator, rounding=rounding)


def _rounded(parts: Sequence[_Part], base: int, rounding: Rounding) -> list[tuple[_Part, int]]:
    """One rounding for what is inside and one for what is on top, split over the rates."""
    if not any(part.included for part in parts):
        outside = sum((part.share for part in parts), Fraction(0)) * base
        return _split(parts, _whole(outside, rounding), included=False)
    inside, _ = _exact(parts, base)
    net = _whole(base - inside, rounding)
    found = _split(parts, base - net, included=True)
    outside = net * sum((part.share for part in parts if not part.included), Fraction(0))
    return found + _split(parts, _whole(outside, rounding), included=False)


def _split(parts: Sequence[_Part], total: int, *, included: bool) -> list[tuple[_Part, int]]:
    mine = [part for part in parts if part.included is included]
    if not mine:
        return []
    common = lcm(*(part.share.denominator for part in mine))
    weights = [int(part.share * common) for part in mine]
    if not any(weights):
        return [(part, 0) for part in mine]
    return list(zip(mine, split_largest_remainder(total, weights), strict=True))


def _spread(
    parts: Sequence[_Part], bases: Sequence[int], rounding: Rounding
) -> list[list[tuple[_Part, int]]]:
    """The tax on the sum of `bases`, rounded per rate, split over the lines."""
    total = sum(bases)
    whole = _rounded(parts, total, rounding)
    found: list[list[tuple[_Part, int]]] = [[] for _ in bases]
    for part, amount in whole:
        shares = split_signed(amount, bases) if amount else [0] * len(bases)
        for line, share in zip(found, shares, strict=True):
            line.append((part, share))
    return found


def _given_back(
    line: Line, terms: TaxTerms, posted: Mapping[str, Sequence[PostedTax]]
) -> list[tuple[_Part, int]]:
    """The tax that goes back with a line: by the rates then, never more than is left of it.

    A credit by hand goes by the line that it names, up to what is left of that and of its key.
    """
    known = _known(line.adjusted, posted)
    if _left(line.adjusted) + line.taxable_minor <= 0:
        return [(part, -amount) for part, amount in known.items()]
    mine = [each for each in line.adjusted if line.adjusts in (each.id, each.credit_of)]
    if line.price_interval is not None:
        mine = list(line.adjusted)
    taken = _known(mine, posted)
    left = _left(mine)
    if left + line.taxable_minor <= 0:
        found = [(part, -amount) for part, amount in taken.items()]
    elif _is_mixed(mine, posted):
        found = [
            (part, round_ratio(amount * line.taxable_minor, left, rounding=terms.rounding))
            for part, amount in taken.items()
        ]
    else:
        found = _rounded(list(taken), line.taxable_minor, terms.rounding)
    return [(part, max(amount, -taken[part], -known[part])) for part, amount in found]


def _left(lines: Sequence[StandingLine]) -> int:
    return sum(each.taxable_minor for each in lines)


def _known(
    lines: Sequence[StandingLine], posted: Mapping[str, Sequence[PostedTax]]
) -> dict[_Part, int]:
    """What is left of each tax on the lines."""
    sums: dict[_Part, int] = {}
    for each in lines:
        for tax in posted.get(each.id, ()):
            part = _part_of(tax)
            sums[part] = sums.get(part, 0) + tax.amount_minor
    return sums


def _is_mixed(lines: Sequence[StandingLine], posted: Mapping[str, Sequence[PostedTax]]) -> bool:
    """Whether what was charged was not all taxed alike."""
    charged = [each for each in lines if each.amount_minor > 0]
    return len({frozenset(map(_part_of, posted.get(each.id, ()))) for each in charged}) > 1


def _part_of(tax: PostedTax) -> _Part:
    return _Part(
        rate=tax.rate,
        percentage=tax.percentage,
        included=tax.included,
        jurisdiction=tax.jurisdiction,
        category=tax.category,
        share=Fraction(tax.percentage) / 100,
    )


def _taxed(line: Line, found: Sequence[tuple[_Part, int]]) -> Line:
    if not found:
        return line
    return msgspec.structs.replace(
        line,
        tax_minor=sum(amount for _, amount in found),
        tax_included_minor=sum(amount for part, amount in found if part.included),
    )
