"""The benchmarks still run: each in its smallest form, for its code and not for its figures."""

import subprocess
import sys

import pytest

from tests.processes import ROOT, SECONDS

pytestmark = pytest.mark.slow
SMALLEST: dict[str, list[str]] = {
    "bench_audit": ["--subscriptions", "120", "--events", "12000"],
    "bench_clickhouse": ["--events", "4000", "--customers", "50"],
    "bench_rating": ["--lines", "2000"],
    "bench_hostile": ["--seconds", "1", "--rounds", "1", "--hostile", "1"],
    "bench_nats": ["--events", "2000", "--rounds", "1", "--seconds", "0.1"],
    "bench_footprint": ["--events", "20000"],
    "bench_usage_read": ["--events", "20000", "--customers", "200", "--reads", "5"],
    "bench_backtest": ["--subscriptions", "60", "--events", "6000"],
    "bench_billing_run": ["--subscriptions", "120", "--events", "12000"],
}
# What a benchmark says that would not be missed otherwise.
TOLD = {"bench_billing_run": "run / ORM objects, the run"}


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_the_benchmark_runs(name: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *SMALLEST[name]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "target" in done.stdout
    assert TOLD.get(name, "") in done.stdout
