"""Run every benchmark in its short form, one process after the other: python -m benchmarks."""

import subprocess
import sys
from pathlib import Path

SHORT: dict[str, list[str]] = {
    "bench_audit": ["--subscriptions", "4000", "--events", "400000"],
    "bench_rating": ["--lines", "100000"],
    "bench_hostile": ["--seconds", "3", "--rounds", "1"],
    "bench_ingest": ["--seconds", "3", "--rounds", "1"],
    "bench_footprint": ["--events", "100000"],
    "bench_nats": ["--events", "100000", "--rounds", "1"],
    "bench_ingest_load": ["--seconds", "10", "--overload", "5", "--reads", "50"],
    "bench_usage_read": ["--events", "200000", "--customers", "2000"],
    "bench_clickhouse": ["--events", "100000"],
    "bench_billing_run": ["--subscriptions", "4000", "--events", "400000"],
}


def main() -> None:
    failed: list[str] = []
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"== {path.stem} {' '.join(SHORT.get(path.stem, []))}", flush=True)
        command = [sys.executable, str(path), *SHORT.get(path.stem, [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(path.stem)
        print(flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
