"""What a subscription owes, from its acts alone: loops over ratios, no code of the product.

A life keeps its acts and, for each stretch of one price, every end it was ever given and when that
was recorded. Nothing else is remembered: what is owed at an instant follows.
"""

import functools
from datetime import datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

from tests.property import oracle

NEVER = datetime.max.replace(tzinfo=ZoneInfo("UTC"))
UNITS = {"day": 1, "week": 7, "month": 1, "quarter": 3, "year": 12}
LENGTHS = {"day": 1, "week": 7, "month": 31, "quarter": 92, "year": 366}


@functools.lru_cache(maxsize=200_000)
def local(wall, timezone):
    """The first instant at which the clock shows the wall time."""
    return oracle.instant(wall, timezone)


@functools.lru_cache(maxsize=200_000)
def boundary(way, unit, count, timezone, index):
    """The boundary of that index; `way` is (kind, instant, day of the month)."""
    kind, at, day = way
    step = UNITS[unit] * count * index
    wall = at.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    if kind == "anniversary":
        if index == 0:
            return at
        if unit in {"day", "week"}:
            return local(wall + timedelta(days=step), timezone)
        return local(oracle.add_months(wall, step, wall.day), timezone)
    midnight = wall.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        first = oracle.add_months(midnight.replace(day=1), 0, day)
    elif unit == "week":
        first = midnight - timedelta(days=midnight.weekday())
    elif unit == "day":
        first = midnight
    else:
        first = midnight.replace(day=1, month={"month": midnight.month}.get(unit, 1))
    if unit in {"day", "week"}:
        return local(first + timedelta(days=step), timezone)
    return local(oracle.add_months(first, step, day or 1), timezone)


@functools.lru_cache(maxsize=200_000)
def period_at(way, unit, count, timezone, at):
    """The whole billing period that holds the instant."""
    index = (at - way[1]) // timedelta(days=LENGTHS[unit] * count) - 7
    while boundary(way, unit, count, timezone, index + 1) <= at:
        index += 1
    return (
        boundary(way, unit, count, timezone, index),
        boundary(way, unit, count, timezone, index + 1),
    )


class Stretch:
    """One price on the same terms from an instant on, and every end it was given."""

    def __init__(self, price, unit, quantity, way, start):
        self.price, self.unit, self.quantity = price, unit, quantity
        self.way, self.start = way, start
        self.ends = []  # (when recorded, the end without any cancellation)

    def name(self):
        return (repr(self.price), self.unit, self.quantity, self.way, self.start)

    def follow(self, now, end):
        """Note the end that the stretch has from the act recorded now on."""
        if not self.ends or self.ends[-1][1] != end:
            self.ends.append((now, end))

    def raised_up_to(self, begins):
        """Up to where an advance charge from `begins` was raised.

        The end known by then; of those recorded later, one that came and one that lies beyond.
        """
        known = before = None
        for recorded, end in self.ends:
            if before is not None and before <= recorded:
                known = before
            if known is None or recorded < begins or end > known:
                known = end
            before = end
        return known


