"""The demo as a stranger runs it: on an embedded database, made-up usage and a file."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.command_line import USANCE, environment
from tests.processes import SECONDS, end_all_in

pytestmark = pytest.mark.slow
ROWS = 40


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # Run as root, the server runs as nobody, who must be able to walk through here.
    made = Path(tempfile.mkdtemp(prefix="usance-demo-"))
    made.chmod(0o711)
    yield made
    end_all_in(made)
    shutil.rmtree(made)


def demo(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    variables = environment(database_url="", home=home)
    return subprocess.run(
        [*USANCE, "demo", *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=3 * SECONDS,
    )


def test_made_up_usage_is_billed_to_the_last_token(home: Path) -> None:
    ended = demo("--events", "1500", "--customers", "3", home=home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "1,500 new events" in ended.stdout
    assert "0 new, 1,000 duplicates" in ended.stdout
    assert ended.stdout.count(", exactly.") == 2
    assert "once more: 0 documents posted" in ended.stdout
    assert "no violations" in ended.stdout
    (printed,) = (home / "demo").glob("DEMO-*.pdf")
    assert printed.read_bytes().startswith(b"%PDF-")


def test_a_file_over_two_months_is_dealt_to_customers(home: Path, tmp_path: Path) -> None:
    days = [f"2026-{month:02}-{day:02}" for month in (1, 2) for day in range(1, ROWS // 2 + 1)]
    lines = [f"{day} 12:00:00.1234567,{number}.5,x" for number, day in enumerate(days, start=1)]
    file = tmp_path / "requests.csv"
    file.write_text("\n".join(["at,Seconds,note", *lines, "never,1,x", ""]), encoding="utf-8")
    ended = demo(
        "--usage", str(file), "--time-column", "at", "--value", "Seconds", "--customers", "7",
        home=home,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    total = sum(range(1, ROWS + 1)) + ROWS / 2
    assert "1 rows are no events" in ended.stdout
    assert f"Seconds: {total:g} on invoices = {total:g} in the events, exactly." in ended.stdout
    assert "2 months closed" in ended.stdout


def test_a_file_needs_a_column_to_bill(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "requests.csv"
    file.write_text("time,n\n2026-01-01,1\n", encoding="utf-8")
    assert demo("--usage", str(file), home=home).returncode == 2
    missing = demo("--usage", str(file), "--value", "tokens", home=home)
    assert missing.returncode == 2
    assert "has no column tokens" in missing.stderr
