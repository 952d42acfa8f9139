"""SQL of billing runs and parked accounts."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from invoicing.fallback_store import list_fallbacks
from invoicing.model import BillingRun, Fallback, ParkedAccount, RunFailure
from invoicing.run_pace import pace
from invoicing.run_states import RunStatus

_RUNNING: Final = text("""
UPDATE billing_runs SET pending = pending OR :pending
WHERE seller = current_seller() AND as_of = :as_of AND status = 'running' RETURNING id
""")
_UNFINISHED: Final = text("""
SELECT id, as_of, pending, approve, retrying, coalesce(retrying, customers) AS customers
FROM billing_runs
WHERE seller = current_seller() AND status = 'running'
  AND (CAST(:run AS text) IS NULL OR id <> :run) AND (as_of < :before OR (as_of = :before
    AND coalesce(retrying, customers) IS DISTINCT FROM CAST(:customers AS text[])))
ORDER BY as_of
""")
_FIND: Final = text("""
SELECT id, as_of, pending, approve, retrying, coalesce(retrying, customers) AS customers
FROM billing_runs
WHERE seller = current_seller() AND id = :run AND status = ANY(:statuses)
""")
_COUNT_SAME: Final = text("""
SELECT count(*) FROM billing_runs WHERE seller = current_seller() AND as_of = :as_of
""")
_BEGIN: Final = text("""
INSERT INTO billing_runs (id, as_of, customers, pending, approve, background, status, started_at)
VALUES (:id, :as_of, CAST(:customers AS text[]), :pending,
  CASE WHEN NOT :as_seller THEN CAST(:approve AS boolean) END, :queued,
  CASE WHEN :queued THEN 'queued' WHEN :approve THEN 'reviewing' ELSE 'running' END, :now)
ON CONFLICT DO NOTHING
""")
_SETTLE: Final = text("""
UPDATE billing_runs SET approve = :approve
WHERE seller = current_seller() AND id = :run AND approve IS NULL
""")
_FINISH: Final = text("""
UPDATE billing_runs SET status = 'finished', finished_at = :now, retrying = NULL,
  failures = 0
WHERE seller = current_seller() AND id = :run AND status = 'running'
""")
_PARK: Final = text("""
INSERT INTO parked_accounts (run, customer, billed_at, code, detail, parked_at)
VALUES (:run, :customer, :billed_at, :code, :detail, :now)
ON CONFLICT (seller, run, customer) DO UPDATE SET billed_at = excluded.billed_at,
  code = excluded.code, detail = excluded.detail, parked_at = excluded.parked_at
""")
_UNPARK: Final = text("""
DELETE FROM parked_accounts WHERE seller = current_seller() AND run = :run
  AND customer <> ALL(:parked)
  AND (CAST(:tried AS text[]) IS NULL OR customer = ANY(CAST(:tried AS text[])))
""")
_PARKED_OF: Final = text("""
SELECT p.customer, c.key FROM parked_accounts p
  JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller() AND p.run = :run ORDER BY c.key
""")
_LIST: Final = text("""
SELECT id, as_of, status, started_at, approved_at, finished_at, documents, lines, customers_done,
  customers_total, worked_micros, progress_at, failures, failure_code AS code,
  failure_detail AS detail, failed_at, tried_again_at FROM billing_runs
WHERE seller = current_seller() AND (CAST(:id AS text) IS NULL OR id = :id)
  AND (CAST(:after AS text) IS NULL OR id > :after)
ORDER BY id LIMIT :limit
""")
_LATEST: Final = text("""
SELECT id FROM billing_runs WHERE seller = current_seller() ORDER BY started_at DESC, id DESC
LIMIT :limit
""")
_PARKED: Final = text("""
SELECT p.run, c.key AS customer, p.billed_at, p.code, p.detail
FROM parked_accounts p JOIN customers c ON c.seller = p.seller AND c.id = p.customer
WHERE p.seller = current_seller() AND p.run = ANY(:runs) ORDER BY p.run, c.key
""")
_HOLDS: Final = text("""
SELECT id, status, customers FROM billing_runs
WHERE seller = current_seller() AND id IS DISTINCT FROM :run
  AND status IN ('paused', 'reviewing', 'awaiting_approval') ORDER BY id
""")
_MAY_POST: Final = text("""
SELECT r.status = :status AND NOT EXISTS (
  SELECT FROM billing_runs h WHERE h.seller = current_seller()
    AND h.status IN ('paused', 'reviewing', 'awaiting_approval')
    AND h.id <> r.id AND h.id <> ALL(:known))
