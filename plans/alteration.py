"""A subscription laid out again after one act more or less, and what of it is to be written. Pure.

What a change would do and what it does come from here alike.
"""

from collections.abc import Callable, Iterable
from datetime import datetime

import msgspec

from plans.agreement import Agreement, PriceInterval
from plans.life import Act, Beginning, Catalogue, lay_out
from plans.reconcile import reconcile
from plans.timeline import next_change_at, next_due_at


class Alteration(msgspec.Struct, frozen=True, kw_only=True):
    """The agreement as it is afterwards; `opened` and `closed` are the intervals to write.

    `act` is the one that was added, if one was.
    """

    agreement: Agreement
    opened: tuple[PriceInterval, ...]
    closed: tuple[PriceInterval, ...]
    act: Act | None


def altered(
    *,
    agreement: Agreement,
    beginning: Beginning,
    acts: Iterable[Act],
    catalogue: Catalogue,
    now: datetime,
    make_id: Callable[[], str],
    act: Act | None = None,
) -> Alteration:
    """Lay the life out from all its acts, and find what became of the intervals.

    `act` is the new one among them. What is to be invoiced at once falls due now.
    """
    runs = lay_out(beginning=beginning, acts=acts, catalogue=catalogue)
    found = reconcile(agreement=agreement, runs=runs, now=now, make_id=make_id)
    changed = msgspec.structs.replace(agreement, intervals=found.intervals)
    derived = agreement.derived_through_at
    waiting = agreement.next_due_at is not None and agreement.next_due_at <= now
    restarted = derived is not None and any(
        stretch.anchor is not None and stretch.start_at <= derived for stretch in found.opened
    )
    due_now = act is not None and act.invoice_now and act.effective_at <= now
    instants = [now] if due_now or restarted else []
    instants += [agreement.next_due_at] if waiting and agreement.next_due_at else []
    due_at = next_due_at(agreement=changed, after=derived)
    instants += [] if due_at is None else [due_at]
    marks = [at for at in (agreement.dirty_from_at, found.dirty_from_at) if at is not None]
    after = msgspec.structs.replace(
        changed,
        next_due_at=min(instants, default=None),
        next_change_at=next_change_at(agreement=changed, after=derived),
        dirty_from_at=min(marks, default=None),
        revision=agreement.revision + 1,
    )
    return Alteration(agreement=after, opened=found.opened, closed=found.closed, act=act)
