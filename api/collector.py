"""The garbage collector of a process that starts once and then works for long."""

import gc
from typing import Final

_COLLECTED: Final = (5_000, 20, 10)


def keep_what_was_started() -> None:
    """Tell the collector that what there is now will stay; for one that serves or bills.

    Else it goes through all modules, routes and tables again each time that what is under way has
    made a quarter as many objects, and everybody waits for it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
