"""The command `usance` as a process of its own, on the test's database."""

import os
import subprocess
from pathlib import Path

from tests.processes import ROOT, SECONDS, python

USANCE = python("from api.cli import main; main()")


def environment(*, database_url: str, home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return kept | {
        "USANCE_DATABASE_URL": database_url,
        "USANCE_HOME": str(home),
        "USANCE_WAIT_SECONDS": "60",  # a slow disk is not what is tested
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


def usance(
    *arguments: str, database_url: str, home: Path, timeout: float = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; nothing is asserted about how it ends."""
    return subprocess.run(
        [*USANCE, *arguments],
        env=environment(database_url=database_url, home=home),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def create_seller(*, database_url: str, home: Path, clock: str = "2026-01-01") -> tuple[str, str]:
    """A test seller by the command line; gives its id and key."""
    made = usance(
        "seller", "create", "--name", "Acme Inc.", "--country", "US", "--test", "--clock", clock,
        database_url=database_url, home=home,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    words = made.stdout.split()
    assert words[0::2] == ["seller", "key"]
    return words[1], words[3]


def create_live_seller(*, database_url: str, home: Path) -> str:
    """A live seller by the command line; gives its key."""
    made = usance(
        "seller", "create", "--name", "Acme Inc.", "--country", "US",
        database_url=database_url, home=home,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return made.stdout.split()[3]
