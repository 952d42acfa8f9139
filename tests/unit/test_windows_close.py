from datetime import UTC, datetime

import pytest

from metering.windows import closes_at


def on(day):
    return datetime(2026, 1, day, tzinfo=UTC)


# The price ends in a period to the 31st | cancelled on | late from
CASES = [
    (31, None, 31),
    (31, 5, 31),
    (20, None, 20),
    (20, 10, 20),
    (10, 20, 20),
    (10, 31, 31),
]


@pytest.mark.parametrize(("ends", "cancelled", "late"), CASES)
def test_usage_is_late_from_the_end_or_when_the_end_was_known(ends, cancelled, late):
    known = None if cancelled is None else on(cancelled)
    found = closes_at(active_end=on(ends), period_end=on(31), cancelled_at=known)
    assert found == on(late)