class Life:
    """One subscription: its beginning, its acts and what they make of each price."""

    def __init__(self, *, key, customer, zone, plans, terms, now, **begun):
        self.key, self.customer, self.zone = key, customer, zone
        self.plans, self.terms, self.begun = plans, terms, begun
        self.acts, self.known, self.ends_at = [], {}, begun["ends_at"]
        self.cancels = []  # (when recorded, end, whether credit is given)
        self.number = 0
        self.vague = False  # whether a one-time price was taken back, which stays charged
        for phase in begun["phases"]:
            self.add(**phase, recorded=now, prorate=terms["proration"] != "none")
        self.lay_out(now)

    def add(self, *, at, recorded, **fields):
        self.number += 1
        self.acts.append({"at": at, "number": self.number, "recorded": recorded, **fields})

    def act(self, *, now, **fields):
        self.add(recorded=now, **fields)
        self.lay_out(now)

    def undo(self, number, now):
        self.acts = [act for act in self.acts if act["number"] != number]
        self.lay_out(now)

    def end(self, at, now, credit):
        self.ends_at = at
        self.cancels.append((now, at, credit))

    def states(self):
        """(instant, act, state) of the beginning and every act, in the order of effect."""
        state = {
            "plan": self.begun["plan"],
            "quantities": self.begun["quantities"],
            "overrides": self.begun["overrides"],
            "paused": False,
            "way": self.begun["way"],
        }
        yield self.begun["starts_at"], None, state
        for act in sorted(self.acts, key=lambda act: (act["at"], act["number"])):
            state = dict(state)
            state["paused"] = act.get("paused", state["paused"])
            if act.get("plan") and act["plan"] != state["plan"]:
                old, new = self.plans[state["plan"]], self.plans[act["plan"]]
                kinds = {price["key"]: price["kind"] for price in new["prices"]}
                state["quantities"] = {
                    key: value
                    for key, value in state["quantities"].items()
                    if kinds.get(key, "usage") != "usage"
                }
                state["overrides"] = {}
                if old["interval"]["unit"] != new["interval"]["unit"]:
                    at = max(act["at"], self.begun["trial_end"] or act["at"])
                    state["way"] = ("anniversary", at, None)
                state["plan"] = act["plan"]
            state["quantities"] = state["quantities"] | act.get("quantities", {})
            state["overrides"] = state["overrides"] | act.get("overrides", {})
            yield act["at"], act, state

    def wanted(self, state, key):
        """(price, unit, quantity, way) of a price key, or None."""
        plan = self.plans[state["plan"]]
        for listed in plan["prices"]:
            if listed["key"] == key:
                price = state["overrides"].get(key, listed)
                unit = price.get("interval", plan["interval"])["unit"]
                quantity = None if price["kind"] == "usage" else state["quantities"].get(key, "1")
                bare = {name: value for name, value in price.items() if name != "interval"}
                return bare, unit, quantity, state["way"]
        return None

    def lay_out(self, now):
        """Lay every price out and note what ends where from now on."""
        seen = set()
        for key in sorted({p["key"] for plan in self.plans.values() for p in plan["prices"]}):
            for terms, start, end in self.stretches(key):
                fresh = Stretch(*terms, start)
                stretch = self.known.setdefault(fresh.name(), fresh)
                seen.add(stretch.name())
                stretch.follow(now, min(end, self.begun["ends_at"] or NEVER))
        for name, stretch in self.known.items():
            if name not in seen:
                stretch.follow(now, stretch.start)
                self.vague = self.vague or stretch.price["kind"] == "one_time"

    def stretches(self, key):
        """(terms, start, end) of one price, one after the other; touching equals are one."""
        found, before = [], None
        for at, act, state in self.states():
            terms = self.wanted(state, key)
            if state["paused"] and not (
                terms and terms[0]["kind"] == "one_time" and before and before[0] == terms
            ):
                terms = None  # a pause ends all but what was charged once
            if before is not None and before[0] == terms:
                continue
            if before is not None and before[0] and terms and before[0][:3] == terms[:3]:
                before = (terms,)
                continue  # identical whatever plan it stands in: it goes on as it was
            before = (terms,)
            begins = self.begins(at, act, terms, found)
            while found and found[-1][1] >= begins:
                found.pop()
            if found and found[-1][2] >= begins:
                if terms and found[-1][0][:3] == terms[:3]:
                    found[-1][2] = NEVER
                    continue
                found[-1][2] = begins
            if terms:
                found.append([terms, begins, NEVER])
        return found

    def begins(self, at, act, terms, found):
        """When a price goes over to other terms: recurring ones wait for a trial or a boundary."""
        running = [one for one in found if one[1] <= at <= one[2]]
        old = running[-1][0] if running else terms
        if old is None or old[0]["kind"] != "recurring":
            return at
        if self.begun["trial_end"] and at < self.begun["trial_end"]:
            return self.begun["trial_end"]
        if act is None or act["prorate"]:
            return at
        start, end = period_at(old[3], old[1], 1, self.zone, at)
        return at if start == at else end

    def owed(self, now, events):
        """Minor units by (subscription, price, start of the stretch, start of the period)."""
        found = {}
        for stretch in self.known.values():
            for period in self.periods(stretch, now):
                amount = self.charge(stretch, period, now, events)
                name = (self.key, stretch.price["key"], stretch.start, period[0])
                found[name] = found.get(name, 0) + amount
        return {name: amount for name, amount in found.items() if amount}

    def periods(self, stretch, now):
        if stretch.price["kind"] == "one_time":
            yield stretch.start, stretch.start
            return
        at = stretch.start
        while at <= now:
            period = period_at(stretch.way, stretch.unit, 1, self.zone, at)
            yield period
            at = period[1]

    def charge(self, stretch, period, now, events):
        price, begins = stretch.price, max(period[0], stretch.start)
        asked, end = stretch.ends[-1]
        if price["kind"] == "one_time":
            due = end > stretch.start and stretch.start <= min(now, self.ends_at or NEVER)
            return self.minor(stretch, Fraction(1), Fraction(stretch.quantity)) if due else 0
        advance = price["kind"] == "recurring" and price.get("bill") != "in_arrears"
        raised = stretch.raised_up_to(begins)
        cancels, keeps = False, False
        for recorded, at, credit in self.cancels:
            if at < end:
                asked, end, cancels, keeps = recorded, at, True, not credit
            if at < raised and recorded < begins:
                raised = at
        if advance and (end > now or keeps):
            end = max(end, raised)
        cancels = cancels and end == self.ends_at
        ends = min(period[1], end)
        if ends == begins and advance and asked >= begins and cancels and self.counts_last_day():
            ends = begins + timedelta(microseconds=1)
        if ends <= begins or (begins if advance else ends) > now:
            return 0
        if price["kind"] == "usage":
            return self.usage(stretch, period, (begins, ends), asked, events)
        share = self.share(period, (begins, ends), cancelled=cancels and end <= period[1])
        return self.minor(stretch, share, Fraction(stretch.quantity))

    def counts_last_day(self):
        return self.terms["proration"] == "day" and self.terms["last_day"] == "include"

    def share(self, period, active, *, cancelled):
        """The part of a period, by the seller's choice."""
        if active == period:
            return Fraction(1)
        way = self.terms["proration"]
        if way == "none":
            return Fraction(1)
        if way == "second":
            return oracle.elapsed_share(period, active)
        count = oracle.dates_between
        if way == "thirty_360":
            count = oracle.thirty_day_months_between
        whole, part = count(*period, self.zone), count(*active, self.zone)
        if whole <= 0:
            return oracle.elapsed_share(period, active)
        if way == "day" and cancelled and (self.counts_last_day() or part == 0):
            part += 1
        return Fraction(min(part, whole) if way == "day" else part, whole)

    def usage(self, stretch, period, active, asked, events):
        """What was used within the active part: what came in time only, where that is the rule."""
        closes = active[1]
        if closes < period[1]:
            closes = max(closes, min(period[1], asked))
        values = {}
        for event in events.values():
            if event["type"] != stretch.price["meter"] or not event["counts"]:
                continue
            if event["customer"] != self.customer or not active[0] <= event["at"] < active[1]:
                continue
            if event["type"] == "calls" and event["received"] >= closes:
                continue
            group = event["project"] if stretch.price.get("group_by") else ""
            value = Fraction(event["value"]) if event["type"] == "tokens" else Fraction(1)
            values[group] = values.get(group, Fraction(0)) + value
        if not stretch.price.get("group_by"):
            values.setdefault("", Fraction(0))
        return sum(self.minor(stretch, Fraction(1), value) for value in values.values())

    def minor(self, stretch, share, quantity):
        amount = oracle.amount_minor(stretch.price, quantity, share, "EUR")
        return oracle.rounded(amount, "half_up")


def days_later(at, days, timezone):
    """The same wall time so many days later."""
    wall = at.astimezone(ZoneInfo(timezone)).replace(tzinfo=None)
    return local(wall + timedelta(days=days), timezone)
