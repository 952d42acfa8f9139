"""Files of tests in memory, where there is room for them.

Hundreds of throw-away databases are written and dropped. On a shared machine the disk under them
stands still for seconds at times, which is nothing these tests are about.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from engine.postgres_configuration import memory_available

MEMORY: Final = Path("/dev/shm")
PREFIX: Final = "usance-tests-"
FREE_BYTES: Final = 6_000_000_000
MEMORY_BYTES: Final = 16_000_000_000
"""That the machine, or the container, must have: what is written leaves enough to run in."""


@contextlib.contextmanager
def files_in_memory() -> Iterator[None]:
    """Make memory the place of temporary files, of child processes' too; gone at the end.

    Who names a place by TMPDIR gets that, and a machine without room its usual one.
    """
    if "TMPDIR" in os.environ or not has_room():
        yield
        return
    clear_what_was_left()
    folder = MEMORY / f"{PREFIX}{os.getpid()}"
    folder.mkdir(mode=0o711)  # run as root, servers run as nobody and walk through here
    os.environ["TMPDIR"], tempfile.tempdir = str(folder), None
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        tempfile.tempdir = None
        shutil.rmtree(folder, ignore_errors=True)


def has_room() -> bool:
    """Whether programs may run from there, and enough is free."""
    try:
        place = os.statvfs(MEMORY)
    except OSError:
        return False
    return (
        os.access(MEMORY, os.W_OK)
        and not place.f_flag & os.ST_NOEXEC
        and place.f_bavail * place.f_frsize >= FREE_BYTES
        and memory_available() >= MEMORY_BYTES
    )


def clear_what_was_left() -> None:
    """Give back the memory of runs that were killed."""
    for folder in MEMORY.glob(f"{PREFIX}*"):
        number = folder.name.removeprefix(PREFIX)
        if number.isdecimal() and not Path(f"/proc/{number}").exists():
            shutil.rmtree(folder, ignore_errors=True)
