from fractions import Fraction
from textwrap import dedent

import msgspec
import pytest

from engine.money import Rounding
from plans.prices import Price
from rating.explain import EventTrace, Trace, explain, explain_text


def trace(used, rounding=Rounding.HALF_UP, fraction="1", currency="USD", **fields) -> Trace:
    return explain(
        price=msgspec.convert({"key": "api", "kind": "usage", **fields}, Price),
        currency=currency,
        rounding=rounding,
        fraction=Fraction(fraction),
        **used,
    )


def quantity(text):
    return {"quantity": Fraction(text)}


def events(*texts):
    return {"events": [Fraction(text) for text in texts]}


TIERS = [
    {"up_to": "1000", "unit_amount": "0.10", "flat_amount": "5.00"},
    {"up_to": None, "unit_amount": "0.055"},
]

EXPLAINED = [
    (
        trace(
            quantity("1253.4"),
            model="graduated",
            tiers=TIERS,
            included_quantity="50",
            quantity_rounding={"mode": "up"},
        ),
        """\
        api: graduated price in USD
          quantity                     1253.4
          less the allowance           50
          left                         1203.4
          rounded quantity             1204
          tier 1                       1000 × 0.1 + 5 = 105
          tier 2                       204 × 0.055 = 11.22
          sum                          116.22
          exact                        116.22
          rounded half up              116.22 USD
        """,
    ),
    (
        trace(
            quantity("7"),
            kind="recurring",
            model="per_unit",
            unit_amount="10",
            fraction="17/31",
            rounding=Rounding.HALF_EVEN,
        ),
        """\
        api: per_unit price in USD
          quantity                     7
          units                        7 × 10 = 70
          share of the period 17/31    of 70
          exact                        1190/31 ≈ 38.387096774194
          rounded half to even         38.39 USD
        """,
    ),
    (
        trace(
            events("50", "100", "250", "400"),
            model="percentage",
            rate="1.3",
            fixed_amount="2.00",
            free_amount="250.00",
            event_maximum="6.00",
            maximum_amount="9.00",
        ),
        """\
        api: percentage price in USD
          events                       4 worth 800
          free events                  2 worth 150
          crossing the free amount     event 3
          what is beyond               150 pays
          paying events                2, on 550
          lowered to their maximum     1
          rate on what pays            550 × 1.3 % = 7.15
          paying events                2 × 2 = 4
          event minimum and maximum    -1.2
          sum                          9.95
          maximum                      9, decides
          exact                        9
          rounded half up              9.00 USD
        """,
    ),
    (
        trace(
            {"cells": [(0, Fraction(100)), (-1, Fraction(3))]},
            model="matrix",
            matrix=[{"match": {"region": "eu"}, "unit_amount": "0.01"}],
            unit_amount="0.5",
            minimum_amount="1.00",
        ),
        """\
        api: matrix price in USD
          row 1                        100 × 0.01 = 1
          no row matches               3 × 0.5 = 1.5
          sum                          2.5
          minimum                      1
          exact                        2.5
          rounded half up              2.50 USD
        """,
    ),
    (
        trace(
            quantity("0"),
            model="stairstep",
            tiers=[{"flat_amount": "29"}],
            flat_at_zero=False,
            currency="JPY",
            fraction="1/2",
        ),
        """\
        api: stairstep price in JPY
          quantity                     0
          sum                          0
          part of the period 1/2       does not change the amount
          exact                        0
          rounded half up              0 JPY
        """,
    ),
]


@pytest.mark.parametrize(
    ("explained", "text"), EXPLAINED, ids=lambda item: getattr(item, "model", "")
)
def test_a_line_is_explained_step_by_step(explained, text):
    assert explain_text(explained) == dedent(text)


def test_a_trace_is_data():
    explained = EXPLAINED[2][0]
    assert explained.events == EventTrace(
        count=4,
        value="800",
        free=2,
        free_value="150",
        crossing=3,
        excess="150",
        paying=2,
        paying_value="550",
        raised=0,
        lowered=1,
    )
    assert (explained.limited_by, explained.rounded_minor) == ("maximum", 900)
    assert msgspec.json.decode(msgspec.json.encode(explained), type=Trace) == explained
