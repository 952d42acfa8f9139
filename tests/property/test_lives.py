"""Random lives through the public API, against an oracle of their own.

What is posted per charge is what is owed, at due instants and after runs; running again posts
nothing; the order in which usage comes and the steps of the clock change no document; and no mark
is missed: with all marks forgotten, everything derived from scratch is what is posted.
"""

import asyncio
import os
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.billing_world import violations
from tests.property.life_world import OPENED, PLANS, World
from tests.property.lives import Play, again

LONG = os.environ.get("USANCE_LIVES")
EXAMPLES = int(LONG or 15)
STEPS = 30
DAY = 86_400
SECONDS = st.one_of(
    st.integers(-40 * DAY, 40 * DAY), st.integers(-40, 40).map(lambda days: days * DAY)
)
AHEAD = st.one_of(st.integers(1, 60 * DAY), st.integers(1, 60).map(lambda days: days * DAY))
INDEX = st.integers(0, 1000)
QUANTITIES = st.sampled_from(("1", "2.5", "7", "0"))
OWN = st.sampled_from(("5.55", "40.01"))
ITEMS = st.lists(
    st.tuples(
        st.sampled_from(("c0", "c1")),
        st.sampled_from(("tokens", "tokens", "calls")),
        st.integers(-34 * DAY, 0),
        st.sampled_from(("1", "3.5", "60", "120", "-2")),
        st.sampled_from(("red", "blue")),
    ),
    min_size=1,
    max_size=5,
)
ACTS = {
    "subscribe": st.fixed_dictionaries(
        {
            "customer": st.sampled_from(("c0", "c1")),
            "plan": st.sampled_from(sorted(PLANS)),
            "start": st.one_of(st.just(0), SECONDS),
            "anchor": st.one_of(
                st.none(),
                st.none(),
                st.just(("calendar",)),
                st.tuples(st.just("day"), st.sampled_from((1, 15, 30, 31))),
                st.tuples(st.just("at"), st.integers(0, 40 * DAY)),
            ),
            "trial_days": st.sampled_from((0, 0, 0, 10, 45)),
            "ends": st.one_of(st.none(), st.none(), AHEAD),
            "quantity": QUANTITIES,
            "override": st.one_of(st.none(), st.none(), OWN),
            "phases": st.lists(
                st.tuples(
                    st.integers(DAY, 50 * DAY),
                    st.one_of(st.none(), st.sampled_from(sorted(PLANS))),
                    QUANTITIES,
                ),
                max_size=2,
            ),
        }
    )
}


