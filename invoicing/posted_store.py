"""SQL that reads what is posted: the lines of charge keys, and their credits by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.period import Period
from invoicing.difference import PostedLine, StandingLine
from invoicing.model import Reason

_POSTED: Final = text("""
SELECT l.id, l.document, l.price_interval, l.charge_start_at, l.charge_group, l.sequence,
  l.amount_minor,
  (coalesce(l.quantity, 0) * 1000000000)::numeric(33, 0)::text AS quantity_nanos,
  l.period_start_at, l.period_end_at,
  l.discount_minor, l.promotional_minor, l.tax_minor, l.tax_included_minor,
  coalesce(i.status, n.status) <> 'void' AS counts, l.reason,
  coalesce(i.issued_at, n.issued_at) AS issued_at, coalesce(i.voided_at, n.voided_at) AS voided_at
FROM line_items l
  LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
  LEFT JOIN credit_notes n ON n.seller = l.seller AND n.id = l.document
WHERE l.seller = current_seller() AND l.price_interval = ANY(:intervals)
ORDER BY l.price_interval, l.charge_start_at, l.charge_group, l.sequence
""")
_CREDITS: Final = """
SELECT h.id, h.document, h.adjusts, h.amount_minor, h.discount_minor, h.promotional_minor
FROM line_items h JOIN credit_notes n ON n.seller = h.seller AND n.id = h.document
{joined}WHERE h.seller = current_seller() AND h.price_interval IS NULL AND h.adjusts IS NOT NULL
  AND n.status = 'issued' AND {wanted}
ORDER BY n.issued_at, n.sequence, h.ordinal
"""
_CREDITS_OF_INTERVALS: Final = text(
    _CREDITS.format(
        joined="  JOIN line_items l ON l.seller = h.seller AND l.id = h.adjusts\n",
        wanted="l.price_interval = ANY(:intervals)",
    )
)
_CREDITS_OF_LINES: Final = text(_CREDITS.format(joined="", wanted="h.adjusts = ANY(:lines)"))


async def posted_lines(
    *, connection: AsyncConnection, intervals: Sequence[str]
) -> dict[tuple[str, datetime], list[PostedLine]]:
    """All posted lines of the price intervals by interval and period, groups one after another.

    Each has the standing credits by hand that name it.
    """
    found: dict[tuple[str, datetime], list[PostedLine]] = {}
    if not intervals:
        return found
    wanted = {"intervals": list(intervals)}
    by_hand = _by_line((await connection.execute(_CREDITS_OF_INTERVALS, wanted)).all())
    for row in await connection.execute(_POSTED, wanted):
        line = PostedLine(
            id=row.id,
            document=row.document,
            price_interval=row.price_interval,
            charge_start_at=row.charge_start_at,
            group=row.charge_group,
            sequence=row.sequence,
            amount_minor=row.amount_minor,
            quantity_nanos=int(row.quantity_nanos),
            period=Period(row.period_start_at, row.period_end_at),
            counts=row.counts,
            reason=Reason(row.reason),
            issued_at=row.issued_at,
            voided_at=row.voided_at,
            discount_minor=row.discount_minor,
            promotional_minor=row.promotional_minor,
            tax_minor=row.tax_minor,
            tax_included_minor=row.tax_included_minor,
            credits=by_hand.get(row.id, ()),
        )
        found.setdefault((line.price_interval, line.charge_start_at), []).append(line)
    return found


async def credits_of_lines(
    *, connection: AsyncConnection, lines: Sequence[str]
) -> dict[str, tuple[StandingLine, ...]]:
    """The standing credits by hand of lines (ids), in the order of issue."""
    rows = (await connection.execute(_CREDITS_OF_LINES, {"lines": list(lines)})).all()
    return _by_line(rows)


def _by_line(rows: Sequence[Row[Any]]) -> dict[str, tuple[StandingLine, ...]]:
    found: dict[str, tuple[StandingLine, ...]] = {}
    for row in rows:
        credit = StandingLine(
            id=row.id,
            document=row.document,
            amount_minor=row.amount_minor,
            discount_minor=row.discount_minor,
            promotional_minor=row.promotional_minor,
            credit_of=row.adjusts,
        )
        found[row.adjusts] = (*found.get(row.adjusts, ()), credit)
    return found
