"""How fast a run is told to go."""

from datetime import UTC, datetime, timedelta

import pytest

from invoicing.run_pace import Pace, pace

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_rest_takes_as_long_as_what_was_done() -> None:
    found = pace(done=50, total=200, worked_micros=10_000_000, progress_at=NOON, is_running=True)
    assert found == Pace(
        customers_per_second="5.0", estimated_finish_at=NOON + timedelta(seconds=30)
    )


@pytest.mark.parametrize(
    ("done", "worked", "rate"),
    [
        (1, 3_000_000, "0.3"),
        (999, 1_000_000, "999.0"),
        (1, 20_000_000, "0.0"),
        (7, 2_000_000, "3.5"),
    ],
)
def test_the_rate_has_one_digit_and_is_never_told_too_high(
    done: int, worked: int, rate: str
) -> None:
    found = pace(done=done, total=None, worked_micros=worked, progress_at=NOON, is_running=True)
    assert found == Pace(customers_per_second=rate)


def test_nothing_is_foretold_of_what_stands_still_or_has_done_nothing() -> None:
    still = pace(done=50, total=200, worked_micros=10, progress_at=NOON, is_running=False)
    assert still.estimated_finish_at is None
    assert pace(done=0, total=9, worked_micros=9, progress_at=NOON, is_running=True) == Pace()
    over = pace(done=9, total=5, worked_micros=9, progress_at=NOON, is_running=True)
    assert over.estimated_finish_at == NOON
