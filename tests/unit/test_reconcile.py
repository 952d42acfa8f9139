import itertools

import msgspec

from plans.life import Run, Terms
from plans.reconcile import reconcile
from tests.agreements import SEATS, agreement, at


def run_of(stretch, **fields):
    terms = Terms(
        price_id=stretch.price_id, price=stretch.price, interval=stretch.interval, quantity="1"
    )
    values = {
        "terms": msgspec.structs.replace(terms, quantity=fields.pop("quantity", "1")),
        "start_at": stretch.start_at,
        "end_at": None,
        "start_is_due": True,
        "anchor": None,
    }
    return Run(**(values | fields))


def reconciled(agreed, *runs, now="2026-01-16"):
    numbers = itertools.count(1)
    return reconcile(
        agreement=agreed, runs=runs, now=at(now), make_id=lambda: f"new_{next(numbers)}"
    )


def billed(**fields):
    return agreement(SEATS, derived_through_at=at("2026-01-01"), **fields)


def test_what_is_the_same_is_left_alone():
    agreed = billed()
    found = reconciled(agreed, run_of(agreed.intervals[0]))
    assert found.intervals == agreed.intervals
    assert (found.opened, found.closed, found.dirty_from_at) == ((), (), None)


def test_a_change_closes_one_interval_and_opens_another():
    agreed = billed()
    (seats,) = agreed.intervals
    moment = at("2026-01-16")
    found = reconciled(
        agreed, run_of(seats, end_at=moment), run_of(seats, start_at=moment, quantity="5")
    )
    (closed,), (opened,) = found.closed, found.opened
    assert (closed.id, closed.end_at, closed.closed_at) == ("pri_1", moment, moment)
    assert (opened.number, opened.quantity, opened.end_at) == (2, "5", None)
    assert found.dirty_from_at is None


def test_a_change_behind_what_is_billed_touches_it():
    agreed = billed(dirty_from_at=None)
    (seats,) = agreed.intervals
    found = reconciled(agreed, run_of(seats, quantity="5"))
    (emptied,) = found.closed
    assert emptied.start_at == emptied.end_at
    assert found.dirty_from_at == at("2026-01-01")


def test_what_is_undone_opens_again_and_is_touched():
    agreed = billed()
    (seats,) = agreed.intervals
    closing = msgspec.structs.replace(seats, end_at=at("2026-02-10"), closed_at=at("2026-01-05"))
    agreed = msgspec.structs.replace(agreed, intervals=(closing,))
    found = reconciled(agreed, run_of(seats))
    (reopened,) = found.closed
    assert (reopened.end_at, reopened.closed_at, reopened.agreed_end_at) == (None, None, None)
    assert found.dirty_from_at == at("2026-02-10")


def test_the_first_recorded_end_says_what_was_charged_whole():
    agreed = billed()
    (seats,) = agreed.intervals
    closing = msgspec.structs.replace(
        seats, end_at=at("2026-01-25"), closed_at=at("2026-01-05"), agreed_end_at=None
    )
    agreed = msgspec.structs.replace(agreed, intervals=(closing,))
    (earlier,) = reconciled(agreed, run_of(seats, end_at=at("2026-01-20"))).closed
    assert (earlier.closed_at, earlier.agreed_end_at) == (at("2026-01-05"), None)
