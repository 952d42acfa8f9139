"""The life of a subscription, laid out: from its beginning and every change since, its runs.

Pure. Nothing is edited in place: a change, a pause or an undone change is one act more or less,
and the whole timeline is laid out again.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from engine.money import format_plain, parse_scaled
from engine.period import Calendar, period_holding
from plans.agreement import Anchor
from plans.model import Plan, charged_prices
from plans.prices import Interval, Kind, Price, recurs

QUANTITY_DIGITS: Final = 9


class ActKind(StrEnum):
    """What was asked of a subscription after its start."""

    CHANGE = "change"
    PHASE = "phase"
    PAUSE = "pause"
    RESUME = "resume"


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One change, in force from `effective_at` on; `plan` and `overrides` name ids."""

    id: str
    number: int
    kind: ActKind
    effective_at: datetime
    recorded_at: datetime
    plan: str | None = None
    quantities: dict[str, str] = msgspec.field(default_factory=dict)
    overrides: dict[str, str] = msgspec.field(default_factory=dict)
    prorate: bool = True
    invoice_now: bool = False


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A plan version and the ids of its prices by their keys."""

    plan: Plan
    price_ids: Mapping[str, str]


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """The plan versions of a life by their ids, and the prices of the subscription's own."""

    offers: Mapping[str, Offer]
    prices: Mapping[str, Price]


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """What a subscription started with; `plan` and `overrides` name ids."""

    starts_at: datetime
    ends_at: datetime | None
    trial_ends_at: datetime | None
    anchor: Anchor
    timezone: str
    plan: str
    quantities: dict[str, str]
    overrides: dict[str, str]


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What is agreed at an instant."""

    plan: str
    quantities: dict[str, str]
    overrides: dict[str, str]
    is_paused: bool = False
    anchor: Anchor | None = None


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """One price as it is agreed: what it is, how often, how many."""

    price_id: str
    price: Price
    interval: Interval
    quantity: str

    def is_same(self, other: "Terms") -> bool:
        """Whether nothing of the price differs, whatever plan it stands in."""
        return (
            self.quantity == other.quantity
            and self.interval == other.interval
            and msgspec.structs.replace(self.price, interval=None)
            == msgspec.structs.replace(other.price, interval=None)
        )


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One price on the same terms over [start, end)."""

    terms: Terms
    start_at: datetime
    end_at: datetime | None
    start_is_due: bool
    anchor: Anchor | None


def plain_quantity(text: str) -> str:
    """The quantity in its shortest form."""
    return format_plain(parse_scaled(text, digits=QUANTITY_DIGITS), digits=QUANTITY_DIGITS)


def state_after(*, beginning: Beginning, acts: Iterable[Act], catalogue: Catalogue) -> State:
    """What is agreed once all the acts are in force."""
    state = _first(beginning)
    for act in in_order(acts):
        state = _following(state, act, beginning, catalogue)[0]
    return state


def in_order(acts: Iterable[Act]) -> list[Act]:
    """By the instant they take effect; at one instant, as they were recorded."""
    return sorted(acts, key=lambda act: (act.effective_at, act.number))


def terms_of(*, state: State, catalogue: Catalogue) -> dict[str, Terms]:
    """Every price of the plan by its key, with the subscription's own in their places."""
    offer = catalogue.offers[state.plan]
    found: dict[str, Terms] = {}
    for listed in charged_prices(offer.plan):
        own = state.overrides.get(listed.key)
        price = listed if own is None else catalogue.prices[own]
        quantity = state.quantities.get(price.key) or price.quantity or "1"
        found[price.key] = Terms(
            price_id=own or offer.price_ids[price.key],
            price=price,
            interval=price.interval or offer.plan.interval,
            quantity=plain_quantity(quantity),
        )
    return found


def lay_out(*, beginning: Beginning, acts: Iterable[Act], catalogue: Catalogue) -> list[Run]:
    """The runs of every price, in the order in which they begin; none is empty."""
    laid = _Laid(beginning)
    state = _first(beginning)
    laid.switch(beginning.starts_at, terms_of(state=state, catalogue=catalogue), act=None)
    for act in in_order(acts):
        state, at = _following(state, act, beginning, catalogue)
        wanted = terms_of(state=state, catalogue=catalogue)
        if state.is_paused:
            wanted = {key: terms for key, terms in wanted.items() if laid.was_charged(key, terms)}
        laid.switch(at, wanted, act=act, anchor=state.anchor)
    ends_at = beginning.ends_at
    runs = [_clipped(run, ends_at) for run in laid.runs()]
    kept = [run for run in runs if run.end_at is None or run.start_at < run.end_at]
    return sorted(kept, key=lambda run: run.start_at)


def _clipped(run: Run, ends_at: datetime | None) -> Run:
    if ends_at is None or (run.end_at is not None and run.end_at <= ends_at):
        return run
    return msgspec.structs.replace(run, end_at=ends_at)


def _first(beginning: Beginning) -> State:
    return State(
        plan=beginning.plan, quantities=beginning.quantities, overrides=beginning.overrides
    )


