"""Rating: the kernels against loops over Decimal, DuckDB and Polars on the very same lines.

Every contender's amounts are compared with the kernel's bit for bit. Prints medians of five and
their ratios; only the ratios mean anything. The plain Decimal loop reads like the rules, the
tuned one has its tiers summed beforehand and finds them by bisection. DuckDB and Polars use all
processors, the loops and the kernel one.

    python benchmarks/bench_rating.py [--lines 200000] [--short]
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from rating_engines import duckdb_forms, polars_form
from rating_loops import plain_loop, tuned_loop
from rating_workloads import (
    Workload,
    evenly_over_tiers,
    matrices,
    mixed,
    packages,
    percentages,
    tiered,
)

from plans.prices import GraduatedPrice, VolumePrice

ROUNDS, LINES, SHORT_LINES = 5, 200_000, 50_000
TARGETS = {"graduated": (4, 40), "mix": (3, None)}


def workloads(count: int) -> dict[str, Callable[[], Workload]]:
    random = np.random.default_rng(7)
    return {
        "graduated": lambda: evenly_over_tiers(random, tiered(random, GraduatedPrice), count),
        "volume": lambda: evenly_over_tiers(random, tiered(random, VolumePrice), count),
        "package": lambda: packages(random, count),
        "percentage": lambda: percentages(random, count),
        "matrix": lambda: matrices(random, count),
        "mix": lambda: mixed(random, count),
    }


def seconds_of(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median of some runs after a warm one."""
    taken = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return median(taken[1:])


def compare(name: str, work: Workload, count: int) -> bool:
    """Prints one workload; whether every amount of every contender is the kernel's."""
    wanted = work.by_kernel()
    kernel = seconds_of(work.by_kernel)
    lines = len(wanted)
    print(f"{name}: {lines} lines")
    print(f"  {'kernel':<30} {kernel * 1e3:>9.1f} ms   {lines / kernel / 1e6:.1f} M lines/s")
    agreed = True

    def shown(label: str, run: Callable[[], object], differ: int, rounds: int) -> float:
        nonlocal agreed
        agreed = agreed and differ == 0
        ratio = seconds_of(run, rounds) / kernel
        print(f"  {label:<30} {ratio * kernel * 1e3:>9.1f} ms {ratio:>7.1f} x, {differ} differ")
        return ratio

    plain = plain_loop(work)
    loops = {"plain Decimal loop": plain, "tuned Decimal loop": tuned_loop(work)}
    ratios = {
        label: shown(label, run, int((run() != wanted).sum()), 1 if count > SHORT_LINES else 2)
        for label, run in loops.items()
        if run is not None
    }
    engines = {f"DuckDB, {form}": run for form, run in duckdb_forms(work).items()}
    engines["Polars"] = polars_form(work)
    for label, run in engines.items():
        numbers, amounts = run()
        answer = np.full(lines, -1, dtype=np.int64)
        answer[numbers] = amounts
        ratios[label] = shown(label, run, int((answer != wanted).sum()), ROUNDS)
    best = min(ratio for label, ratio in ratios.items() if label.startswith("DuckDB"))
    by_sql, by_loop = TARGETS.get(name, (None, None))
    print(f"  best DuckDB form {best:.1f} x{_target(by_sql)}", end="")
    print(f", plain Decimal loop {ratios['plain Decimal loop']:.1f} x{_target(by_loop)}\n")
    return agreed


def _target(target: int | None) -> str:
    return "" if target is None else f" (target {target})"


def growth(largest: int) -> None:
    """Nanoseconds a line as lines and tiers grow: flat in lines, slowly rising in tiers."""
    random = np.random.default_rng(11)
    print("kernel, ns a line:  ", end="")
    for count in (largest // 100, largest // 10, largest):
        work = evenly_over_tiers(random, tiered(random, GraduatedPrice), count)
        print(f"{count} lines {seconds_of(work.by_kernel) / count * 1e9:.0f}", end="   ")
    print("\nkernel, ns a line:  ", end="")
    for tiers in (2, 5, 20, 100):
        work = evenly_over_tiers(random, tiered(random, GraduatedPrice, tiers), largest // 10)
        print(f"{tiers} tiers {seconds_of(work.by_kernel) / len(work.plan) * 1e9:.0f}", end="   ")
    print()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--lines", type=int, default=LINES)
    arguments.add_argument("--short", action="store_true", help="a quarter of the lines")
    given = arguments.parse_args()
    count = SHORT_LINES if given.short else given.lines
    print(f"{os.cpu_count()} processors, medians of {ROUNDS} (loops fewer)\n")
    agreed = [compare(name, make(), count) for name, make in workloads(count).items()]
    growth(count if given.short else 5 * count)
    if not all(agreed):
        raise SystemExit("a contender differs from the kernel")


if __name__ == "__main__":
    main()
