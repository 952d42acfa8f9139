"""What coupons and tax may never do: create or lose a minor unit, or take a line below zero."""

from datetime import UTC, datetime
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from engine.money import Rounding, round_ratio
from engine.period import Period
from invoicing.difference import PostedLine
from invoicing.discounts import Application, PostedDiscount, discount_lines
from invoicing.lines import Line
from invoicing.model import Reason
from invoicing.tax import PostedTax, TaxTerms, tax_lines
from plans.model import TaxRounding
from plans.tax_rates import TaxRate

AT = datetime(2026, 3, 1, tzinfo=UTC)
PERIOD = Period(AT, datetime(2026, 4, 1, tzinfo=UTC))


def line(amount: int, number: int = 0, **fields: object) -> Line:
    return Line(
        **{
            "key": f"price-{number % 3}",
            "contract": "s1",
            "amount_minor": amount,
            "quantity_nanos": None,
            "period": PERIOD,
            "reason": Reason.INITIAL,
            "subscription": "s1",
            "price_interval": "pri",
            "charge_start_at": AT,
        }
        | fields
    )


def posted(amount: int, **fields: int) -> PostedLine:
    return PostedLine(
        id="li_1",
        document="inv_1",
        price_interval="pri",
        charge_start_at=AT,
        group="",
        sequence=1,
        amount_minor=amount,
        quantity_nanos=0,
        period=PERIOD,
        counts=True,
        reason=Reason.INITIAL,
        issued_at=AT,
        voided_at=None,
        **fields,
    )


def coupon(number: int, *, percentage: str | None, amount: int | None) -> Application:
    return Application(
        id=f"cpa_{number}",
        coupon=f"c{number}",
        subscription="s1",
        percentage=percentage,
        amount_minor=amount,
        currency=None if amount is None else "EUR",
        left=None,
        prices=("price-1",) if number % 4 == 3 else (),
        applied_at=AT,
    )


def rate(key: str, percentage: str, *, inclusive: bool = False) -> TaxRate:
    return TaxRate(
        id=f"txr_{key}",
        key=key,
        name=None,
        percentage=percentage,
        inclusive=inclusive,
        country="DE",
        region=None,
        by_place=False,
        archived_at=None,
        created_at=AT,
    )


AMOUNTS = st.lists(st.integers(-5_000, 100_000), min_size=1, max_size=8)
PERCENTAGES = st.sampled_from(["0.5", "7", "8.875", "10", "19", "21", "33.33", "100"])
COUPONS = st.lists(
    st.one_of(st.tuples(PERCENTAGES, st.none()), st.tuples(st.none(), st.integers(1, 200_000))),
    max_size=4,
)
RATES = st.lists(st.tuples(PERCENTAGES, st.booleans()), min_size=1, max_size=3)
ROUNDINGS = st.sampled_from(Rounding)


@given(AMOUNTS, COUPONS, ROUNDINGS)
def test_discounts_sum_up_and_leave_no_line_below_zero(amounts, coupons, rounding) -> None:
    lines = [line(amount, number) for number, amount in enumerate(amounts)]
    given_ = [
        coupon(number, percentage=percentage, amount=amount)
        for number, (percentage, amount) in enumerate(coupons)
    ]
    reduced, parts = discount_lines(
        lines=lines,
        applications=given_,
        currency="EUR",
        billed_at=AT,
        rounding=rounding,
        posted={},
    )
    for before, after in zip(lines, reduced, strict=True):
        assert 0 <= after.discount_minor <= max(before.amount_minor, 0)
    assert sum(part.amount_minor for part in parts) == sum(each.discount_minor for each in reduced)
    left = sum(max(amount, 0) for amount in amounts)
    for each in given_:
        if each.percentage is None and not each.prices:
            taken = sum(part.amount_minor for part in parts if part.application == each.id)
            assert taken <= each.amount_minor
    assert sum(part.amount_minor for part in parts) <= left


