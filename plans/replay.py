"""The life of a subscription lived again, with other prices in the plans that it names. Pure.

When things happened and what was asked for is held: the start and the end, trial, anchor,
quantities, changes, pauses and the cancellation, each at the instant at which it was recorded.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from plans.agreement import Agreement, PriceInterval, Refund
from plans.life import Act, ActKind, Beginning, Catalogue, Offer, lay_out
from plans.reconcile import open_intervals, reconcile
from plans.timeline import cancel_intervals


def replayed(
    *,
    agreement: Agreement,
    beginning: Beginning,
    acts: Sequence[Act],
    catalogue: Catalogue,
    make_id: Callable[[], str],
) -> Agreement:
    """The subscription with the price intervals that it has with the prices of the catalogue.

    `acts` are all that were not undone, by number. Nothing of it is derived yet.
    """
    ends_at = _agreed_end(agreement)
    phases = [act for act in acts if act.kind is ActKind.PHASE]
    begun = msgspec.structs.replace(beginning, ends_at=ends_at)
    runs = lay_out(beginning=begun, acts=phases, catalogue=catalogue)
    lived = msgspec.structs.replace(
        agreement,
        ends_at=ends_at,
        cancelled_at=None,
        derived_through_at=None,
        dirty_from_at=None,
        intervals=open_intervals(runs=runs, first_number=1, make_id=make_id),
    )
    known = list(phases)
    for act in acts:
        if act.kind is ActKind.PHASE:
            continue
        if lived.cancelled_at is None and _precedes(agreement.cancelled_at, act.recorded_at):
            lived = _cancelled(lived, agreement)
        known.append(act)
        runs = lay_out(
            beginning=msgspec.structs.replace(beginning, ends_at=lived.ends_at),
            acts=known,
            catalogue=catalogue,
        )
        found = reconcile(agreement=lived, runs=runs, now=act.recorded_at, make_id=make_id)
        lived = msgspec.structs.replace(lived, intervals=found.intervals)
    if agreement.cancelled_at is not None and lived.cancelled_at is None:
        lived = _cancelled(lived, agreement)
    return lived


def with_offers(*, catalogue: Catalogue, offers: Mapping[str, Offer]) -> Catalogue:
    """The catalogue with other offers for some plan versions, by their ids."""
    return Catalogue(offers={**catalogue.offers, **offers}, prices=catalogue.prices)


def without_own_prices(
    *, beginning: Beginning, acts: Sequence[Act], without: frozenset[str]
) -> tuple[Beginning, list[Act]]:
    """The same life as if those prices of its own (ids) had never been agreed."""

    def kept(overrides: Mapping[str, str]) -> dict[str, str]:
        return {key: price for key, price in overrides.items() if price not in without}

    return (
        msgspec.structs.replace(beginning, overrides=kept(beginning.overrides)),
        [msgspec.structs.replace(act, overrides=kept(act.overrides)) for act in acts],
    )


def _precedes(at: datetime | None, other: datetime) -> bool:
    return at is not None and at < other


def _agreed_end(agreement: Agreement) -> datetime | None:
    """When the subscription was to end before it was cancelled."""
    if agreement.cancelled_at is None:
        return agreement.ends_at
    known = [each for each in agreement.intervals if each.end_is_cancellation]
    ends = [each.agreed_end_at for each in known]
    return max((end for end in ends if end is not None), default=None) if all(ends) else None


def _cancelled(lived: Agreement, agreement: Agreement) -> Agreement:
    """As the cancellation leaves it."""
    assert agreement.cancelled_at is not None
    assert agreement.ends_at is not None
    known = [each for each in agreement.intervals if each.end_is_cancellation]
    keeps = bool(known) and not any(each.credit_unused for each in known)
    intervals: tuple[PriceInterval, ...] = cancel_intervals(
        agreement=lived,
        effective=agreement.ends_at,
        refund=Refund.NONE if keeps else Refund.CREDIT,
        now=agreement.cancelled_at,
    )
    return msgspec.structs.replace(
        lived, intervals=intervals, ends_at=agreement.ends_at, cancelled_at=agreement.cancelled_at
    )
