"""Moving subscriptions to a version of their plan: what is asked and what is answered. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec

from engine.money import format_amount
from plans.agreement import Agreement, ChangeDraft
from plans.alteration import Alteration
from plans.shape import Body, Record
from plans.timeline import INSTANT, NOW, PERIOD_END, next_due_at, read_instant


class MigrationDraft(Body, frozen=True, kw_only=True):
    """`POST /v1/plans/{plan}/migrate`. `effective`: now, period_end or an instant.

    `customers` (keys or ids) limits it to theirs; `dry_run` only tells what it would do.
    """

    to_version: Annotated[int, msgspec.Meta(ge=1, le=2_147_483_647)]
    effective: str = "now"
    customers: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    dry_run: bool = False


class NotMoved(Record, frozen=True, kw_only=True):
    """A subscription that stays as it was, and why."""

    subscription: str
    customer: str
    code: str
    detail: str


class MoneyDifference(Record, frozen=True, kw_only=True):
    """What is charged without and with the move, in major units, before discounts and taxes."""

    currency: str
    before: str
    after: str
    difference: str


class Migration(Record, frozen=True, kw_only=True):
    """What became of the subscriptions that were on an older version.

    `unchanged` are on the version already, or off the plan, by then. `refused` counts those that
    could not be moved; `not_moved` tells of the first of them. A dry run tells the money: all
    that falls due for those it would move, up to the first due instant at which the move counts.
    """

    plan: str
    to_version: int
    effective: str
    dry_run: bool
    moved: int
    unchanged: int
    refused: int
    not_moved: tuple[NotMoved, ...]
    money: tuple[MoneyDifference, ...] | None


def draft_for(*, draft: ChangeDraft, agreement: Agreement, now: datetime) -> ChangeDraft:
    """The change asked of one subscription: one that begins after the instant begins with it."""
    if agreement.starts_at <= now or draft.effective in {NOW, PERIOD_END}:
        return draft
    if read_instant(text=draft.effective) >= agreement.starts_at:
        return draft
    return msgspec.structs.replace(draft, effective=NOW)


def first_settled_at(*, alteration: Alteration) -> datetime:
    """The first due instant at which the change is in effect."""
    act, agreement = alteration.act, alteration.agreement
    assert act is not None, "a move is a change"
    due_at = agreement.next_due_at
    if due_at is not None and due_at < act.effective_at:
        due_at = next_due_at(agreement=agreement, after=act.effective_at - INSTANT)
    return act.effective_at if due_at is None else due_at


def money_of(*, totals: Mapping[str, tuple[int, int]]) -> tuple[MoneyDifference, ...]:
    """From minor units before and after by currency."""
    return tuple(
        MoneyDifference(
            currency=currency,
            before=format_amount(before, currency=currency),
            after=format_amount(after, currency=currency),
            difference=format_amount(after - before, currency=currency),
        )
        for currency, (before, after) in sorted(totals.items())
    )