@given(AMOUNTS, RATES, ROUNDINGS, st.sampled_from(TaxRounding))
def test_tax_parts_sum_up_whichever_way_it_is_rounded(amounts, rates, rounding, way) -> None:
    lines = [line(amount, number) for number, amount in enumerate(amounts)]
    own = tuple(
        rate(f"r{number}", percentage, inclusive=inclusive)
        for number, (percentage, inclusive) in enumerate(rates)
    )
    terms = TaxTerms(own=own, named={}, tax_rounding=way, rounding=rounding)
    taxed, taxes = tax_lines(lines=lines, terms=terms, posted={})
    for index, each in enumerate(taxed):
        mine = [tax for tax in taxes if tax.line == index]
        assert each.tax_minor == sum(tax.amount_minor for tax in mine)
        assert each.tax_included_minor == sum(tax.amount_minor for tax in mine if tax.included)
    inside = sum(Fraction(percentage) for percentage, inclusive in rates if inclusive) / 100
    outside = sum(Fraction(percentage) for percentage, inclusive in rates if not inclusive) / 100
    bases = [sum(amounts)] if way is TaxRounding.INVOICE else amounts
    nets = [_round(base / (1 + inside), rounding) for base in bases]
    added = [_round(net * outside, rounding) for net in nets]
    assert sum(each.net_minor for each in taxed) == sum(nets)
    assert sum(each.gross_minor for each in taxed) == sum(nets) + sum(added) + sum(bases) - sum(
        nets
    )


def _round(value: Fraction, rounding: Rounding) -> int:
    exact = Fraction(value)
    return round_ratio(exact.numerator, exact.denominator, rounding=rounding)


def billed(
    item: Line,
    before: list[tuple[PostedLine, list, list]],
    coupons: list[Application],
    terms: TaxTerms,
) -> tuple:
    """The line as it stands once it is posted, with its discounts and taxes."""
    reduced, discounts = discount_lines(
        lines=[item],
        applications=coupons,
        currency="EUR",
        billed_at=AT,
        rounding=terms.rounding,
        posted={each.id: found for each, found, _ in before},
    )
    taxed, taxes = tax_lines(
        lines=reduced, terms=terms, posted={each.id: found for each, _, found in before}
    )
    (done,) = taxed
    stands = msgspec.structs.replace(
        posted(
            done.amount_minor,
            discount_minor=done.discount_minor,
            tax_minor=done.tax_minor,
            tax_included_minor=done.tax_included_minor,
        ),
        id=f"li_{len(before)}",
    )
    kept = [
        PostedDiscount(application=d.application, amount_minor=d.amount_minor) for d in discounts
    ]
    known = [
        PostedTax(
            rate=t.rate,
            percentage=t.percentage,
            included=t.included,
            jurisdiction=t.jurisdiction,
            category=t.category,
            amount_minor=t.amount_minor,
        )
        for t in taxes
    ]
    return stands, kept, known


@given(
    st.integers(1, 100_000),
    st.lists(st.integers(1, 100), min_size=1, max_size=6),
    PERCENTAGES,
    RATES,
    ROUNDINGS,
)
def test_what_is_given_back_in_parts_is_what_was_taken(
    amount, weights, percentage, rates, rounding
) -> None:
    own = tuple(
        rate(f"r{number}", each, inclusive=inclusive)
        for number, (each, inclusive) in enumerate(rates)
    )
    terms = TaxTerms(own=own, named={}, tax_rounding=TaxRounding.LINE, rounding=rounding)
    coupons = [coupon(0, percentage=percentage, amount=None)]

    history = [billed(line(amount), [], coupons, terms)]
    left = amount
    for step, weight in enumerate(weights):
        part = left if step == len(weights) - 1 else left * weight // 200
        if not part:
            continue
        left -= part
        back = line(
            -part, adjusted=tuple(each for each, _, _ in history), adjusts="li_0", sequence=2
        )
        history.append(billed(back, history, coupons, terms))
        for name in ("discount_minor", "tax_minor", "tax_included_minor"):
            assert sum(getattr(each, name) for each, _, _ in history) >= 0
    for name in ("amount_minor", "discount_minor", "tax_minor", "tax_included_minor"):
        assert sum(getattr(each, name) for each, _, _ in history) == 0