class Lives(RuleBasedStateMachine):
    """One life of a seller, played to its end: STEPS acts, then everything is looked at."""

    world: World
    runner: asyncio.Runner
    play: Play
    steps = 0

    def do(self, coroutine):
        return self.runner.run(coroutine)

    @initialize(
        first=ACTS["subscribe"],
        second=ACTS["subscribe"],
        proration=st.sampled_from(("second", "second", "day", "thirty_360", "none")),
        last_day=st.sampled_from(("exclude", "include")),
    )
    def begin(self, first, second, proration, last_day):
        self.play = Play(self.world, {"proration": proration, "last_day": last_day})
        self.do(self.play.open())
        for asked in (first, second):
            self.subscribes(**asked)

    def chosen(self, index, wanted):
        found = [life for life in self.play.lives.values() if wanted(life)]
        return found[index % len(found)] if found else None

    def runs(self, life):
        return life.ends_at is None or life.ends_at > self.play.now

    def later(self, seconds, *, least=OPENED):
        return max(least, self.play.now + timedelta(seconds=seconds))

    @precondition(lambda self: len(self.play.lives) < 4)
    @rule(asked=ACTS["subscribe"])
    def subscribe(self, asked):
        self.subscribes(**asked)

    def subscribes(self, start, anchor, ends, phases, **more):
        starts_at = self.later(start)
        if anchor is not None and anchor[0] == "at":
            anchor = ("at", starts_at + timedelta(seconds=anchor[1]))
        ends_at = None if ends is None else starts_at + timedelta(seconds=ends)
        told, at = [], starts_at
        for after, plan, quantity in phases:
            at += timedelta(seconds=after)
            if ends_at is None or at < ends_at:
                phase = {"at": at, "quantities": {"seats": quantity}}
                waits = plan is None or self.play.terms["proration"] == "none"
                told.append(phase if waits else phase | {"plan": plan})
        self.do(
            self.play.subscribe(
                starts_at=starts_at, ends_at=ends_at, anchor=anchor, phases=told, **more
            )
        )

    @rule(
        index=INDEX,
        when=st.one_of(st.just("now"), SECONDS),
        plan=st.one_of(st.none(), st.sampled_from(sorted(PLANS))),
        quantity=st.one_of(st.none(), QUANTITIES),
        override=st.one_of(st.none(), st.none(), OWN),
        invoice_now=st.booleans(),
        prorate=st.sampled_from((None, None, True, False)),
    )
    def change(self, index, when, plan, quantity, override, **more):
        life = self.chosen(index, self.runs)
        if life is None or (plan, quantity, override) == (None, None, None):
            return
        starts_at = life.begun["starts_at"]
        effective = "now" if when == "now" else self.later(when, least=starts_at)
        at = max(self.play.now, starts_at) if when == "now" else effective
        if life.ends_at is not None and at >= life.ends_at:
            return
        asked = {"plan": plan, "quantity": quantity, "override": override}
        asked = {name: value for name, value in asked.items() if value is not None}
        if (more["prorate"] is False or self.play.terms["proration"] == "none") and plan:
            del asked["plan"]
        if not asked:
            return
        self.do(self.play.change(life, effective=effective, **more, **asked))

    @rule(index=INDEX)
    def turn(self, index):
        life = self.chosen(
            index,
            lambda life: self.runs(life) and life.begun["starts_at"] <= self.play.now,
        )
        if life is not None:
            paused = [act["paused"] for act in life.acts if "paused" in act]
            self.do(self.play.turn(life, paused=not (paused and paused[-1])))

    @precondition(
        lambda self: any(
            act["at"] > self.play.now for life in self.play.lives.values() for act in life.acts
        )
    )
    @rule(index=INDEX, place=INDEX)
    def undo(self, index, place):
        life = self.chosen(index, lambda life: any(act["at"] > self.play.now for act in life.acts))
        if life is not None:
            self.do(self.play.undo(life, place))

    @rule(
        index=INDEX,
        when=st.one_of(st.just("now"), SECONDS),
        refund=st.sampled_from(("credit", "none")),
    )
    def cancel(self, index, when, refund):
        def runs(life):
            began = life.begun["starts_at"] < self.play.now and life.born < self.play.now
            return began and self.runs(life) and len(life.cancels) < 2

        life = self.chosen(index, runs)
        if life is None:
            return
        least = life.begun["starts_at"] + timedelta(seconds=1)
        effective = when if when == "now" else self.later(when, least=least)
        if refund == "none" and effective != "now":
            effective = max(effective, self.play.now)
        self.do(self.play.cancel(life, effective=effective, refund=refund))

    def items(self, drawn, *, oldest=OPENED):
        return [
            (who, kind, max(oldest, self.play.now + timedelta(seconds=when)), value, project)
            for who, kind, when, value, project in drawn
        ]

    @rule(drawn=ITEMS)
    def use(self, drawn):
        self.do(self.play.use(self.items(drawn)))

    @rule(drawn=ITEMS)
    def backfill(self, drawn):
        drawn = [(who, kind, when * 3, *rest) for who, kind, when, *rest in drawn]
        self.do(self.play.open_backfill(self.items(drawn)))

    @precondition(lambda self: {"open", "close"} & set(self.play.backfills.values()))
    @rule(index=INDEX, reverse=st.booleans())
    def settle(self, index, reverse):
        wanted = {"open", "close"} if reverse else {"open"}
        found = [key for key, state in self.play.backfills.items() if state in wanted]
        if found:
            key = found[index % len(found)]
            self.do(self.play.settle_backfill(key, "reverse" if reverse else "close"))

    def event(self, index):
        found = [name for name, event in self.play.events.items() if not event["gone"]]
        return found[index % len(found)] if found else None

    @precondition(lambda self: self.play.events)
    @rule(index=INDEX)
    def void_event(self, index):
        name = self.event(index)
        if name is not None:
            self.do(self.play.void_event(name))

    @precondition(lambda self: self.play.events)
    @rule(index=INDEX, drawn=ITEMS, moved=st.booleans())
    def amend_event(self, index, drawn, moved):
        name = self.event(index)
        if name is None:
            return
        customer, kind, at, value, project = self.items(drawn)[0]
        fields = {"customer": customer, "type": kind, "value": value, "project": project}
        self.do(self.play.amend_event(name, **fields, **({"at": at} if moved else {})))

    @rule(index=INDEX)
    def void_invoice(self, index):
        self.do(self.play.void_invoice(index))

    @rule(seconds=AHEAD)
    def advance(self, seconds):
        self.do(self.play.advance(self.play.now + timedelta(seconds=seconds)))

    @rule()
    def advance_to_what_falls_due(self):
        due_at, customers = self.do(self.play.due_next())
        if due_at is not None and due_at > self.play.now:
            self.do(self.play.advance(due_at))
            self.do(self.play.compare(customers=customers))

    @rule()
    def bill(self):
        self.do(self.play.run())
        self.do(self.play.compare())

    @invariant()
    def end(self):
        """The last step; a teardown would judge lives that were never played to their end."""
        self.steps += 1
        if self.steps <= STEPS:
            return
        self.bill()
        self.do(self.play.forget_marks())
        self.do(self.play.simulate())
        other = self.do(again(self.play, seed=len(self.play.script)))
        assert self.do(self.play.documents()) == self.do(other.documents())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_random_lives(database_url):
    with asyncio.Runner() as runner:
        world = World(database_url)
        runner.run(world.open())
        try:
            run_state_machine_as_test(
                type("Played", (Lives,), {"world": world, "runner": runner}),
                settings=settings(
                    max_examples=EXAMPLES,
                    stateful_step_count=STEPS,
                    deadline=None,
                    derandomize=not LONG,
                    database=None,
                    phases=(Phase.generate,) if LONG else (Phase.generate, Phase.shrink),
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(world.close())
        assert runner.run(violations(database_url)) == []
