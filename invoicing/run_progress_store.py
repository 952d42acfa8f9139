"""SQL of a run's progress, noted once in each chunk, in the chunk's own transaction.

Progress is told by the database's clock: it is about the machine, not about what is billed.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.run_states import RunStatus

LONGEST_REST_SECONDS: Final = 300
_TAKE_UP: Final = text("""
UPDATE billing_runs SET progress_at = clock_timestamp()
WHERE seller = current_seller() AND id = :run AND status IN ('running', 'reviewing')
RETURNING customers_done, status
""")
_NOTE: Final = text("""
UPDATE billing_runs SET documents = documents + :documents, lines = lines + :lines,
  customers_done = customers_done + :customers, progress_at = clock_timestamp(), failures = 0,
  tried_again_at = NULL,
  worked_micros = worked_micros
    + coalesce(CAST(extract(epoch FROM clock_timestamp() - progress_at) * 1000000 AS bigint), 0)
WHERE seller = current_seller() AND id = :run
""")
_FAILED: Final = text("""
UPDATE billing_runs SET failures = failures + 1, failure_code = :code, failure_detail = :detail,
  failed_at = clock_timestamp(), tried_again_at = clock_timestamp()
    + least(:longest, power(2, least(failures + 1, 20))) * interval '1 second'
WHERE seller = current_seller() AND id = :run AND status IN ('queued', 'running', 'reviewing')
""")
_RESTS: Final = text("""
SELECT EXISTS (SELECT FROM billing_runs WHERE seller = current_seller() AND status = 'running'
  AND tried_again_at > clock_timestamp())
""")
_TOTAL_DUE: Final = text("""
UPDATE billing_runs SET customers_total = customers_done + :aside + (
  SELECT count(DISTINCT d.bill_to) FROM due_instants d
  WHERE d.seller = current_seller() AND d.next_due_at <= :due_by AND d.bill_to <> ALL(:left_out)
    AND (CAST(:customers AS text[]) IS NULL OR d.bill_to = ANY(:customers)))
WHERE seller = current_seller() AND id = :run RETURNING customers_total
""")
_TOTAL_PENDING: Final = text("""
UPDATE billing_runs SET customers_total = customers_done + :aside + (
  SELECT count(DISTINCT coalesce(s.payer, s.customer)) FROM subscriptions s
  WHERE s.seller = current_seller() AND s.derived_through_at IS NOT NULL
    AND (s.dirty_from_at IS NOT NULL OR s.next_change_at <= :as_of)
    AND coalesce(s.payer, s.customer) <> ALL(:left_out) AND (CAST(:customers AS text[]) IS NULL
      OR coalesce(s.payer, s.customer) = ANY(:customers)))
WHERE seller = current_seller() AND id = :run RETURNING customers_total
""")


async def take_up(*, connection: AsyncConnection, run: str) -> tuple[int, RunStatus] | None:
    """Begin to count time; gives how many customers were done, None if the run stands still."""
    row = (await connection.execute(_TAKE_UP, {"run": run})).one_or_none()
    return None if row is None else (row.customers_done, RunStatus(row.status))


async def note_progress(
    *, connection: AsyncConnection, run: str, customers: int, documents: int, lines: int
) -> None:
    """Add what a chunk did, and the time since the one before."""
    row = {"run": run, "customers": customers, "documents": documents, "lines": lines}
    await connection.execute(_NOTE, row)


async def note_failure(*, connection: AsyncConnection, run: str, code: str, detail: str) -> None:
    """Have a run tell what it failed of, and rest: 2, 4, 8 … seconds, while it does not get on."""
    row = {"run": run, "code": code, "detail": detail[:500], "longest": LONGEST_REST_SECONDS}
    await connection.execute(_FAILED, row)


async def is_any_resting(*, connection: AsyncConnection) -> bool:
    """Whether a run failed that is not to be tried yet: whatever is due comes after it."""
    return bool((await connection.execute(_RESTS)).scalar_one())


async def estimate_total(
    *,
    connection: AsyncConnection,
    run: str,
    as_of: datetime,
    due_by: datetime,
    pending: bool,
    left_out: Sequence[str],
    parked: Collection[str],
    customers: Sequence[str] | None,
) -> int:
    """Count what is left to do, due or `pending`; with what is done and `parked` that is all."""
    row = {
        "run": run,
        "left_out": [*left_out, *parked],
        "aside": len(parked),
        "customers": None if customers is None else list(customers),
    }
    if pending:
        found = await connection.execute(_TOTAL_PENDING, row | {"as_of": as_of})
    else:
        found = await connection.execute(_TOTAL_DUE, row | {"due_by": due_by})
    return found.scalar_one()
