"""SQL for reading the report of a billing run: summed, remarked on, customer by customer."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.money import format_amount
from invoicing.run_report import TIMES, Remark, Remarked, ReportRow, ReportTotal, remarks_of

_NET: Final = "(r.invoiced_minor - r.credited_minor)"
_DOCUMENTS: Final = "(r.invoices + r.credit_notes)"
_HOLDS: Final[Mapping[Remark, str]] = {
    Remark.NEW: f"r.periods = 0 AND {_DOCUMENTS} > 0",
    Remark.GONE: f"r.periods > 0 AND {_DOCUMENTS} = 0 AND r.was_minor IS NULL",
    Remark.TEN_TIMES_MEAN: (
        f"r.periods > 0 AND r.mean_minor > 0 AND {_NET} >= {TIMES} * r.mean_minor"
    ),
    Remark.ZERO_INVOICE: "r.zero_invoices > 0",
    Remark.CHANGED: "r.was_minor IS NOT NULL",
}
_ROWS: Final = """
SELECT r.*, c.key FROM run_report_rows r
  JOIN customers c ON c.seller = r.seller AND c.id = r.customer
WHERE r.seller = current_seller() AND r.run = :run
"""
_TOTALS: Final = text("""
SELECT r.currency, count(*) FILTER (WHERE r.invoices + r.credit_notes > 0) AS customers,
  CAST(sum(r.invoices) AS bigint) AS invoices,
  CAST(sum(r.zero_invoices) AS bigint) AS zero_invoices,
  CAST(sum(r.credit_notes) AS bigint) AS credit_notes, CAST(sum(r.lines) AS bigint) AS lines,
  CAST(sum(r.invoiced_minor) AS bigint) AS invoiced_minor,
  CAST(sum(r.credited_minor) AS bigint) AS credited_minor,
  CAST(sum(r.tax_minor) AS bigint) AS tax_minor,
  CAST(sum(r.previous_minor) AS bigint) AS previous_minor
FROM run_report_rows r WHERE r.seller = current_seller() AND r.run = :run
GROUP BY r.currency ORDER BY r.currency
""")
_CHANGES: Final = text(f"""{_ROWS} AND {_NET} <> r.previous_minor AND r.periods > 0
ORDER BY abs({_NET} - r.previous_minor) DESC, c.key, r.currency LIMIT :limit""")
_COUNTS: Final = text(
    "SELECT "
    + ", ".join(f"count(*) FILTER (WHERE {holds}) AS {name}" for name, holds in _HOLDS.items())
    + " FROM run_report_rows r WHERE r.seller = current_seller() AND r.run = :run"
)
_REMARKED: Final = {
    name: text(f"""{_ROWS} AND {holds}
ORDER BY greatest({_NET}, r.previous_minor) DESC, c.key, r.currency LIMIT :limit""")
    for name, holds in _HOLDS.items()
}
_PAGES: Final = {
    name: text(f"""{_ROWS} AND {holds} AND (CAST(:after AS text) IS NULL
  OR r.customer || ':' || r.currency > :after COLLATE "C")
ORDER BY (r.customer || ':' || r.currency) COLLATE "C" LIMIT :limit""")
    for name, holds in {None: "true", **_HOLDS}.items()
}


async def report_totals(*, connection: AsyncConnection, run: str) -> list[ReportTotal]:
    """The sums of a report by currency."""
    return [
        ReportTotal(
            currency=row.currency,
            customers=row.customers,
            invoices=row.invoices,
            zero_invoices=row.zero_invoices,
            credit_notes=row.credit_notes,
            lines=row.lines,
            invoiced=format_amount(row.invoiced_minor, currency=row.currency),
            credited=format_amount(row.credited_minor, currency=row.currency),
            tax=format_amount(row.tax_minor, currency=row.currency),
            net=format_amount(row.invoiced_minor - row.credited_minor, currency=row.currency),
            previous=format_amount(row.previous_minor, currency=row.currency),
        )
        for row in await connection.execute(_TOTALS, {"run": run})
    ]


async def biggest_changes(*, connection: AsyncConnection, run: str, limit: int) -> list[ReportRow]:
    """The customers whose sums differ most from what was billed before."""
    rows = await connection.execute(_CHANGES, {"run": run, "limit": limit})
    return [_row(row) for row in rows]


async def remarked(*, connection: AsyncConnection, run: str, limit: int) -> list[Remarked]:
    """For each remark how many customers have it, and the largest of them."""
    counts = (await connection.execute(_COUNTS, {"run": run})).one()
    found: list[Remarked] = []
    for remark, statement in _REMARKED.items():
        rows = await connection.execute(statement, {"run": run, "limit": limit})
        found.append(
            Remarked(
                remark=remark,
                customers=getattr(counts, remark.value),
                first=tuple(_row(row) for row in rows),
            )
        )
    return found


async def report_page(
    *,
    connection: AsyncConnection,
    run: str,
    limit: int,
    after: str | None = None,
    remark: Remark | None = None,
) -> list[tuple[str, ReportRow]]:
    """Up to `limit` rows beyond the place `after`, each with its own; of all or of a remark."""
    row = {"run": run, "limit": limit, "after": after}
    rows = await connection.execute(_PAGES[remark], row)
    return [(f"{row.customer}:{row.currency}", _row(row)) for row in rows]


def _row(row: Any) -> ReportRow:
    net = row.invoiced_minor - row.credited_minor

    def amount(minor: int) -> str:
        return format_amount(minor, currency=row.currency)

    return ReportRow(
        customer=row.key,
        currency=row.currency,
        invoices=row.invoices,
        credit_notes=row.credit_notes,
        lines=row.lines,
        invoiced=amount(row.invoiced_minor),
        credited=amount(row.credited_minor),
        tax=amount(row.tax_minor),
        net=amount(net),
        previous=amount(row.previous_minor),
        difference=amount(net - row.previous_minor),
        mean=amount(row.mean_minor),
        periods=row.periods,
        approved=None if row.was_minor is None else amount(row.was_minor),
        remarks=remarks_of(
            net_minor=net,
            mean_minor=row.mean_minor,
            periods=row.periods,
            documents=row.invoices + row.credit_notes,
            zero_invoices=row.zero_invoices,
            was_minor=row.was_minor,
        ),
    )
