import os
import shutil
import tempfile
from pathlib import Path

import pytest

from engine.postgres_binaries import find_binaries
from tests.faults.embedded_homes import Sharer


@pytest.fixture
def sharers():
    started = []

    def start(home, **how):
        started.append(Sharer(home, **how))
        return started[-1]

    yield start
    for one in started:
        one.leave()


@pytest.fixture
def home():
    """pytest's own directories are closed to the server's account, so this one is not there."""
    parent = Path(tempfile.mkdtemp(prefix="usance-"))
    parent.chmod(0o711)
    yield parent / "home"
    shutil.rmtree(parent)


@pytest.fixture(params=["packaged", "installed"])
def bin_dir(request):
    found = find_binaries(search_path=os.environ["PATH"], bin_dir=None)
    wanted = {one.source == "installed": one for one in reversed(list(found))}
    if (request.param == "installed") not in wanted:
        pytest.skip(f"NOT TESTED: no {request.param} PostgreSQL on this machine")
    return wanted[request.param == "installed"].bin_dir
