from engine.period import Period
from invoicing.difference import RatedCharge, difference_of, differences_of, group_text
from invoicing.model import Reason
from tests.agreements import SEATS, TOKENS, agreement, at, due, posted

NANO = 10**9


def rated(amount_minor, *, price=SEATS, nanos=NANO, ends_at=None, group=""):
    charge = due(agreement(price, ends_at=ends_at and at(ends_at)), "2026-02-01")[0]
    return RatedCharge(charge=charge, group=group, quantity_nanos=nanos, amount_minor=amount_minor)


def found(single, *lines):
    return difference_of(rated=single, posted=lines)


def test_what_is_posted_in_full_leaves_nothing():
    assert found(rated(0)) is None
    assert found(rated(3100), posted(1, 3100, "2026-01-01", "2026-02-01")) is None


def test_the_first_line_is_initial():
    first = found(rated(3100))
    assert (first.sequence, first.amount_minor, first.reason) == (1, 3100, Reason.INITIAL)
    assert first.adjusts is None and first.adjusted == ()
    assert first.period == Period(at("2026-01-01"), at("2026-02-01"))


def test_late_usage_is_a_line_over_the_whole_period():
    line = found(
        rated(300, price=TOKENS, nanos=300 * NANO),
        posted(1, 100, "2026-01-01", "2026-02-01", quantity_nanos=100 * NANO),
        posted(2, 150, "2026-01-01", "2026-02-01", quantity_nanos=150 * NANO),
    )
    assert (line.sequence, line.amount_minor, line.quantity_nanos) == (3, 50, 50 * NANO)
    assert (line.reason, line.adjusts) == (Reason.LATE_USAGE, "li_1")
    assert [each.document for each in line.adjusted] == ["inv_1", "inv_2"]
    assert line.period == Period(at("2026-01-01"), at("2026-02-01"))


def test_a_cut_period_gives_back_the_stretch_after_the_cut():
    line = found(rated(1000, ends_at="2026-01-11"), posted(1, 3100, "2026-01-01", "2026-02-01"))
    assert (line.amount_minor, line.reason) == (-2100, Reason.PRORATION)
    assert line.period == Period(at("2026-01-11"), at("2026-02-01"))
    assert line.quantity_nanos == NANO


def test_a_second_cut_gives_back_what_lies_between_the_two():
    line = found(
        rated(500, ends_at="2026-01-06"),
        posted(1, 3100, "2026-01-01", "2026-02-01"),
        posted(2, -2100, "2026-01-11", "2026-02-01"),
    )
    assert (line.sequence, line.amount_minor) == (3, -500)
    assert line.period == Period(at("2026-01-06"), at("2026-01-11"))


def test_a_period_made_longer_again_charges_what_comes_on_top():
    line = found(
        rated(2000, ends_at="2026-01-21"),
        posted(1, 3100, "2026-01-01", "2026-02-01"),
        posted(2, -2100, "2026-01-11", "2026-02-01"),
    )
    assert line.amount_minor == 1000
    assert line.period == Period(at("2026-01-11"), at("2026-01-21"))


def test_void_lines_keep_their_numbers_and_count_nothing():
    line = found(rated(3100), posted(1, 3100, "2026-01-01", "2026-02-01", counts=False))
    assert (line.sequence, line.amount_minor, line.reason) == (2, 3100, Reason.CORRECTION)
    assert (line.adjusts, line.adjusted) == ("li_1", ())
    assert found(rated(0), posted(1, 3100, "2026-01-01", "2026-02-01", counts=False)) is None


def test_a_void_beside_what_still_counts_is_corrected_once():
    void = posted(1, 3100, "2026-01-01", "2026-02-01", counts=False, voided_at=at("2026-01-20"))
    cut = posted(2, -2100, "2026-01-11", "2026-02-01")
    again = found(rated(1000, ends_at="2026-01-11"), void, cut)
    assert (again.amount_minor, again.reason, again.adjusts) == (3100, Reason.CORRECTION, "li_1")
    assert again.period == Period(at("2026-01-01"), at("2026-01-11"))
    billed = posted(
        3, 3100, "2026-01-01", "2026-01-11", reason=again.reason, issued_at=at("2026-01-20")
    )
    later = found(rated(500, ends_at="2026-01-06"), void, cut, billed)
    assert (later.amount_minor, later.reason) == (-500, Reason.PRORATION)
    second = posted(2, 500, "2026-01-01", "2026-02-01", counts=False, voided_at=at("2026-01-25"))
    assert found(rated(3600), void, second, billed).reason is Reason.CORRECTION


def test_a_group_that_is_gone_owes_nothing_and_a_new_one_everything():
    charge = rated(0, price=TOKENS).charge
    lines = differences_of(
        charge=charge,
        rated=[rated(70, price=TOKENS, group="b"), rated(5, price=TOKENS, group="c")],
        posted=[
            posted(1, 40, "2026-01-01", "2026-02-01", group="a"),
            posted(1, 70, "2026-01-01", "2026-02-01", group="b"),
        ],
    )
    assert sorted((line.group, line.sequence, line.amount_minor) for line in lines) == [
        ("a", 2, -40),
        ("c", 1, 5),
    ]


def test_a_group_reads_the_same_in_any_order_of_its_names():
    assert group_text(names=(), values=("x",)) == ""
    assert group_text(names=("b", "a"), values=("2", "1")) == '{"a":"1","b":"2"}'
