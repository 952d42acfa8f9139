"""Effects summed up: who pays less and more, classes of differences, a row, a picture."""

import xml.etree.ElementTree as ET
from datetime import timedelta
from fractions import Fraction
from itertools import pairwise

import pytest

from invoicing.backtest_chart import draw_chart, marks, shown
from invoicing.simulation import (
    BINS,
    CustomerEffect,
    NotSimulated,
    Stretch,
    Tally,
    csv_row,
    histogram,
    percent_of,
    round_width,
)
from tests.billing_world import at

YEAR = Stretch(start=at("2025-01-01"), end=at("2026-01-01"))


def effect(customer, difference, *, currency="EUR", recurring=1000, usage=500, billed=1600):
    return CustomerEffect(
        customer=customer,
        currency=currency,
        charges=3,
        billed_minor=billed,
        present=(100, recurring, usage),
        simulated=(100, recurring, usage + difference),
    )


def test_sums_are_apart_for_each_currency() -> None:
    tally = Tally(stretch=YEAR)
    tally.add([effect("a", -30), effect("b", 50), effect("c", 0, billed=1500)])
    tally.add([effect("a", 7, currency="JPY")])
    euro, yen = tally.answer(replace_overrides=False).totals
    assert (euro.currency, yen.currency) == ("EUR", "JPY")
    assert (euro.winners, euro.losers, euro.unchanged, euro.customers) == (1, 1, 1, 3)
    assert (euro.present, euro.simulated, euro.difference) == ("48.00", "48.20", "0.20")
    assert (euro.billed, euro.waiting, euro.percent) == ("47.00", "1.00", "0.42")
    # A year is twelve months; what is charged once is no monthly revenue.
    assert (euro.mrr.present, euro.mrr.simulated) == ("3.75", "3.77")
    assert (euro.recurring.difference, euro.usage.difference) == ("0.00", "0.02")
    assert [one.customer for one in euro.largest_decreases] == ["a"]
    assert [one.difference for one in euro.largest_increases] == ["0.50"]
    assert (yen.present, yen.difference) == ("1600", "7")


@pytest.mark.parametrize(
    ("start", "end", "timezone", "months"),
    [
        ("2026-01-01", "2026-02-01", "UTC", Fraction(1)),
        ("2026-02-01", "2026-03-01", "UTC", Fraction(1)),
        ("2026-01-31", "2026-02-28", "UTC", Fraction(1)),
        ("2026-01-01", "2026-01-11", "UTC", Fraction(10, 31)),
        ("2024-12-31T23:00", "2025-12-31T23:00", "Europe/Berlin", Fraction(12)),
        ("2026-02-28T23:00", "2026-03-31T22:00", "Europe/Berlin", Fraction(1)),
        ("2026-01-01", "2026-02-15", "UTC", Fraction(3, 2)),
    ],
)
def test_months_are_those_of_the_calendar(start, end, timezone, months) -> None:
    found = Stretch(start=at(start), end=at(end), timezone=timezone).months
    assert found == months


def test_the_monthly_parts_come_to_the_whole() -> None:
    # Thirds of 1.00 and of 1.00 more: 0.33 and 0.33, where two thirds of 1.00 would be 0.67.
    tally = Tally(stretch=Stretch(start=at("2026-01-01"), end=at("2026-04-01")))
    tally.add([effect("a", 0, recurring=100, usage=100)])
    (euro,) = tally.answer(replace_overrides=False).totals
    assert (euro.recurring.present, euro.usage.present, euro.mrr.present) == (
        "0.33",
        "0.33",
        "0.66",
    )


def test_the_largest_are_named_and_the_rest_counted() -> None:
    tally = Tally(stretch=YEAR)
    tally.add(effect(f"c{number:03}", number) for number in range(1, 101))
    for number in range(30):
        tally.leave_out(NotSimulated(customer=f"x{number}", code="c", detail="d"))
    answer = tally.answer(replace_overrides=True)
    (euro,) = answer.totals
    named = [one.customer for one in euro.largest_increases]
    assert named == [f"c{number:03}" for number in range(100, 80, -1)]
    assert (answer.not_simulated_count, len(answer.not_simulated)) == (30, 20)


