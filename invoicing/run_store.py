"""SQL of billing runs and parked accounts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.model import BillingRun, ParkedAccount

_RUNNING: Final = text("""
SELECT id FROM billing_runs
WHERE seller = current_seller() AND as_of = :as_of AND status = 'running'
""")
_UNFINISHED: Final = text("""
SELECT as_of, customers FROM billing_runs
WHERE seller = current_seller() AND status = 'running' AND (as_of < :before
  OR (as_of = :before AND customers IS DISTINCT FROM CAST(:customers AS text[])))
ORDER BY as_of
""")
_COUNT_SAME: Final = text("""
SELECT count(*) FROM billing_runs WHERE seller = current_seller() AND as_of = :as_of
""")
_BEGIN: Final = text("""
INSERT INTO billing_runs (id, as_of, customers, status, started_at)
VALUES (:id, :as_of, CAST(:customers AS text[]), 'running', :now)
ON CONFLICT DO NOTHING
""")
_FINISH: Final = text("""
UPDATE billing_runs SET status = 'finished', finished_at = :now
WHERE seller = current_seller() AND id = :id AND status = 'running'
""")
_PARK: Final = text("""
INSERT INTO parked_accounts (run, customer, billed_at, code, detail, parked_at)
VALUES (:run, :customer, :billed_at, :code, :detail, :now)
ON CONFLICT (seller, run, customer) DO UPDATE SET billed_at = excluded.billed_at,
  code = excluded.code, detail = excluded.detail, parked_at = excluded.parked_at
""")
_UNPARK: Final = text("""
DELETE FROM parked_accounts WHERE seller = current_seller() AND run = :run
""")
_LIST: Final = text("""
SELECT id, as_of, status, started_at, finished_at, documents, lines FROM billing_runs
WHERE seller = current_seller() AND (CAST(:id AS text) IS NULL OR id = :id)
  AND (CAST(:after AS text) IS NULL OR id > :after)
ORDER BY id LIMIT :limit
""")
_PARKED: Final = text("""
SELECT p.run, c.key AS customer, p.billed_at, p.code, p.detail
FROM parked_accounts p JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller() AND p.run = ANY(:runs) ORDER BY p.run, c.key
""")


_REFRESH: Final = text("SELECT refresh_statistics()")


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is about: its instant, and the customers (ids) it is limited to."""

    as_of: datetime
    customers: tuple[str, ...] | None = None


async def find_running(*, connection: AsyncConnection, as_of: datetime) -> str | None:
    """The id of the unfinished run for that instant."""
    return (await connection.execute(_RUNNING, {"as_of": as_of})).scalar_one_or_none()


async def unfinished_runs(*, connection: AsyncConnection, before: Unfinished) -> list[Unfinished]:
    """Runs for earlier instants, or for others at that one, that did not finish, in order."""
    rows = await connection.execute(
        _UNFINISHED, {"before": before.as_of, "customers": _listed(before.customers)}
    )
    return [
        Unfinished(
            as_of=row.as_of, customers=None if row.customers is None else tuple(row.customers)
        )
        for row in rows
    ]


def _listed(customers: Sequence[str] | None) -> list[str] | None:
    return None if customers is None else list(customers)


async def count_runs(*, connection: AsyncConnection, as_of: datetime) -> int:
    """How many runs there were for that instant."""
    return (await connection.execute(_COUNT_SAME, {"as_of": as_of})).scalar_one()


async def begin_run(
    *, connection: AsyncConnection, run: str, begun: Unfinished, now: datetime
) -> None:
    """Write the run; one that runs already for the instant stays the only one."""
    row = {"id": run, "as_of": begun.as_of, "customers": _listed(begun.customers), "now": now}
    await connection.execute(_BEGIN, row)


async def unpark_all(*, connection: AsyncConnection, run: str) -> None:
    """Forget what an earlier attempt of the run parked: it is tried again."""
    await connection.execute(_UNPARK, {"run": run})


async def park(
    *,
    connection: AsyncConnection,
    run: str,
    customer: str,
    billed_at: datetime,
    code: str,
    detail: str,
    now: datetime,
) -> None:
    """Set an account aside with its reason; the run goes on without it."""
    await connection.execute(
        _PARK,
        {
            "run": run,
            "customer": customer,
            "billed_at": billed_at,
            "code": code,
            "detail": detail[:500],
            "now": now,
        },
    )


async def finish_run(*, connection: AsyncConnection, run: str, now: datetime) -> None:
    """Mark the run finished."""
    await connection.execute(_FINISH, {"id": run, "now": now})


async def list_runs(
    *,
    connection: AsyncConnection,
    limit: int = 1,
    run: str | None = None,
    after: str | None = None,
) -> list[BillingRun]:
    """Runs in the order of their ids, each with the accounts it parked."""
    parameters = {"id": run, "after": after, "limit": limit}
    rows = (await connection.execute(_LIST, parameters)).all()
    parked: dict[str, list[ParkedAccount]] = {}
    found: Any = await connection.execute(_PARKED, {"runs": [row.id for row in rows]})
    for row in found:
        parked.setdefault(row.run, []).append(
            ParkedAccount(
                customer=row.customer,
                billed_at=row.billed_at,
                code=row.code,
                detail=row.detail,
            )
        )
    return [
        BillingRun(
            id=row.id,
            as_of=row.as_of,
            status=row.status,
            started_at=row.started_at,
            finished_at=row.finished_at,
            documents=row.documents,
            lines=row.lines,
            parked=tuple(parked.get(row.id, ())),
        )
        for row in rows
    ]


async def refresh_statistics(*, connection: AsyncConnection) -> None:
    """Let the planner count the documents again; it gives up rather than wait."""
    await connection.execute(_REFRESH)
