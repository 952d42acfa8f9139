"""Random lives told twice: to the application through its public API, and to the oracle."""

import random
from datetime import datetime, timedelta

from sqlalchemy import text

from invoicing.rederive import rederive
from plans.seller_store import load_seller
from tests.backtest_world import simulate
from tests.property.life_oracle import NEVER, Life, days_later
from tests.property.life_world import OPENED, PLANS, ZONES, sent, told

_POSTED = text("""
SELECT s.key, l.price_key, v.start_at, l.charge_start_at, sum(l.amount_minor)
FROM line_items l JOIN subscriptions s ON s.seller = l.seller AND s.id = l.subscription
  JOIN price_intervals v ON v.seller = l.seller AND v.id = l.price_interval
  LEFT JOIN invoices i ON i.seller = l.seller AND i.id = l.document
WHERE l.seller = current_seller() AND coalesce(i.status, '') <> 'void'
GROUP BY 1, 2, 3, 4
""")
_FORGET_MARKS = text("""
UPDATE subscriptions SET dirty_from_at = starts_at - interval '1 day'
WHERE seller = current_seller() AND derived_through_at IS NOT NULL
""")


class Play:
    """One seller's story: every act goes to the API and to the oracle, and into the script."""

    def __init__(self, world, terms):
        self.world, self.terms = world, terms
        self.now, self.lives, self.events, self.script = OPENED, {}, {}, []
        self.zones, self.backfills = {}, {}

    async def open(self):
        self.number, self.client = await self.world.seller(self.terms)
        for index, zone in enumerate(ZONES[1:]):
            await sent(
                self.client.post(
                    "/v1/customers", {"key": f"c{index}", "name": "C", "timezone": zone}
                )
            )
            self.zones[f"c{index}"] = zone

    async def send(self, kind, path, body):
        """Send one act and write it down."""
        self.script.append((kind, path, body))
        return await sent(self.client.post(path, body))

    async def subscribe(self, *, customer, plan, starts_at, anchor, trial_days, ends_at, **more):
        key, zone = f"s{len(self.lives)}", self.zones[customer]
        body = {"key": key, "customer": customer, "plan": plan, "starts_at": told(starts_at)}
        trial_end = days_later(starts_at, trial_days, zone) if trial_days else None
        way = ("anniversary", trial_end or starts_at, None)
        if anchor is not None and anchor[0] == "calendar":
            way = ("calendar", trial_end or starts_at, None)
            body["alignment"] = "calendar"
        elif anchor is not None and anchor[0] == "day":
            way = ("day", starts_at, anchor[1])
            body["anchor"] = {"day": anchor[1]}
        elif anchor is not None:
            way = ("anniversary", anchor[1], None)
            body["anchor"] = {"at": told(anchor[1])}
        if trial_days:
            body["trial_days"] = trial_days
        if ends_at is not None:
            body["ends_at"] = told(ends_at)
        body["quantities"] = {"seats": more["quantity"]}
        phases, state = [], plan
        for phase in more["phases"]:
            state = phase.get("plan", state)
            sent_phase = {"starts_at": told(phase["at"])}
            phases.append(phase)
            body.setdefault("phases", []).append(
                sent_phase | {name: phase[name] for name in ("plan", "quantities") if name in phase}
            )
        overrides = {}
        if more["override"]:
            overrides = {"seats": self.own("seats", plan, more["override"])}
            body["overrides"] = {"seats": {"unit_amount": more["override"]}}
        await self.send("act", "/v1/subscriptions", body)
        self.lives[key] = Life(
            key=key,
            customer=customer,
            zone=zone,
            plans=PLANS,
            terms=self.terms,
            now=self.now,
            starts_at=starts_at,
            ends_at=ends_at,
            trial_end=trial_end,
            way=way,
            plan=plan,
            quantities={"seats": more["quantity"]},
            overrides=overrides,
            phases=phases,
        )
        self.lives[key].born = self.now

    def own(self, key, plan, unit_amount):
        listed = next(price for price in PLANS[plan]["prices"] if price["key"] == key)
        return listed | {"unit_amount": unit_amount}

    async def change(self, life, *, effective, prorate=None, invoice_now=False, **asked):
        """Another plan, quantity or own price of the seats."""
        at = self.now if effective == "now" else effective
        at = max(at, life.begun["starts_at"])
        state = [each for each in life.states() if each[0] <= at][-1][2]
        plan = asked.get("plan", state["plan"])
        body = {"effective": "now" if effective == "now" else told(at)}
        if prorate is not None:
            body["prorate"] = prorate
        if invoice_now:
            body["invoice_now"] = True
        fields = {}
        if "plan" in asked:
            body["plan"] = fields["plan"] = plan
        if "quantity" in asked:
            body["quantities"] = fields["quantities"] = {"seats": asked["quantity"]}
        if "override" in asked:
            kept = state["overrides"] if plan == state["plan"] else {}
            base = kept.get("seats") or self.own("seats", plan, "0")
            fields["overrides"] = {"seats": base | {"unit_amount": asked["override"]}}
            body["overrides"] = {"seats": {"unit_amount": asked["override"]}}
        chosen = self.terms["proration"] != "none" if prorate is None else prorate
        await self.send("act", f"/v1/subscriptions/{life.key}/change", body)
        life.act(now=self.now, at=at, prorate=chosen, **fields)

    async def turn(self, life, *, paused):
        await self.send(
            "act", f"/v1/subscriptions/{life.key}/{'pause' if paused else 'resume'}", {}
        )
        chosen = self.terms["proration"] != "none"
        life.act(now=self.now, at=self.now, prorate=chosen, paused=paused)

    async def undo(self, life, index):
        """Take back one of the changes that are not in effect yet."""
        coming = [act for act in life.acts if act["at"] > self.now]
        path = f"/v1/subscriptions/{life.key}/scheduled_changes"
        listed = (await sent(self.client.get(path)))["data"]
        over = life.ends_at or NEVER
        assert len(listed) == len([act for act in coming if act["at"] < over])
        coming = sorted((act for act in coming if act["at"] < over), key=lambda act: act["number"])
        if not coming:
            return
        place = index % len(coming)
        self.script.append(("undo", path, place))
        await sent(
            self.client.send("DELETE", f"{path}/{listed[place]['id']}", content=b"", headers={})
        )
        life.undo(coming[place]["number"], self.now)

    async def cancel(self, life, *, effective, refund):
        body = {"effective": "now" if effective == "now" else told(effective), "refund": refund}
        path = f"/v1/subscriptions/{life.key}/cancel"
        if life.cancels and life.ends_at <= (self.now if effective == "now" else effective):
            await sent(self.client.post(path, body), "already_cancelled")
            return
        await self.send("act", path, body)
        at = self.now if effective == "now" else effective
        life.end(min(at, life.ends_at or NEVER), self.now, refund == "credit")

    async def use(self, items, *, backfill=None):
        """Usage in one request: (customer, type, time, value, project) each."""
        body = []
        for customer, kind, at, value, project in items:
            name = f"e{len(self.events)}"
            body.append(
                {"id": name, "type": kind, "subject": customer, "time": told(at)}
                | {"data": {"n": value, "project": project}}
                | ({} if backfill is None else {"backfill": backfill})
            )
            self.events[name] = {
                "customer": customer,
                "type": kind,
                "at": at,
                "value": value,
                "project": project,
                "received": self.now,
                "counts": backfill is None,
                "gone": False,
                "backfill": backfill,
            }
        answer = await self.send("usage", "/v1/events", body)
        assert answer["accepted"] == len(body), answer

    async def void_event(self, name):
        await self.send("correct", f"/v1/events/{name}/void", {})
        self.events[name] |= {"counts": False, "gone": True}

    async def amend_event(self, name, **fields):
        event = self.events[name]
        event |= fields
        body = {"data": {"n": event["value"], "project": event["project"]}}
        body |= {"subject": event["customer"], "type": event["type"]}
        if "at" in fields:
            body["time"] = told(event["at"])
        await self.send("correct", f"/v1/events/{name}/amend", body)

    async def open_backfill(self, items):
        key = f"b{len(self.backfills)}"
        await self.send("correct", "/v1/backfills", {"key": key})
        self.backfills[key] = "open"
        await self.use(items, backfill=key)

    async def settle_backfill(self, key, verb):
        await self.send("correct", f"/v1/backfills/{key}/{verb}", {})
        self.backfills[key] = verb
        for event in self.events.values():
            if event["backfill"] == key:
                event["counts"] = verb == "close" and not event["gone"]
                event["gone"] = event["gone"] or verb == "reverse"

    async def void_invoice(self, index):
        invoices = [one for one in await self.listed("invoices") if one["status"] == "open"]
        if invoices:
            number = invoices[index % len(invoices)]["number"]
            await self.send("correct", f"/v1/invoices/{number}/void", {})

    async def advance(self, to):
        answer = await self.send("advance", "/v1/test_clock/advance", {"to": told(to)})
        assert answer["parked"] == 0, answer
        self.now = to

    async def run(self):
        """Bill what waits; running again posts nothing."""
        answer = await self.send("run", "/v1/billing_runs", {"as_of": told(self.now)})
        assert answer["parked"] == [], answer
        again = await sent(self.client.post("/v1/billing_runs", {"as_of": told(self.now)}))
        assert again["documents"] == 0, again

    async def listed(self, noun):
        found, cursor = [], ""
        while True:
            page = await sent(self.client.get(f"/v1/{noun}?limit=100{cursor}"))
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    async def due_next(self):
        """The earliest instant at which something falls due, and for which customers."""
        rows = [row for row in await self.listed("subscriptions") if row["next_due_at"]]
        first = min((row["next_due_at"] for row in rows), default=None)
        who = {row["customer"] for row in rows if row["next_due_at"] == first}
        return first and datetime.fromisoformat(first), who

    async def compare(self, *, customers=None):
        """What is posted is what is owed: of all, or of customers that were just billed."""
        async with self.world.database.transaction(seller=self.number) as connection:
            rows = (await connection.execute(_POSTED)).all()
        chosen = {
            key: life
            for key, life in self.lives.items()
            if customers is None or life.customer in customers
        }
        posted = {tuple(row[:4]): int(row[4]) for row in rows if row[4] and row[0] in chosen}
        owed = {}
        for life in chosen.values():
            owed |= life.owed(self.now, self.events)
        vague = {key for key, life in chosen.items() if life.vague}
        wrong = {
            (*name[:2], str(name[2]), str(name[3])): (posted.get(name, 0), owed.get(name, 0))
            for name in posted.keys() | owed.keys()
            if posted.get(name, 0) != owed.get(name, 0)
            and not (name[1] == "setup" and name[0] in vague)
        }
        story = "\n".join(map(str, self.script)) if wrong else ""
        assert wrong == {}, f"(posted, owed) at {self.now}: {wrong}\n{self.terms}\n{story}"

    async def forget_marks(self):
        """Everything derived from scratch, once as the audit does and once by a run: no change."""
        database = self.world.database
        async with database.transaction(seller=self.number, snapshot=True) as connection:
            seller = await load_seller(connection=connection)
            again = await rederive(connection=connection, seller=seller)
        assert (again.mismatches, again.pending) == ((), 0)
        async with database.transaction(seller=self.number) as connection:
            await connection.execute(_FORGET_MARKS)
        answer = await sent(self.client.post("/v1/billing_runs", {"as_of": told(self.now)}))
        assert answer["documents"] == 0, answer

    async def simulate(self):
        """A backtest with the very prices there are finds every life again, and what is billed."""
        lists = [{"plan": key, "prices": body["prices"]} for key, body in PLANS.items()]
        start = told(OPENED - timedelta(days=2_000))
        answer, effects = await simulate(
            self.world.database, self.number, lists, start=start, end=told(self.now), now=self.now
        )
        story = "\n".join(map(str, self.script))
        assert answer.not_simulated == (), f"{answer.not_simulated}\n{story}"
        for effect in effects.values():
            assert effect.simulated == effect.present, f"{effect}\n{story}"
            assert effect.billed_minor == sum(effect.present), f"{effect}\n{story}"

    async def documents(self):
        """All documents as they are told, but for ids."""
        found, places = [], {}
        for noun in ("invoices", "credit_notes"):
            for document in await self.listed(noun):
                for place, line in enumerate(document["lines"]):
                    places[line["id"]] = (document["number"], place)
                found.append(document)
        return sorted(
            (
                {name: value for name, value in each.items() if name not in {"id", "lines"}}
                | {
                    "lines": [
                        line | {"id": None, "adjusts": places.get(line["adjusts"])}
                        for line in each["lines"]
                    ]
                }
                for each in found
            ),
            key=lambda each: each["number"],
        )


async def again(play, seed):
    """The same story of another seller: usage in another order, the clock in other steps."""
    dice = random.Random(seed)
    other = Play(play.world, play.terms)
    await other.open()
    waiting, now = [], OPENED

    async def deliver():
        dice.shuffle(waiting)
        while waiting:
            count = dice.randrange(1, 4)
            part, waiting[:] = waiting[:count], waiting[count:]
            await sent(other.client.post("/v1/events", part))

    for kind, path, body in play.script:
        if kind == "usage" and "backfill" not in body[0]:
            waiting.extend(body)
            continue
        if kind != "act":
            await deliver()
        if kind == "undo":
            listed = (await sent(other.client.get(path)))["data"]
            target = f"{path}/{listed[body]['id']}"
            await sent(other.client.send("DELETE", target, content=b"", headers={}))
            continue
        if kind == "advance":
            to = datetime.fromisoformat(body["to"])
            for _ in range(dice.randrange(4)):
                now += timedelta(
                    microseconds=dice.randrange((to - now) // timedelta.resolution + 1)
                )
                await sent(other.client.post(path, {"to": told(now)}))
            now = to
        await sent(other.client.post(path, body))
    return other
