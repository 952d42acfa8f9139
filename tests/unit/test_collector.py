"""What a process that serves or bills tells the garbage collector."""

import gc

from api.collector import keep_what_was_started


def test_what_was_started_is_not_gone_through_again():
    before = gc.get_threshold()
    kept = object()
    held = [kept]
    try:
        keep_what_was_started()
        assert all(each is not held for each in gc.get_objects())
        assert gc.get_threshold() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
