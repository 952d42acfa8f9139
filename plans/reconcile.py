"""From runs to price intervals: what was posted keeps its interval, and the rest follows. Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from plans.agreement import Agreement, PriceInterval
from plans.life import Run, plain_quantity
from plans.timeline import raised_before


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """All intervals of a subscription after an act.

    `opened` and `closed` are those to write; from `dirty_from_at` on posted charges must be
    derived again.
    """

    intervals: tuple[PriceInterval, ...]
    opened: tuple[PriceInterval, ...]
    closed: tuple[PriceInterval, ...]
    dirty_from_at: datetime | None


def open_intervals(
    *, runs: Sequence[Run], first_number: int, make_id: Callable[[], str]
) -> tuple[PriceInterval, ...]:
    """A new interval for each run."""
    return tuple(
        PriceInterval(
            id=make_id(),
            number=number,
            price_id=run.terms.price_id,
            price=run.terms.price,
            interval=run.terms.interval,
            quantity=run.terms.quantity,
            start_at=run.start_at,
            end_at=run.end_at,
            start_is_due=run.start_is_due,
            anchor=run.anchor,
        )
        for number, run in enumerate(runs, start=first_number)
    )


def reconcile(
    *, agreement: Agreement, runs: Sequence[Run], now: datetime, make_id: Callable[[], str]
) -> Reconciled:
    """Find the interval of each run, close those that have none, open those that are new."""
    taken: dict[str, Run] = {}
    fresh: list[Run] = []
    for run in runs:
        found = _interval_of(run, agreement.intervals, taken)
        if found is None:
            fresh.append(run)
        else:
            taken[found.id] = run
    touched: list[datetime] = []
    reopened: list[datetime] = []
    kept: list[PriceInterval] = []
    closed: list[PriceInterval] = []
    for stretch in agreement.intervals:
        run = taken.get(stretch.id)
        end = stretch.start_at if run is None else run.end_at
        due = stretch.start_is_due if run is None else run.start_is_due
        if end == stretch.end_at and due == stretch.start_is_due:
            kept.append(stretch)
            continue
        moved = _ended(agreement, stretch, end, now)
        moved = msgspec.structs.replace(moved, start_is_due=due)
        kept.append(moved)
        closed.append(moved)
        if end == stretch.end_at:
            continue
        earlier = min(each for each in (end, stretch.end_at) if each is not None)
        touched.append(earlier)
        if end is None or (stretch.end_at is not None and end > stretch.end_at):
            reopened.append(earlier)
    number = 1 + max((stretch.number for stretch in agreement.intervals), default=0)
    opened = tuple(
        _ended(agreement, stretch, stretch.end_at, now)
        for stretch in open_intervals(runs=fresh, first_number=number, make_id=make_id)
    )
    touched += [stretch.start_at for stretch in opened]
    derived = agreement.derived_through_at
    dirty = [at for at in touched if derived is not None and at <= derived]
    dirty += reopened if derived is not None else []
    return Reconciled(
        intervals=(*kept, *opened),
        opened=opened,
        closed=tuple(closed),
        dirty_from_at=min(dirty, default=None),
    )


def _interval_of(
    run: Run, intervals: Sequence[PriceInterval], taken: dict[str, Run]
) -> PriceInterval | None:
    for stretch in intervals:
        if (
            stretch.id not in taken
            and stretch.price_id == run.terms.price_id
            and plain_quantity(stretch.quantity) == run.terms.quantity
            and stretch.start_at == run.start_at
            and stretch.anchor == run.anchor
        ):
            return stretch
    return None


def _ended(
    agreement: Agreement, stretch: PriceInterval, end: datetime | None, now: datetime
) -> PriceInterval:
    """The interval with another end, and why it ends there."""
    if end == agreement.ends_at and stretch.start_at != end:
        known = [each for each in agreement.intervals if each.end_is_cancellation]
        cancels = end is not None and _is_cancelled(agreement, known)
        had_come = stretch.end_at is not None and stretch.end_at <= now
        return msgspec.structs.replace(
            stretch,
            end_at=end,
            # What the end that came made due may be posted: billing must look.
            closed_at=stretch.closed_at if had_come else None,
            end_is_cancellation=cancels,
            credit_unused=known[0].credit_unused if known and cancels else True,
            agreed_end_at=known[0].agreed_end_at if known and cancels else end,
        )
    closed_at, agreed = raised_before(agreement=agreement, stretch=stretch, now=now)
    if agreed is not None and (end is None or end > agreed):
        agreed = end
    return msgspec.structs.replace(
        stretch,
        end_at=end,
        closed_at=closed_at,
        end_is_cancellation=False,
        credit_unused=True,
        agreed_end_at=agreed,
    )


def _is_cancelled(agreement: Agreement, known: Sequence[PriceInterval]) -> bool:
    """Whether the subscription's end is a cancellation, which a pause leaves without intervals."""
    if agreement.cancelled_at is None or known:
        return agreement.cancelled_at is not None
    return not any(
        each.end_at == agreement.ends_at and each.start_at != each.end_at
        for each in agreement.intervals
    )
