"""Rating: the kernel against a Decimal loop, DuckDB and Polars, graduated prices of five tiers.

All four rate the very same lines, evenly spread over the tiers, and every result is compared with
the kernel's bit for bit. Prints medians of five and their ratios; only the ratios mean anything.

    python benchmarks/bench_rating.py --lines 200000
"""

import argparse
import time
from bisect import bisect_left
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext
from statistics import median

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.money import Rounding
from plans.prices import GraduatedPrice, Kind, Tier
from rating.rate import Quantities, rate
from rating.tables import PriceTables, compile_prices

PLANS, TIERS, ROUNDS, DIGITS = 1_000, 5, 5, 6


def price_lists(random: np.random.Generator) -> list[GraduatedPrice]:
    prices = []
    for plan in range(PLANS):
        bounds = np.cumsum(random.integers(10, 1_000, TIERS - 1)).tolist()
        units = sorted(random.integers(10_000_000, 2_000_000_000, TIERS).tolist(), reverse=True)
        flats = random.integers(0, 2_000, TIERS).tolist()
        prices.append(
            GraduatedPrice(
                key=f"p{plan}",
                kind=Kind.USAGE,
                tiers=tuple(
                    Tier(
                        up_to=str(bound) if bound is not None else None,
                        unit_amount=f"0.{unit:010d}"[:12],
                        flat_amount=f"{flat // 100}.{flat % 100:02d}",
                    )
                    for bound, unit, flat in zip([*bounds, None], units, flats, strict=True)
                ),
            )
        )
    return prices


