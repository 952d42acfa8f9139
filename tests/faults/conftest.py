import contextlib
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from engine.postgres_binaries import find_binaries
from tests.faults.embedded_homes import Sharer
from tests.processes import end_all_in


@pytest.fixture
def sharers():
    with contextlib.ExitStack() as stack:

        def start(home, **how):
            started = Sharer(home, **how)
            stack.callback(started.leave)
            return started

        yield start


@pytest.fixture
def home():
    """pytest's own directories are closed to the server's account, so this one is not there."""
    parent = Path(tempfile.mkdtemp(prefix="usance-"))
    parent.chmod(0o711)
    yield parent / "home"
    end_all_in(parent)
    shutil.rmtree(parent)


@pytest.fixture(params=["packaged", "installed"])
def bin_dir(request):
    found = find_binaries(search_path=os.environ["PATH"], bin_dir=None)
    wanted = {one.source == "installed": one for one in reversed(list(found))}
    if (request.param == "installed") not in wanted:
        pytest.skip(f"NOT TESTED: no {request.param} PostgreSQL on this machine")
    return wanted[request.param == "installed"].bin_dir
