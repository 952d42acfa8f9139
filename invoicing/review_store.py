"""SQL of the report that a billing run waits for approval with, and of what was approved.

A document's digest covers what it bills: its lines, discounts, taxes and totals. Its number, its
date and what settles it are no part of it.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_CONTENT: Final = """
SELECT d.*, l.lines, sha256(convert_to(d.content || l.content, 'UTF8')) AS digest
FROM (
  SELECT id, customer, currency, true AS is_invoice, total_minor, tax_minor,
    ROW('invoice', id, customer, currency, billed_at, invoice_group, billed_to, subtotal_minor,
      discount_minor, promotional_minor, tax_minor, total_minor)::text AS content
  FROM invoices
  WHERE seller = current_seller() AND run = :posted AND customer = ANY(:customers)
  UNION ALL
  SELECT id, customer, currency, false, total_minor, tax_minor,
    ROW('credit note', id, customer, currency, billed_at, billed_to, subtotal_minor,
      discount_minor, promotional_minor, tax_minor, total_minor)::text
  FROM credit_notes
  WHERE seller = current_seller() AND run = :posted AND customer = ANY(:customers)
) d CROSS JOIN LATERAL (
  SELECT count(*) AS lines, coalesce(string_agg(ROW(i.id, i.price_key, i.charge_group, i.name,
    i.period_start_at, i.period_end_at, i.quantity, i.amount_minor, i.discount_minor,
    i.promotional_minor, i.tax_minor, i.reason, i.adjusts)::text, ';' ORDER BY i.ordinal), '')
    AS content
  FROM line_items i WHERE i.seller = current_seller() AND i.document = d.id
) l
"""
_DOCUMENTS: Final = text(_CONTENT)
# Looked up one by one: joined, an estimate that is wrong compares each with all of the report.
_NOT_APPROVED: Final = text(f"""
SELECT DISTINCT p.customer FROM ({_CONTENT}) p
WHERE p.digest IS DISTINCT FROM (SELECT e.digest FROM run_report_documents e
  WHERE e.seller = current_seller() AND e.run = :posted AND e.document = p.id) ORDER BY 1
""")
_NOT_POSTED: Final = text("""
SELECT DISTINCT e.customer FROM run_report_documents e
WHERE e.seller = current_seller() AND e.run = :run AND e.customer <> ALL(:parked)
  AND NOT EXISTS (SELECT FROM invoices i WHERE i.seller = e.seller AND i.id = e.document)
  AND NOT EXISTS (SELECT FROM credit_notes n WHERE n.seller = e.seller AND n.id = e.document)
ORDER BY 1
""")
_BEFORE: Final = text("""
SELECT c.id AS customer, h.currency, h.periods, h.mean_minor, h.previous_minor,
  h.last_at >= :lately AND NOT EXISTS (SELECT FROM subscriptions s
    WHERE s.seller = current_seller() AND coalesce(s.payer, s.customer) = c.id
      AND s.next_due_at IS NOT NULL) AS is_gone
FROM unnest(CAST(:customers AS text[])) AS c (id) CROSS JOIN LATERAL (
  SELECT currency, count(*) AS periods, CAST(avg(net) AS bigint) AS mean_minor,
    (array_agg(CAST(net AS bigint) ORDER BY billed_at DESC))[1] AS previous_minor,
    max(billed_at) AS last_at
  FROM (
    SELECT currency, billed_at, sum(total) AS net,
      row_number() OVER (PARTITION BY currency ORDER BY billed_at DESC) AS place
    FROM (
      SELECT currency, billed_at, total_minor AS total FROM invoices
      WHERE seller = current_seller() AND customer = c.id AND status <> 'void'
        AND run <> '' AND run <> :run
      UNION ALL
      SELECT currency, billed_at, -total_minor FROM credit_notes
      WHERE seller = current_seller() AND customer = c.id AND status <> 'void'
        AND run <> '' AND run <> :run
    ) d GROUP BY currency, billed_at
  ) p WHERE place <= 12 GROUP BY currency
) h
""")
_FORGET_ALL: Final = (
    text("DELETE FROM run_report_documents WHERE seller = current_seller() AND run = :run"),
    text("DELETE FROM run_report_rows WHERE seller = current_seller() AND run = :run"),
)
_FORGET_OTHERS: Final = (
    text("""
DELETE FROM run_report_documents WHERE seller = current_seller() AND run = :run
"""),
    text("""
DELETE FROM run_report_rows
WHERE seller = current_seller() AND run = :run AND customer <> ALL(:customers)
"""),
    text("""
UPDATE run_report_rows SET was_minor = coalesce(was_minor, invoiced_minor - credited_minor),
  invoices = 0, zero_invoices = 0, credit_notes = 0, lines = 0, invoiced_minor = 0,
  credited_minor = 0, tax_minor = 0
WHERE seller = current_seller() AND run = :run
"""),
)
_KEEP_ROWS: Final = text("""
INSERT INTO run_report_rows AS r (run, customer, currency, invoices, zero_invoices, credit_notes,
  lines, invoiced_minor, credited_minor, tax_minor, previous_minor, mean_minor, periods, was_minor)
SELECT :run, u.*, CASE WHEN :again THEN 0 END
FROM unnest(CAST(:customers AS text[]), CAST(:currencies AS text[]), CAST(:invoices AS integer[]),
  CAST(:zeros AS integer[]), CAST(:notes AS integer[]), CAST(:lines AS integer[]),
  CAST(:invoiced AS bigint[]), CAST(:credited AS bigint[]), CAST(:taxes AS bigint[]),
  CAST(:previous AS bigint[]), CAST(:means AS bigint[]), CAST(:periods AS integer[])) AS u
