"""The same rating in DuckDB and Polars, exact to the bit: the forms that ran fastest of many.

Each run gives the line numbers and their minor units, in any order.
"""

from collections.abc import Callable

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray
from rating_workloads import TIERS, Celled, Evented, Mixed, Quantified, Workload

from plans.prices import MatrixPrice, PackagePrice, PercentagePrice
from rating.tables import PriceTables

Numbered = tuple[NDArray[np.int64], NDArray[np.int64]]
Engine = Callable[[], Numbered]

_UNIT = 10**18
_FINE = 10**14  # compiled prices: 10^-14 minor units
_LARGEST = 2**62


def duckdb_forms(work: Workload) -> dict[str, Engine]:
    """Every exact way to write the workload in SQL that was worth keeping."""
    database = duckdb.connect(":memory:")
    queries = _queries(database, work, "")

    def runner(sql: str) -> Engine:
        def run() -> Numbered:
            answer = database.execute(sql).fetchnumpy()
            return np.asarray(answer["line"]), np.asarray(answer["amount"])

        return run

    return {name: runner(sql) for name, sql in queries.items()}


def _queries(
    database: duckdb.DuckDBPyConnection, work: Workload, at: str, first: int = 0
) -> dict[str, str]:
    """SQL over tables whose names end in `at`; lines are numbered from `first`."""
    match work:
        case Mixed():
            queries, begin = [], 0
            for number, part in enumerate(work.parts):
                *_, best = _queries(database, part, f"_{number}", begin).values()
                queries.append(f"({best})")
                begin += len(part.plan)
            return {"one query": " union all ".join(queries)}
        case Evented():
            return _event_queries(database, work, at, first)
        case Celled():
            return _cell_queries(database, work, at, first)
        case Quantified():
            line = np.arange(first, first + len(work.plan))
            columns = {"line": line, "plan": work.plan.astype(np.int64), "quantity": work.quantity}
            _table(database, f"lines{at}", columns)
            if isinstance(work.tables.prices[0], PackagePrice):
                return _package_queries(database, work.tables, at)
            return _tier_queries(database, work.tables, at)


def _table(
    database: duckdb.DuckDBPyConnection, name: str, columns: dict[str, NDArray[np.int64]]
) -> None:
    database.register("given", columns)
    database.execute(f"create table {name} as from given")
    database.unregister("given")


