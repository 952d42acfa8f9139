"""SQL that reads what a printed document says beyond its answer."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_LINES: Final = text("""
SELECT l.id, p.body AS price, l.unit_amount, coalesce(i.number, n.number) AS adjusted_number,
  l.price_interval IS NULL AND l.contract LIKE 'crg\\_%' AS sells_credit
FROM line_items l
  LEFT JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  LEFT JOIN prices p ON p.seller = v.seller AND p.id = v.price
  LEFT JOIN line_items a ON a.seller = l.seller AND a.id = l.adjusts
  LEFT JOIN invoices i ON i.seller = a.seller AND i.id = a.document
  LEFT JOIN credit_notes n ON n.seller = a.seller AND n.id = a.document
WHERE l.seller = current_seller() AND l.document = :document
""")
_NAMES: Final = text("""
SELECT 'rate' AS kind, key, name FROM tax_rates
WHERE seller = current_seller() AND key = ANY(:rates) AND name IS NOT NULL
UNION ALL SELECT 'coupon', key, name FROM coupons
WHERE seller = current_seller() AND key = ANY(:coupons) AND name IS NOT NULL
""")


class PrintedLine(msgspec.Struct, frozen=True, kw_only=True):
    """What a line's printing needs beyond the answer: its price and the number it adjusts."""

    price: Any
    adjusted_number: str | None
    unit_amount: str | None
    sells_credit: bool


class PrintedNames(msgspec.Struct, frozen=True, kw_only=True):
    """How tax rates and coupons are called, by their keys; those without a name are left out."""

    rates: Mapping[str, str]
    coupons: Mapping[str, str]


async def printed_lines(*, connection: AsyncConnection, document: str) -> dict[str, PrintedLine]:
    """For each line id of the document what is printed of it beside the answer."""
    rows = await connection.execute(_LINES, {"document": document})
    return {
        row.id: PrintedLine(
            price=row.price,
            adjusted_number=row.adjusted_number,
            unit_amount=row.unit_amount,
            sells_credit=row.sells_credit,
        )
        for row in rows
    }


async def printed_names(
    *, connection: AsyncConnection, rates: Sequence[str], coupons: Sequence[str]
) -> PrintedNames:
    """The names of these tax rates and coupons, which never change."""
    found: dict[str, dict[str, str]] = {"rate": {}, "coupon": {}}
    if rates or coupons:
        asked = {"rates": list(rates), "coupons": list(coupons)}
        for row in await connection.execute(_NAMES, asked):
            found[row.kind][row.key] = row.name
    return PrintedNames(rates=found["rate"], coupons=found["coupon"])
