"""Verb: pause, resume or cancel a billing run, or have it try its parked accounts again."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.audit_log import AuditEntry
from engine.audit_log_store import record_act
from engine.errors import BillingError, ErrorKind, FieldError, not_found
from engine.ids import new_id
from invoicing.run_states import RunAct, RunStatus, after
from invoicing.run_store import find_status, has_rival, move_run, parked_customers
from invoicing.store import lock_billing


async def control_run(
    *,
    connection: AsyncConnection,
    run: str,
    act: RunAct,
    actor: str,
    reason: str | None,
    now: datetime,
    wall_now: datetime,
    customers: Sequence[str] | None = None,
    background: bool = False,
) -> RunStatus:
    """Let a run stand elsewhere once the chunk in hand is posted; where it stands then.

    The posting lock makes it wait for that chunk, and the run asks under the same lock before the
    next. `customers` (ids or keys) are those of the parked that a retry is limited to; in the
    `background` a worker goes on with it. Errors:
    `not_found`, `run_not_running`, `run_not_paused`, `run_is_over`, `run_not_finished`,
    `nothing_parked`, `not_parked` at a customer, and `billing_busy` while another run for the same
    instant is running.
    """
    await lock_billing(connection=connection, sweep=False)
    status = await find_status(connection=connection, run=run)
    if status is None:
        raise not_found(noun="billing run", reference=run)
    moved = after(act=act, run=run, status=status)
    if moved is RunStatus.RUNNING and await has_rival(connection=connection, run=run):
        message = "another billing run for this instant is still going"
        raise BillingError("billing_busy", message, kind=ErrorKind.CONFLICT)
    retrying = None
    if act is RunAct.RETRY:
        parked = await parked_customers(connection=connection, run=run)
        retrying = _chosen(parked, customers, run)
    await move_run(
        connection=connection,
        run=run,
        status=moved,
        now=now,
        retrying=retrying,
        background=background,
    )
    entry = AuditEntry(
        id=new_id(prefix="aud", now=wall_now),
        at=now,
        actor=actor,
        action=f"billing_run.{act}",
        object=run,
        reason=reason,
        detail={"from": status.value, "to": moved.value},
    )
    await record_act(connection=connection, entry=entry)
    return moved


def _chosen(parked: dict[str, str], customers: Sequence[str] | None, run: str) -> list[str]:
    """The ids of those to be tried again; `parked` has them by key."""
    if not parked:
        detail = f"no account of the billing run {run!r} is parked"
        raise BillingError("nothing_parked", detail, kind=ErrorKind.CONFLICT)
    if customers is None:
        return sorted(parked.values())
    known = parked | {each: each for each in parked.values()}
    errors = tuple(
        FieldError(
            pointer=f"/customers/{place}",
            code="not_parked",
            detail=f"{customer!r} is no parked account of the run",
        )
        for place, customer in enumerate(customers)
        if customer not in known
    )
    if errors:
        raise BillingError("invalid_body", errors[0].detail, errors=errors)
    return sorted({known[customer] for customer in customers})