def tier_columns(tables: PriceTables) -> dict[str, NDArray[np.int64]]:
    """Each tier as offset + quantity × unit, in 10^-18 minor units; the half is in the offset."""
    rows = [
        (plan, tier, lower)
        for plan, row in enumerate(tables.rows)
        for tier, lower in zip(row.tiers, [None, *row.tiers], strict=False)
    ]
    offsets = [tier.offset // 10**10 + _UNIT // 2 for _, tier, _ in rows]
    columns = {
        "plan": [plan for plan, _, _ in rows],
        "lower": [-1 if lower is None else lower.up_to // 10**8 for _, _, lower in rows],
        "upper": [min(tier.up_to // 10**8, _LARGEST) for _, tier, _ in rows],
        "unit": [tier.unit // 100 for _, tier, _ in rows],
        "whole": [offset // _UNIT for offset in offsets],
        "part": [offset % _UNIT for offset in offsets],
    }
    return {name: np.array(values, dtype=np.int64) for name, values in columns.items()}


def _tier_queries(
    database: duckdb.DuckDBPyConnection, tables: PriceTables, at: str
) -> dict[str, str]:
    """Join to the tier, and one wide row a plan with a case over its tiers."""
    columns = tier_columns(tables)
    tiers = max(len(row.tiers) for row in tables.rows)
    _table(database, f"parts{at}", columns)
    database.execute(
        f"create table tiers{at} as select plan, lower, upper, unit::hugeint as unit, "
        f"whole::hugeint * {_UNIT} + part as offset_ from parts{at}"
    )
    listed = ", ".join(
        f"max({column}) filter (rank = {rank}) as {column}{rank}"
        for rank in range(1, tiers + 1)
        for column in ("upper", "unit", "offset_")
    )
    database.execute(
        f"create table wide{at} as select plan, {listed} from (select *, "
        f"row_number() over (partition by plan order by lower) as rank from tiers{at}) "
        "group by plan"
    )
    chosen = {
        column: "case "
        + " ".join(f"when quantity <= upper{rank} then {column}{rank}" for rank in range(1, tiers))
        + f" else {column}{tiers} end"
        for column in ("unit", "offset_")
    }
    return {
        "wide row": f"select line, ((quantity::hugeint * ({chosen['unit']}) + "
        f"({chosen['offset_']})) // {_UNIT})::bigint as amount "
        f"from lines{at} join wide{at} using (plan)",
        "range join": f"select line, ((quantity::hugeint * unit + offset_) // {_UNIT})::bigint "
        f"as amount from lines{at} join tiers{at} on lines{at}.plan = tiers{at}.plan "
        "and quantity > lower and quantity <= upper",
    }


def _package_queries(
    database: duckdb.DuckDBPyConnection, tables: PriceTables, at: str
) -> dict[str, str]:
    _table(database, f"packages{at}", package_columns(tables))
    amount = "((quantity + add_) // size * unit + 50) // 100"
    return {
        "join": f"select line, {amount} as amount from lines{at} join packages{at} using (plan)"
    }


def package_columns(tables: PriceTables) -> dict[str, NDArray[np.int64]]:
    """Sizes in millionths, what makes a begun one count, units in hundredths of a minor unit."""
    size = np.array([row.package // 10**8 for row in tables.rows], dtype=np.int64)
    up = np.array([row.package_up for row in tables.rows], dtype=bool)
    units = [row.tiers[0].unit // (_FINE // 100) for row in tables.rows]
    return {
        "plan": np.arange(len(size)),
        "size": size,
        "add_": np.where(up, size - 1, 0),
        "unit": np.array(units, dtype=np.int64),
    }


def event_columns(tables: PriceTables) -> dict[str, NDArray[np.int64]]:
    """Rates in hundredths of a per cent; amounts × 10^4 minor units; free amounts in cents."""

    def scaled(text: str | None, factor: int, absent: int) -> int:
        return absent if text is None else int(text.replace(".", "")) * factor

    columns: dict[str, list[int]] = {
        name: [] for name in ("rate", "fixed", "free_events", "free_amount", "least", "most")
    }
    for price in tables.prices:
        assert isinstance(price, PercentagePrice)
        free = price.free_amount is not None
        columns["rate"].append(scaled(price.rate, 1, 0))
        columns["fixed"].append(scaled(price.fixed_amount, 10_000, 0))
        columns["free_events"].append(price.free_events or 0)
        columns["free_amount"].append(scaled(price.free_amount, 1, 0) if free else _LARGEST)
        columns["least"].append(scaled(price.event_minimum, 10_000, 0))
        columns["most"].append(scaled(price.event_maximum, 10_000, _LARGEST))
    arrays = {name: np.array(values, dtype=np.int64) for name, values in columns.items()}
    return arrays | {"plan": np.arange(len(tables.prices))}


def event_rows(work: Evented, first: int = 0) -> dict[str, NDArray[np.int64]]:
    line = np.repeat(np.arange(first, first + len(work.plan)), np.diff(work.offsets))
    plan = np.repeat(work.plan.astype(np.int64), np.diff(work.offsets))
    return {"line": line, "plan": plan, "place": np.arange(len(line)), "value": work.value}


def _event_queries(
    database: duckdb.DuckDBPyConnection, work: Evented, at: str, first: int
) -> dict[str, str]:
    """Windows over everything, or only over plans where something is free or limited."""
    prices = event_columns(work.tables)
    prices["plain"] = (prices["free_events"] == 0).astype(np.int64)
    _table(database, f"rates{at}", prices)
    _table(database, f"events{at}", event_rows(work, first))

    def walked(where: str) -> str:
        base = (
            "case when n > free_events then value when running <= free_amount then null "
            "when running - value <= free_amount then running - free_amount else value end"
        )
        return (
            "select line, (coalesce(sum(greatest(least_, least(most, base * rate + fixed))) "
            "filter (base is not null), 0) + 5000)::bigint // 10000 as amount from "
            f"(select line, rate, fixed, most, rates{at}.least as least_, {base} as base from "
            "(select line, plan, value, row_number() over w as n, sum(value) over w as running "
            f"from events{at} {where} window w as (partition by line order by place)) "
            f"join rates{at} using (plan)) group by line"
        )

    plain = (
        "select line, (sum(value * rate + fixed) + 5000)::bigint // 10000 as amount "
        f"from events{at} join rates{at} using (plan) where plain = 1 group by line"
    )
    some = f"where plan in (select plan from rates{at} where plain = 0)"
    return {
        "windows over all": walked(""),
        "windows where needed": f"{plain} union all {walked(some)}",
    }


def cell_columns(tables: PriceTables) -> dict[str, NDArray[np.int64]]:
    """Unit amounts in 10^-12 minor units; row -1 is the price's own."""
    plans, rows, units = [], [], []
    for plan, price in enumerate(tables.prices):
        assert isinstance(price, MatrixPrice)
        for row, text in enumerate([price.unit_amount, *(r.unit_amount for r in price.matrix)], -1):
            plans.append(plan)
            rows.append(row)
            units.append(int(text.replace(".", "")) * 10**4)
    return {
        "plan": np.array(plans, dtype=np.int64),
        "row_": np.array(rows, dtype=np.int64),
        "unit": np.array(units, dtype=np.int64),
    }


def cell_rows(work: Celled, first: int = 0) -> dict[str, NDArray[np.int64]]:
    sizes = np.diff(work.offsets)
    return {
        "line": np.repeat(np.arange(first, first + len(work.plan)), sizes),
        "plan": np.repeat(work.plan.astype(np.int64), sizes),
        "row_": work.row.astype(np.int64),
        "quantity": work.quantity,
    }


def _cell_queries(
    database: duckdb.DuckDBPyConnection, work: Celled, at: str, first: int
) -> dict[str, str]:
    """Join each cell to its unit amount; or look it up by place in a list a plan."""
    _table(database, f"units{at}", cell_columns(work.tables))
    _table(database, f"cells{at}", cell_rows(work, first))
    database.execute(
        f"create table lists{at} as select plan, list(unit order by row_) as units "
        f"from units{at} group by plan"
    )
    total = f"((sum(quantity::hugeint * {{unit}}) + {_UNIT // 2}) // {_UNIT})::bigint as amount"
    return {
        "list lookup": f"select line, {total.format(unit='units[row_ + 2]')} "
        f"from cells{at} join lists{at} using (plan) group by line",
        "join": f"select line, {total.format(unit='unit')} "
        f"from cells{at} join units{at} using (plan, row_) group by line",
    }


def polars_form(work: Workload) -> Engine:
    """The lazy query that Polars likes best: wide plans, Int128 products."""
    queries = [_polars(part, first) for part, first in _numbered_parts(work)]

    def run() -> Numbered:
        frames = pl.collect_all(queries)
        lines = np.concatenate([frame["line"].to_numpy() for frame in frames])
        return lines, np.concatenate([frame["amount"].to_numpy() for frame in frames])

    return run


def _numbered_parts(work: Workload) -> list[tuple[Quantified | Evented | Celled, int]]:
    if not isinstance(work, Mixed):
        return [(work, 0)]
    numbered, begin = [], 0
    for part in work.parts:
        numbered.append((part, begin))
        begin += len(part.plan)
    return numbered


def _polars(work: Quantified | Evented | Celled, first: int) -> pl.LazyFrame:
    if isinstance(work, Evented):
        return _polars_events(work, first)
    if isinstance(work, Celled):
        return _polars_cells(work, first)
    line = np.arange(first, first + len(work.plan))
    columns = {"line": line, "plan": work.plan.astype(np.int64), "quantity": work.quantity}
    lines = pl.DataFrame(columns).lazy()
    if isinstance(work.tables.prices[0], PackagePrice):
        plans = pl.DataFrame(package_columns(work.tables)).lazy()
        count = (pl.col("quantity") + pl.col("add_")) // pl.col("size")
        amount = (count * pl.col("unit") + 50) // 100
        return lines.join(plans, on="plan").select("line", amount=amount)
    return _polars_tiers(lines, work.tables)


def _polars_tiers(lines: pl.LazyFrame, tables: PriceTables) -> pl.LazyFrame:
    columns = tier_columns(tables)
    parts = zip(columns["whole"].tolist(), columns["part"].tolist(), strict=True)
    offsets = [whole * _UNIT + part for whole, part in parts]
    wide: dict[str, list[int]] = {"plan": list(range(len(tables.rows)))}
    for rank in range(TIERS):
        wide[f"upper{rank}"] = columns["upper"][rank::TIERS].tolist()
        wide[f"unit{rank}"] = columns["unit"][rank::TIERS].tolist()
        wide[f"offset{rank}"] = offsets[rank::TIERS]
    schema = {name: pl.Int64 if name[:2] in {"pl", "up"} else pl.Int128 for name in wide}
    plans = pl.DataFrame(wide, schema=schema).lazy()

    def chosen(name: str) -> pl.Expr:
        expression = pl.col(f"{name}{TIERS - 1}")
        for rank in range(TIERS - 2, -1, -1):
            within = pl.col("quantity") <= pl.col(f"upper{rank}")
            expression = pl.when(within).then(pl.col(f"{name}{rank}")).otherwise(expression)
        return expression

    exact = pl.col("quantity").cast(pl.Int128) * chosen("unit") + chosen("offset")
    amount = (exact // pl.lit(_UNIT, dtype=pl.Int128)).cast(pl.Int64)
    return lines.join(plans, on="plan", how="left").select("line", amount=amount)


def _polars_events(work: Evented, first: int) -> pl.LazyFrame:
    events = pl.DataFrame(event_rows(work, first)).lazy()
    rates = pl.DataFrame(event_columns(work.tables)).lazy()
    value, running = pl.col("value"), pl.col("running")
    base = (
        pl.when(pl.col("n") >= pl.col("free_events"))
        .then(value)
        .when(running <= pl.col("free_amount"))
        .then(None)
        .when(running - value <= pl.col("free_amount"))
        .then(running - pl.col("free_amount"))
        .otherwise(value)
    )
    paid = (base * pl.col("rate") + pl.col("fixed")).clip(pl.col("least"), pl.col("most"))
    return (
        events.with_columns(
            running=pl.col("value").cum_sum().over("line"),
            n=pl.int_range(pl.len()).over("line"),
        )
        .join(rates, on="plan", how="left")
        .group_by("line")
        .agg(amount=(paid.sum() + 5_000) // 10_000)
    )


def _polars_cells(work: Celled, first: int) -> pl.LazyFrame:
    cells = pl.DataFrame(cell_rows(work, first)).lazy()
    units = pl.DataFrame(cell_columns(work.tables)).lazy()
    product = pl.col("quantity").cast(pl.Int128) * pl.col("unit").cast(pl.Int128)
    half, unit = pl.lit(_UNIT // 2, dtype=pl.Int128), pl.lit(_UNIT, dtype=pl.Int128)
    return (
        cells.join(units, on=["plan", "row_"], how="left")
        .group_by("line")
        .agg(amount=((product.sum() + half) // unit).cast(pl.Int64))
    )