def _following(
    state: State, act: Act, beginning: Beginning, catalogue: Catalogue
) -> tuple[State, datetime]:
    """The state from the act on, and from when on: a new unit without proration waits."""
    at = act.effective_at
    if act.kind in {ActKind.PAUSE, ActKind.RESUME}:
        paused = act.kind is ActKind.PAUSE
        return msgspec.structs.replace(state, is_paused=paused), at
    quantities, overrides = state.quantities, state.overrides
    plan, anchor = act.plan or state.plan, state.anchor
    if plan != state.plan:
        old, new = catalogue.offers[state.plan].plan, catalogue.offers[plan].plan
        kinds = {price.key: price.kind for price in new.prices}
        agreed = {key: kind for key, kind in kinds.items() if kind is not Kind.USAGE}
        quantities = {key: value for key, value in quantities.items() if key in agreed}
        same = old.key == new.key
        overrides = {k: v for k, v in overrides.items() if same and k in kinds}
        if old.interval.unit is not new.interval.unit:
            if not act.prorate:
                calendar = _calendar(beginning, old.interval, state.anchor)
                at = _next_boundary(calendar, at)
            anchor = Anchor(at=max(at, beginning.trial_ends_at or at))
    found = State(
        plan=plan,
        quantities={**quantities, **act.quantities},
        overrides={**overrides, **act.overrides},
        is_paused=state.is_paused,
        anchor=anchor,
    )
    return found, at


def _calendar(beginning: Beginning, interval: Interval, anchor: Anchor | None) -> Calendar:
    chosen = anchor or beginning.anchor
    return Calendar(
        unit=interval.unit,
        count=interval.count,
        alignment=chosen.alignment,
        anchor_at=chosen.at,
        anchor_day=chosen.day,
        timezone=beginning.timezone,
    )


def _next_boundary(calendar: Calendar, at: datetime) -> datetime:
    period = period_holding(calendar=calendar, at=at)
    return at if period.start == at else period.end


class _Laid:
    """Runs by price key while they are laid out."""

    def __init__(self, beginning: Beginning) -> None:
        self._beginning = beginning
        self._runs: dict[str, list[Run]] = {}
        self._wanted: dict[str, Terms | None] = {}

    def runs(self) -> list[Run]:
        return [run for runs in self._runs.values() for run in runs]

    def was_charged(self, key: str, terms: Terms) -> bool:
        """Whether it is a one-time price that began already: a pause does not end that."""
        before = self._wanted.get(key)
        return terms.price.kind is Kind.ONE_TIME and before is not None and before.is_same(terms)

    def switch(
        self,
        at: datetime,
        wanted: Mapping[str, Terms],
        *,
        act: Act | None,
        anchor: Anchor | None = None,
    ) -> None:
        """From `at` on, the prices are those wanted; one already wanted so goes on as it was."""
        for key in dict.fromkeys((*self._runs, *wanted)):
            runs, terms, before = self._runs.get(key, []), wanted.get(key), self._wanted.get(key)
            if terms is None if before is None else terms is not None and before.is_same(terms):
                continue
            self._wanted[key] = terms
            last = _live(runs, at)
            begins = self._begins(at, last, terms, act=act, anchor=anchor)
            self._runs[key] = self._replaced(runs, begins, terms, act=act, anchor=anchor)

    def _begins(
        self,
        at: datetime,
        last: Run | None,
        terms: Terms | None,
        *,
        act: Act | None,
        anchor: Anchor | None,
    ) -> datetime:
        """When the switch of one price happens: recurring ones wait for a trial or a boundary."""
        old = terms if last is None else last.terms
        if old is None or not recurs(old.price):
            return at
        trial_ends_at = self._beginning.trial_ends_at
        if trial_ends_at is not None and at < trial_ends_at:
            return trial_ends_at
        if act is None or (act.prorate and old.price.prorate):
            return at
        chosen = anchor if last is None else last.anchor
        return _next_boundary(_calendar(self._beginning, old.interval, chosen), at)

    def _replaced(
        self,
        runs: Sequence[Run],
        begins: datetime,
        terms: Terms | None,
        *,
        act: Act | None,
        anchor: Anchor | None,
    ) -> list[Run]:
        kept = [run for run in runs if run.start_at < begins]
        if kept:
            last = kept[-1]
            runs_on = last.end_at is None or last.end_at >= begins
            if terms is not None and runs_on and last.terms.is_same(terms):
                return [*kept[:-1], msgspec.structs.replace(last, end_at=None)]
            if runs_on:
                kept[-1] = msgspec.structs.replace(last, end_at=begins)
        if terms is None:
            return kept
        due = act is None or act.kind is ActKind.PHASE or act.invoice_now
        opened = Run(
            terms=terms,
            start_at=begins,
            end_at=None,
            start_is_due=due or begins == self._beginning.trial_ends_at,
            anchor=anchor,
        )
        return [*kept, opened]


def _live(runs: Sequence[Run], at: datetime) -> Run | None:
    """The run in force just before the instant, or from it on."""
    for run in reversed(runs):
        if run.start_at <= at and (run.end_at is None or run.end_at >= at):
            return run
    return None