def lines_evenly_over_tiers(
    random: np.random.Generator, prices: list[GraduatedPrice], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """A plan and a quantity in millionths for each line, as many in every tier."""
    bounds = np.array([[int(tier.up_to or 0) for tier in price.tiers] for price in prices])
    bounds[:, -1] = 2 * bounds[:, -2]
    plan = random.integers(0, PLANS, count).astype(np.int32)
    tier = random.integers(0, TIERS, count)
    lower = np.where(tier == 0, 0, bounds[plan, tier - 1]) * 10**DIGITS
    upper = bounds[plan, tier] * 10**DIGITS
    return plan, random.integers(lower + 1, upper + 1, dtype=np.int64)


def by_kernel(
    tables: PriceTables, plan: NDArray[np.int32], quantity: NDArray[np.int64]
) -> NDArray[np.int64]:
    ones = np.ones(1, dtype=np.int64)
    whole = np.broadcast_to(ones, plan.shape)
    return rate(
        tables=tables,
        price=plan,
        quantity=Quantities(mantissa=quantity, digits=DIGITS),
        fraction_numerator=whole,
        fraction_denominator=whole,
        rounding=Rounding.HALF_UP,
    )


def decimal_loop(
    prices: list[GraduatedPrice], plan: NDArray[np.int32], quantity: NDArray[np.int64]
) -> Callable[[], list[int]]:
    """The rule as it reads: walk the tiers, charge what lies in each, round once."""
    lists = [
        [
            (
                Decimal(tier.up_to) if tier.up_to is not None else None,
                Decimal(tier.unit_amount or "0") * 100,
                Decimal(tier.flat_amount or "0") * 100,
            )
            for tier in price.tiers
        ]
        for price in prices
    ]
    plans = plan.tolist()
    quantities = [Decimal(value).scaleb(-DIGITS) for value in quantity.tolist()]

    def run() -> list[int]:
        one, zero = Decimal(1), Decimal(0)
        out = []
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            for row, amount in zip(plans, quantities, strict=True):
                total = lower = zero
                for upper, unit, flat in lists[row]:
                    if upper is None or amount <= upper:
                        total += (amount - lower) * unit + flat
                        break
                    total += (upper - lower) * unit + flat
                    lower = upper
                out.append(int(total.quantize(one)))
        return out

    return run


def decimal_prefix_loop(
    prices: list[GraduatedPrice], plan: NDArray[np.int32], quantity: NDArray[np.int64]
) -> Callable[[], list[int]]:
    """The loop at its best: prefixes summed beforehand, the tier by bisection, one product."""
    rows = []
    for price in prices:
        bounds, lowers, units, bases = [], [], [], []
        base = lower = Decimal(0)
        for tier in price.tiers:
            unit = Decimal(tier.unit_amount or "0") * 100
            base += Decimal(tier.flat_amount or "0") * 100
            lowers.append(lower)
            units.append(unit)
            bases.append(base)
            if tier.up_to is not None:
                upper = Decimal(tier.up_to)
                bounds.append(upper)
                base, lower = base + (upper - lower) * unit, upper
        rows.append((bounds, lowers, units, bases))
    plans = plan.tolist()
    quantities = [Decimal(value).scaleb(-DIGITS) for value in quantity.tolist()]

    def run() -> list[int]:
        one = Decimal(1)
        out = []
        with localcontext(Context(prec=50, rounding=ROUND_HALF_UP)):
            for row, amount in zip(plans, quantities, strict=True):
                bounds, lowers, units, bases = rows[row]
                tier = bisect_left(bounds, amount)
                exact = bases[tier] + (amount - lowers[tier]) * units[tier]
                out.append(int(exact.quantize(one)))
        return out

    return run


def straight_lines(tables: PriceTables) -> dict[str, list[int]]:
    """Each tier as offset + quantity × unit, at scales that fill 18 digits."""
    columns: dict[str, list[int]] = {
        name: [] for name in ("plan", "lower", "upper", "unit", "offset")
    }
    for plan, row in enumerate(tables.rows):
        lower = -1
        for tier in row.tiers:
            upper = min(tier.up_to // 10**6, 2**62)
            columns["plan"].append(plan)
            columns["lower"].append(lower)
            columns["upper"].append(upper)
            columns["unit"].append(tier.unit)
            columns["offset"].append(tier.offset // 10**6 + 5 * 10**17)
            lower = upper
    return columns


def duckdb_forms(
    tables: PriceTables, plan: NDArray[np.int32], quantity: NDArray[np.int64]
) -> tuple[duckdb.DuckDBPyConnection, dict[str, str]]:
    """The exact ways to write it in SQL: join to the tier, and one wide row a plan."""
    database = duckdb.connect(":memory:")
    number = np.arange(len(plan), dtype=np.int64)
    lines = {"line": number, "plan": plan.astype(np.int64), "quantity": quantity}
    database.register("given_lines", lines)
    database.register("given_tiers", tier_columns(tables))
    database.execute("create table lines as from given_lines")
    database.execute(
        "create table tiers as select plan, lower, upper, unit::hugeint as unit, "
        "whole::hugeint * 1000000000000000000 + part as offset_ from given_tiers"
    )
    amount = "((quantity::hugeint * unit + offset_) // 1000000000000000000)::bigint"
    wide_columns = ", ".join(
        f"max({column}) filter (rank = {rank}) as {column}{rank}"
        for rank in range(1, TIERS + 1)
        for column in ("upper", "unit", "offset_")
    )
    database.execute(
        f"create table wide as select plan, {wide_columns} from "
        "(select *, row_number() over (partition by plan order by lower) as rank from tiers) "
        "group by plan"
    )
    choose = {
        column: "case "
        + " ".join(f"when quantity <= upper{rank} then {column}{rank}" for rank in range(1, TIERS))
        + f" else {column}{TIERS} end"
        for column in ("unit", "offset_")
    }
    forms = {
        "DuckDB range join": f"select line, {amount} as amount from lines join tiers on "
        "lines.plan = tiers.plan and quantity > lower and quantity <= upper",
        "DuckDB wide row": f"select line, ((quantity::hugeint * ({choose['unit']}) + "
        f"({choose['offset_']})) // 1000000000000000000)::bigint as amount "
        "from lines join wide using (plan)",
    }
    return database, forms


def tier_columns(tables: PriceTables) -> dict[str, NDArray[np.int64]]:
    columns = straight_lines(tables)
    offsets = columns.pop("offset")
    columns["whole"] = [offset // 10**18 for offset in offsets]
    columns["part"] = [offset % 10**18 for offset in offsets]
    return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}


def polars_form(
    tables: PriceTables, plan: NDArray[np.int32], quantity: NDArray[np.int64]
) -> Callable[[], NDArray[np.int64]]:
    columns = straight_lines(tables)
    wide: dict[str, list[int]] = {"plan": list(range(PLANS))}
    for rank in range(TIERS):
        for name in ("upper", "unit", "offset"):
            wide[f"{name}{rank}"] = columns[name][rank::TIERS]
    schema = {name: pl.Int64 if name[:2] in {"pl", "up"} else pl.Int128 for name in wide}
    plans = pl.DataFrame(wide, schema=schema).lazy()
    lines = pl.DataFrame({"plan": plan.astype(np.int64), "quantity": quantity}).lazy()

    def chosen(name: str) -> pl.Expr:
        expression = pl.col(f"{name}{TIERS - 1}")
        for rank in range(TIERS - 2, -1, -1):
            within = pl.col("quantity") <= pl.col(f"upper{rank}")
            expression = pl.when(within).then(pl.col(f"{name}{rank}")).otherwise(expression)
        return expression

    exact = pl.col("quantity").cast(pl.Int128) * chosen("unit") + chosen("offset")
    amount = (exact // pl.lit(10**18, dtype=pl.Int128)).cast(pl.Int64).alias("amount")
    query = lines.join(plans, on="plan", how="left", maintain_order="left").select(amount)

    def run() -> NDArray[np.int64]:
        return query.collect()["amount"].to_numpy()

    return run


def medians(contenders: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, warm: one contender after the other, so that none cools another's caches."""
    return {name: _median_seconds(run) for name, run in contenders.items()}


def _median_seconds(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return median(seconds[1:])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--lines", type=int, default=200_000)
    count = arguments.parse_args().lines
    random = np.random.default_rng(7)
    prices = price_lists(random)
    plan, quantity = lines_evenly_over_tiers(random, prices, count)
    tables = compile_prices(prices=prices, currencies=["USD"] * PLANS)
    database, forms = duckdb_forms(tables, plan, quantity)
    contenders: dict[str, Callable[[], object]] = {
        "kernel": lambda: by_kernel(tables, plan, quantity),
        "Decimal loop": decimal_loop(prices, plan, quantity),
        "Decimal with prefixes": decimal_prefix_loop(prices, plan, quantity),
        "Polars wide Int128": polars_form(tables, plan, quantity),
    }
    answers = {name: np.asarray(run()) for name, run in contenders.items()}
    for name, sql in forms.items():
        contenders[name] = lambda sql=sql: database.execute(sql).fetchnumpy()
        ordered = database.execute(f"select amount from ({sql}) order by line").fetchnumpy()
        answers[name] = ordered["amount"]

    seconds = medians(contenders)
    kernel = seconds.pop("kernel")
    print(f"{count} lines, {PLANS} plans of {TIERS} graduated tiers, medians of {ROUNDS}")
    print(f"  {'kernel':<22} {kernel * 1e3:>9.1f} ms   {count / kernel / 1e6:.1f} M lines/s")
    for name, taken in seconds.items():
        differ = int((answers[name] != answers["kernel"]).sum())
        ratio = f"{taken / kernel:>6.1f} x the kernel's time"
        print(f"  {name:<22} {taken * 1e3:>9.1f} ms {ratio}, {differ} lines differ")
    best_sql = min(taken for name, taken in seconds.items() if name in forms)
    print(f"ratio to the best DuckDB form {best_sql / kernel:.1f} (target 4)")
    print(f"ratio to the Decimal loop {seconds['Decimal loop'] / kernel:.1f} (target 40)")


if __name__ == "__main__":
    main()