FROM billing_runs r WHERE r.seller = current_seller() AND r.id = :run
""")
_STATUS: Final = text("""
SELECT status FROM billing_runs WHERE seller = current_seller() AND id = :run
""")
_RIVAL: Final = text("""
SELECT EXISTS (SELECT FROM billing_runs o JOIN billing_runs r ON r.seller = o.seller
  AND r.as_of = o.as_of AND r.id = :run
  WHERE o.seller = current_seller() AND o.status = 'running' AND o.id <> :run)
""")
_MOVE: Final = text("""
UPDATE billing_runs SET status = :status, background = background OR :background,
  failures = CASE WHEN :status = 'running' AND status = 'queued' THEN failures ELSE 0 END,
  tried_again_at = CASE WHEN :status = 'running' AND status = 'queued' THEN tried_again_at END,
  finished_at = CASE WHEN :status = 'cancelled' THEN CAST(:now AS timestamptz) END,
  approved_at = CASE WHEN status = 'awaiting_approval' AND :status = 'running'
    THEN CAST(:now AS timestamptz) ELSE approved_at END,
  retrying = CASE WHEN :status = 'cancelled' THEN NULL
    ELSE coalesce(CAST(:retrying AS text[]), retrying) END
WHERE seller = current_seller() AND id = :run
""")
_AGAIN: Final = text("""
UPDATE billing_runs SET status = 'reviewing', retrying = CAST(:customers AS text[])
WHERE seller = current_seller() AND id = :run AND status = 'running'
""")
_REFRESH: Final = text("SELECT refresh_statistics()")
_AT_WORK: Final = (RunStatus.RUNNING, RunStatus.REVIEWING)


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is about: its instant, and the customers (ids) it is limited to.

    `run` is its id where it was begun before; `pending` whether differences are posted too, and
    `approve` whether nothing is posted that was not approved: `as_seller` lets the seller say so
    when a queued run begins. `again` are those tried again.
    """

    as_of: datetime
    customers: tuple[str, ...] | None = None
    pending: bool = False
    approve: bool = False
    as_seller: bool = False
    again: tuple[str, ...] | None = None
    run: str | None = None


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A run that stands still, and whom it holds back: `customers` (ids), or all."""

    run: str
    status: str
    customers: frozenset[str] | None


async def find_running(
    *, connection: AsyncConnection, as_of: datetime, pending: bool
) -> str | None:
    """The id of the unfinished run for that instant, which posts differences if this one does."""
    row = await connection.execute(_RUNNING, {"as_of": as_of, "pending": pending})
    return row.scalar_one_or_none()


async def unfinished_runs(*, connection: AsyncConnection, before: Unfinished) -> list[Unfinished]:
    """Runs for earlier instants, or for others at that one, that did not finish, in order."""
    rows = await connection.execute(
        _UNFINISHED,
        {"before": before.as_of, "customers": _listed(before.customers), "run": before.run},
    )
    return [_unfinished(row) for row in rows]


async def find_unfinished(
    *, connection: AsyncConnection, run: str, statuses: Collection[RunStatus] = _AT_WORK
) -> Unfinished | None:
    """What a run is about that is running or reviewed, or so; None for any other."""
    row = {"run": run, "statuses": [status.value for status in statuses]}
    found = (await connection.execute(_FIND, row)).one_or_none()
    return None if found is None else _unfinished(found)


def _unfinished(row: Any) -> Unfinished:
    return Unfinished(
        as_of=row.as_of,
        customers=None if row.customers is None else tuple(row.customers),
        pending=row.pending,
        approve=bool(row.approve),
        as_seller=row.approve is None,
        again=None if row.retrying is None else tuple(row.retrying),
        run=row.id,
    )


def _listed(customers: Sequence[str] | None) -> list[str] | None:
    return None if customers is None else list(customers)


async def count_runs(*, connection: AsyncConnection, as_of: datetime) -> int:
    """How many runs there were for that instant."""
    return (await connection.execute(_COUNT_SAME, {"as_of": as_of})).scalar_one()


async def begin_run(
    *,
    connection: AsyncConnection,
    run: str,
    begun: Unfinished,
    now: datetime,
    queued: bool = False,
) -> None:
    """Write the run; one that runs already for the instant stays the only one.

    It is `queued` for a worker that is to begin with it.
    """
    customers = _listed(begun.customers)
    row = {"id": run, "as_of": begun.as_of, "customers": customers, "pending": begun.pending}
    row |= {"approve": begun.approve, "queued": queued, "now": now}
    await connection.execute(_BEGIN, row | {"as_seller": queued and begun.as_seller})


async def settle_approval(*, connection: AsyncConnection, run: str, approve: bool) -> None:
    """Note of a queued run whether it is approved before it posts, where that was left open."""
    await connection.execute(_SETTLE, {"run": run, "approve": approve})


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


async def parked_customers(*, connection: AsyncConnection, run: str) -> dict[str, str]:
    """The customers that a run parked, ids by key."""
    return {row.key: row.customer for row in await connection.execute(_PARKED_OF, {"run": run})}


async def finish_run(
    *,
    connection: AsyncConnection,
    run: str,
    tried: Sequence[str] | None,
    parked: Collection[str],
    now: datetime,
) -> None:
    """Mark the run finished; of those it tried (ids, or all) only `parked` stay set aside."""
    left = {"run": run, "parked": list(parked), "tried": _listed(tried)}
    await connection.execute(_UNPARK, left)
    await connection.execute(_FINISH, {"run": run, "now": now})


async def list_holds(*, connection: AsyncConnection, run: str | None) -> list[Hold]:
    """Runs that stand still, other than `run`."""
    rows = await connection.execute(_HOLDS, {"run": run})
    return [
        Hold(
            run=row.id,
            status=row.status,
            customers=None if row.customers is None else frozenset(row.customers),
        )
        for row in rows
    ]


async def may_go_on(
    *, connection: AsyncConnection, run: str, status: RunStatus, known: Collection[str]
) -> bool:
    """Whether the run still stands so and no other holds back but those `known` when it began."""
    row = {"run": run, "status": status.value, "known": list(known)}
    found = await connection.execute(_MAY_POST, row)
    return bool(found.scalar_one())


async def find_status(*, connection: AsyncConnection, run: str) -> RunStatus | None:
    """Where a run stands; None for one that is not there."""
    found = (await connection.execute(_STATUS, {"run": run})).scalar_one_or_none()
    return None if found is None else RunStatus(found)


async def has_rival(*, connection: AsyncConnection, run: str) -> bool:
    """Whether another run for the same instant is running."""
    return bool((await connection.execute(_RIVAL, {"run": run})).scalar_one())


async def move_run(
    *,
    connection: AsyncConnection,
    run: str,
    status: RunStatus,
    now: datetime,
    retrying: Sequence[str] | None = None,
    background: bool = False,
) -> None:
    """Let a run stand elsewhere; `retrying` are those of it (ids) that are tried again.

    In the `background` it is a worker that goes on with it.
    """
    row = {"run": run, "status": status.value, "now": now, "retrying": _listed(retrying)}
    await connection.execute(_MOVE, row | {"background": background})


async def review_again(*, connection: AsyncConnection, run: str, customers: Sequence[str]) -> None:
    """Have a running run reviewed, of which these customers (ids) owe what was not approved."""
    await connection.execute(_UNPARK, {"run": run, "parked": [], "tried": list(customers)})
    await connection.execute(_AGAIN, {"run": run, "customers": list(customers)})


async def latest_runs(*, connection: AsyncConnection, limit: int) -> list[BillingRun]:
    """The runs that began last, the latest first."""
    ids = list((await connection.execute(_LATEST, {"limit": limit})).scalars())
    return [(await list_runs(connection=connection, run=run))[0] for run in ids]


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
    fallbacks = await list_fallbacks(connection=connection, runs=[row.id for row in rows])
    return [_answer(row, tuple(parked.get(row.id, ())), fallbacks.get(row.id, ())) for row in rows]


def _answer(
    row: Any, parked: tuple[ParkedAccount, ...], fallbacks: tuple[Fallback, ...]
) -> BillingRun:
    reached = pace(
        done=row.customers_done,
        total=row.customers_total,
        worked_micros=row.worked_micros,
        progress_at=row.progress_at,
        is_running=row.status == RunStatus.RUNNING,
    )
    return BillingRun(
        id=row.id,
        as_of=row.as_of,
        status=row.status,
        started_at=row.started_at,
        approved_at=row.approved_at,
        finished_at=row.finished_at,
        documents=row.documents,
        lines=row.lines,
        customers_done=row.customers_done,
        customers_total=row.customers_total,
        customers_per_second=reached.customers_per_second,
        progress_at=row.progress_at,
        estimated_finish_at=reached.estimated_finish_at,
        parked=parked,
        fallbacks=fallbacks,
        failure=_failure(row) if row.failures else None,
    )


def _failure(row: Any) -> RunFailure:
    return RunFailure(
        code=row.code,
        detail=row.detail,
        times=row.failures,
        failed_at=row.failed_at,
        tried_again_at=row.tried_again_at,
    )


async def refresh_statistics(*, connection: AsyncConnection) -> None:
    """Let the planner count the documents again; it gives up rather than wait."""
    await connection.execute(_REFRESH)