ON CONFLICT (seller, run, customer, currency) DO UPDATE SET invoices = excluded.invoices,
  zero_invoices = excluded.zero_invoices, credit_notes = excluded.credit_notes,
  lines = excluded.lines, invoiced_minor = excluded.invoiced_minor,
  credited_minor = excluded.credited_minor, tax_minor = excluded.tax_minor,
  previous_minor = excluded.previous_minor, mean_minor = excluded.mean_minor,
  periods = excluded.periods
""")
_KEEP_DOCUMENTS: Final = text("""
INSERT INTO run_report_documents (run, document, customer, digest)
SELECT :run, u.* FROM unnest(CAST(:documents AS text[]), CAST(:customers AS text[]),
  CAST(:digests AS bytea[])) AS u
""")
_SOMETHING: Final = text("""
SELECT EXISTS (SELECT FROM run_report_documents WHERE seller = current_seller() AND run = :run)
  OR EXISTS (SELECT FROM run_report_rows
    WHERE seller = current_seller() AND run = :run AND was_minor IS NOT NULL)
""")


class Billed(msgspec.Struct, kw_only=True):
    """What a run would post for one customer in one currency, and what was billed before."""

    invoices: int = 0
    zero_invoices: int = 0
    credit_notes: int = 0
    lines: int = 0
    invoiced_minor: int = 0
    credited_minor: int = 0
    tax_minor: int = 0
    previous_minor: int = 0
    mean_minor: int = 0
    periods: int = 0
    is_gone: bool = False


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """Documents on trial: sums by (customer, currency), and (document, customer, digest)."""

    sums: dict[tuple[str, str], Billed]
    digests: list[tuple[str, str, bytes]]


async def documents_on_trial(
    *, connection: AsyncConnection, posted: str, customers: Sequence[str]
) -> Tried:
    """What a run posted for the customers (ids), as far as this transaction sees."""
    rows = await connection.execute(_DOCUMENTS, {"posted": posted, "customers": list(customers)})
    sums: dict[tuple[str, str], Billed] = {}
    digests: list[tuple[str, str, bytes]] = []
    for row in rows:
        digests.append((row.id, row.customer, row.digest))
        billed = sums.setdefault((row.customer, row.currency), Billed())
        billed.lines += row.lines
        if row.is_invoice:
            billed.invoices += 1
            billed.zero_invoices += row.total_minor == 0
            billed.invoiced_minor += row.total_minor
            billed.tax_minor += row.tax_minor
        else:
            billed.credit_notes += 1
            billed.credited_minor += row.total_minor
            billed.tax_minor -= row.tax_minor
    return Tried(sums=sums, digests=digests)


async def not_approved(
    *, connection: AsyncConnection, run: str, customers: Sequence[str]
) -> list[str]:
    """Those of the customers (ids) for whom the run posted something else than was approved."""
    found = await connection.execute(_NOT_APPROVED, {"posted": run, "customers": list(customers)})
    return list(found.scalars())


async def not_posted(
    *, connection: AsyncConnection, run: str, parked: Collection[str]
) -> list[str]:
    """Customers (ids), but for those parked, with an approved document that was not posted."""
    found = await connection.execute(_NOT_POSTED, {"run": run, "parked": list(parked)})
    return list(found.scalars())


async def billed_before(
    *, connection: AsyncConnection, run: str, customers: Sequence[str], lately: datetime
) -> dict[tuple[str, str], Billed]:
    """What runs billed the customers (ids) before, by (customer, currency).

    Gone is who was billed since `lately` and has no subscription any more that falls due.
    """
    row = {"run": run, "customers": list(customers), "lately": lately}
    return {
        (found.customer, found.currency): Billed(
            previous_minor=found.previous_minor,
            mean_minor=found.mean_minor,
            periods=found.periods,
            is_gone=found.is_gone,
        )
        for found in await connection.execute(_BEFORE, row)
    }


async def begin_report(
    *, connection: AsyncConnection, run: str, again: Sequence[str] | None
) -> None:
    """Empty the report; what was approved for those to be reported `again` (ids) is kept aside."""
    for statement in _FORGET_ALL if again is None else _FORGET_OTHERS:
        wanted = {"run": run} | ({"customers": list(again or ())})
        await connection.execute(statement, _named(statement, wanted))


def _named(statement: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if f":{name}" in str(statement)}


async def keep_report(
    *,
    connection: AsyncConnection,
    run: str,
    sums: Mapping[tuple[str, str], Billed],
    digests: Sequence[tuple[str, str, bytes]],
    again: bool,
) -> None:
    """Add to the report; `again` where other sums were approved before."""
    if sums:
        every = list(sums.values())
        row = {
            "run": run,
            "again": again,
            "customers": [customer for customer, _ in sums],
            "currencies": [currency for _, currency in sums],
            "invoices": [each.invoices for each in every],
            "zeros": [each.zero_invoices for each in every],
            "notes": [each.credit_notes for each in every],
            "lines": [each.lines for each in every],
            "invoiced": [each.invoiced_minor for each in every],
            "credited": [each.credited_minor for each in every],
            "taxes": [each.tax_minor for each in every],
            "previous": [each.previous_minor for each in every],
            "means": [each.mean_minor for each in every],
            "periods": [each.periods for each in every],
        }
        await connection.execute(_KEEP_ROWS, row)
    if digests:
        row = {
            "run": run,
            "documents": [document for document, _, _ in digests],
            "customers": [customer for _, customer, _ in digests],
            "digests": [digest for _, _, digest in digests],
        }
        await connection.execute(_KEEP_DOCUMENTS, row)


async def is_anything_reported(*, connection: AsyncConnection, run: str) -> bool:
    """Whether there is a document to be approved, or something was and is owed no more."""
    return bool((await connection.execute(_SOMETHING, {"run": run})).scalar_one())