@pytest.mark.parametrize(
    "differences",
    [
        [5],
        [-5],
        [1, -1, 0, 0],
        [10**30, -3, 4],
        [*range(-500, 900, 7)],
        [100] * 50 + [-(10**9)],
    ],
)
def test_everybody_who_pays_something_else_is_in_one_class(differences) -> None:
    bins = histogram(differences=differences, currency="EUR")
    assert sum(each.customers for each in bins) == len([one for one in differences if one])
    assert len(bins) <= 2 * BINS + 2
    bounds = [(each.low, each.high) for each in bins]
    assert any("0.00" in pair for pair in bounds)
    for (_, high), (low, _) in pairwise(bounds):
        assert high == low
    assert all(None not in pair for pair in bounds[1:-1])


def test_a_bound_belongs_to_the_class_nearer_to_zero() -> None:
    bins = histogram(differences=[10, 20, 21, 100, -10, 100], currency="JPY")
    found = {(each.low, each.high): each.customers for each in bins if each.customers}
    assert found == {("-10", "0"): 1, ("0", "10"): 1, ("10", "20"): 1, ("20", "30"): 1} | {
        ("90", "100"): 2
    }
    assert histogram(differences=[0, 0], currency="EUR") == ()


def test_widths_are_round() -> None:
    assert [round_width(least=each) for each in (0, 1, 2, 3, 6, 11, 21, 501)] == [
        1, 1, 2, 5, 10, 20, 50, 1000,
    ]  # fmt: skip
    assert marks(most=3) == [1, 2, 3]
    assert marks(most=283) == [50, 100, 150, 200, 250]


def test_shares_are_told_with_two_digits() -> None:
    assert percent_of(difference=-1, present=3) == "-33.33"
    assert percent_of(difference=0, present=3) == "0.00"
    assert percent_of(difference=5, present=0) is None


def test_a_row_is_no_formula() -> None:
    row = csv_row(effect('=HYPERLINK("https://evil.example")', -30))
    assert row[0].startswith("'=")
    assert row[1:] == ["EUR", "3", "16.00", "0.00", "16.00", "15.70", "-0.30", "-1.88"]


def test_the_picture_says_what_it_shows() -> None:
    tally = Tally(stretch=YEAR)
    tally.add([effect("a", -30), effect("<b>", 5000), effect("c", 1, currency="JPY")])
    drawn = draw_chart(tally.answer(replace_overrides=False))
    picture = ET.fromstring(drawn)
    svg = "{http://www.w3.org/2000/svg}"
    said = picture.findtext(f"{svg}desc") or ""
    assert "Customers paying less: 1, more: 1, the same: 0." in said
    assert "EUR" in said and "JPY" in said
    bars = picture.findall(f".//{svg}rect[@class='more']/{svg}title")
    assert [bar.text for bar in bars if "customers: 1" in (bar.text or "")]
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", "")
    width = int(picture.attrib["width"])
    for rect in picture.iter(f"{svg}rect"):
        assert 0 <= int(rect.attrib.get("x", 0)) <= width
        assert int(rect.attrib["width"]) >= 0 and int(rect.attrib["height"]) >= 0


def test_nothing_to_draw_is_said() -> None:
    drawn = draw_chart(Tally(stretch=YEAR).answer(replace_overrides=False))
    assert "No charges in this stretch." in drawn
    tally = Tally(stretch=Stretch(start=YEAR.start, end=YEAR.start + timedelta(days=1)))
    tally.add([effect("a", 0)])
    assert "Nobody pays anything else." in draw_chart(tally.answer(replace_overrides=False))


def test_amounts_are_shown_as_people_read_them() -> None:
    assert shown("-1234567.50") == "−1\u2009234\u2009567.50"
    assert shown("100.00") == "100.00"
    assert shown("100") == "100"


@pytest.mark.parametrize(
    ("difference", "ticks"),
    [(350, {"0", "0.50", "1.00", "3.50"}), (600, {"0", "1", "5", "6"})],
)
def test_bounds_have_the_same_digits(difference, ticks) -> None:
    tally = Tally(stretch=YEAR)
    tally.add([effect("a", difference)])
    drawn = draw_chart(tally.answer(replace_overrides=False))
    texts = {each.text for each in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")}
    assert ticks <= texts


def test_the_picture_tells_of_those_left_out() -> None:
    tally = Tally(stretch=YEAR)
    tally.add([effect("a", 5)])
    tally.leave_out(NotSimulated(customer="x", code="c", detail="d"))
    assert "left out of all sums: 1" in draw_chart(tally.answer(replace_overrides=False))
