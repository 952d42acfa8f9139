"""What may be done to a billing run, and when. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from engine.errors import BillingError, ErrorKind
from plans.shape import Body, ShortText


class RunStatus(StrEnum):
    """Where a billing run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    REVIEWING = "reviewing"
    AWAITING_APPROVAL = "awaiting_approval"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class RunAct(StrEnum):
    """What somebody does to a billing run by hand."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    APPROVE = "approve"
    REJECT = "reject"


class RunStep(Body, frozen=True, kw_only=True):
    """`POST /v1/billing_runs/{id}/pause`, `/cancel`, `/reject`; the audit log keeps `reason`."""

    reason: ShortText | None = None


class GoOnStep(RunStep, frozen=True, kw_only=True):
    """`POST /v1/billing_runs/{id}/resume`, `/approve`; without `wait` a worker goes on with it."""

    wait: bool = True


class RetryDraft(GoOnStep, frozen=True, kw_only=True):
    """`POST /v1/billing_runs/{id}/retry`: all that is parked, or some (keys or ids)."""

    customers: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10_000)] | None = (
        None
    )


class _Step(msgspec.Struct, frozen=True, kw_only=True):
    """From which statuses an act leads where, and what else is answered."""

    begins: frozenset[RunStatus]
    ends: RunStatus
    refused: str


_STEPS: Final[Mapping[RunAct, _Step]] = {
    RunAct.PAUSE: _Step(
        begins=frozenset({RunStatus.RUNNING}), ends=RunStatus.PAUSED, refused="run_not_running"
    ),
    RunAct.RESUME: _Step(
        begins=frozenset({RunStatus.PAUSED}), ends=RunStatus.RUNNING, refused="run_not_paused"
    ),
    RunAct.CANCEL: _Step(
        begins=frozenset(set(RunStatus) - {RunStatus.FINISHED, RunStatus.CANCELLED}),
        ends=RunStatus.CANCELLED,
        refused="run_is_over",
    ),
    RunAct.APPROVE: _Step(
        begins=frozenset({RunStatus.AWAITING_APPROVAL}),
        ends=RunStatus.RUNNING,
        refused="run_not_awaiting_approval",
    ),
    RunAct.REJECT: _Step(
        begins=frozenset({RunStatus.AWAITING_APPROVAL}),
        ends=RunStatus.CANCELLED,
        refused="run_not_awaiting_approval",
    ),
    RunAct.RETRY: _Step(
        begins=frozenset({RunStatus.FINISHED}), ends=RunStatus.RUNNING, refused="run_not_finished"
    ),
}


def after(*, act: RunAct, run: str, status: RunStatus) -> RunStatus:
    """The status that an act leads to; a review that died is resumed as a review.

    Raises `run_not_running`, `run_not_paused`, `run_is_over`, `run_not_finished` or
    `run_not_awaiting_approval`.
    """
    if act is RunAct.RESUME and status is RunStatus.REVIEWING:
        return status
    step = _STEPS[act]
    if status not in step.begins:
        detail = f"the billing run {run!r} is {status.replace('_', ' ')}: {act} does not apply"
        raise BillingError(step.refused, detail, kind=ErrorKind.CONFLICT)
    return step.ends


def on_hold(*, run: str, status: str) -> BillingError:
    """What a run is told whose customers are held back by another one: `billing_on_hold`."""
    detail = (
        f"the billing run {run!r} is {status.replace('_', ' ')} and holds back what its customers"
        " owe: go on with it, or cancel it"
    )
    return BillingError("billing_on_hold", detail, kind=ErrorKind.CONFLICT)


def require_finished(*, run: str, status: str) -> None:
    """Raise `billing_on_hold` for a run that was stopped before its end."""
    if status != RunStatus.FINISHED:
        raise on_hold(run=run, status=status)
