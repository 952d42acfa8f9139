"""Events are found in the windows of their customers, whatever numbers these have."""

import numpy as np
import pytest

from metering.window_index import WindowIndex

SPARSE = 10**12
"""So far apart that no table holds all the numbers between."""


@pytest.mark.parametrize("factor", [1, SPARSE])
@pytest.mark.parametrize(
    "windows",
    [
        [(3, 0, 10), (5, 5, 20)],
        [(3, 0, 10), (3, 10, 12), (3, 15, 30), (5, 5, 20)],
        [(3, 0, 10), (3, 4, 12), (5, 5, 20), (5, 5, 20)],
        [(2, 0, 5), (2, 5, 9), (3, 0, 10), (3, 4, 12), (3, 12, 14), (5, 5, 20), (5, 20, 21)],
        [(3, 0, 10), (5, 7, 7)],
        [(4, 9, 9)],
    ],
)
def test_every_event_is_found_in_the_windows_that_hold_it(
    factor: int, windows: list[tuple[int, int, int]]
) -> None:
    index = WindowIndex(
        customer=np.array([who * factor for who, _, _ in windows]),
        start_micros=np.array([start for _, start, _ in windows]),
        end_micros=np.array([end for _, _, end in windows]),
    )
    events = [(who * factor, at) for who in (-9, 0, 2, 3, 4, 5, 6, 99) for at in range(-1, 32)]
    found = [
        (line, position)
        for lines, positions in index.find(
            customer=np.array([who for who, _ in events]),
            time_micros=np.array([at for _, at in events]),
        )
        for line, position in zip(lines.tolist(), positions.tolist(), strict=True)
    ]
    assert sorted(found) == [
        (line, position)
        for line, (whose, start, end) in enumerate(windows)
        for position, (who, at) in enumerate(events)
        if who == whose * factor and start <= at < end
    ]
