"""Random lives of subscriptions, billed step by step, against loops over ratios.

After every step what is posted per charge is what the oracle says is owed; the books are sound.
"""

import asyncio
import random
from datetime import timedelta
from fractions import Fraction

import pytest

from engine.db import PATIENT, open_database
from invoicing.rederive import rederive
from plans.seller_store import load_seller
from tests.billing_world import OPENED, SEATS, TIERS, at, open_shop, plan, violations, written
from tests.faults.billing_kills import copy_database, open_books
from tests.property import oracle

pytestmark = pytest.mark.slow
END = at("2026-06-01")
WEEKLY = {"unit": "week", "count": 1}
PLANS = {
    "team": plan(SEATS, TIERS),
    "weekly": plan(
        SEATS | {"interval": {"unit": "week"}, "unit_amount": "3.33"},
        TIERS
        | {
            "tiers": [
                {"up_to": "7", "unit_amount": "0.111"},
                {"up_to": None, "unit_amount": "0.05"},
            ]
        },
        key="weekly",
    ),
    "yearly": plan(
        SEATS | {"unit_amount": "777.77"},
        TIERS | {"interval": {"unit": "month"}},
        key="yearly",
        interval={"unit": "year"},
    ),
    "arrears": plan(SEATS | {"bill": "in_arrears", "unit_amount": "19.99"}, key="arrears"),
}
ZONES = ("UTC", "America/New_York", "Australia/Lord_Howe")


class Life:
    """One subscription as the oracle sees it: steps, each with what holds from it on."""

    def __init__(self, *, key, plan_key, customer, zone, starts_at, anchor, quantity):
        self.key, self.customer, self.zone = key, customer, zone
        self.starts_at, self.anchor = starts_at, anchor
        self.steps = [
            {
                "at": starts_at,
                "plan": plan_key,
                "quantity": quantity,
                "paused": False,
                "asked": None,
            }
        ]
        self.ends_at = self.cancelled_at = None
        self.keeps_money = False

    def step(self, at, asked, **fields):
        """Everything agreed before `at` goes on, but for the fields; later steps keep theirs."""
        later = [one for one in self.steps if one["at"] > at]
        assert not later, "the play never changes the past of a change"
        self.steps.append(self.steps[-1] | fields | {"at": at, "asked": asked})

    def runs(self, key):
        """(price, unit, quantity, anchor, start, end, when the end was asked for) of one price."""
        found, anchor, unit = [], self.anchor, None
        for number, step in enumerate(self.steps):
            plan_unit = PLANS[step["plan"]]["interval"]["unit"]
            if unit not in {None, plan_unit}:
                anchor = step["at"]
            unit = plan_unit
            following = self.steps[number + 1] if number + 1 < len(self.steps) else None
            end = following and following["at"]
            price = next((p for p in PLANS[step["plan"]]["prices"] if p["key"] == key), None)
            if price is None or step["paused"] or end == step["at"]:
                continue
            every = price.get("interval", PLANS[step["plan"]]["interval"])["unit"]
            quantity = None if price["kind"] == "usage" else step["quantity"]
            bare = {name: value for name, value in price.items() if name != "interval"}
            asked = following and following["asked"]
            if found and found[-1][5] == step["at"] and found[-1][:3] == [bare, every, quantity]:
                found[-1][5:] = [end, asked]
            else:
                found.append([bare, every, quantity, anchor, step["at"], end, asked])
        return found

    def owed(self, as_of, events):
        """Minor units by (subscription, price, start of the billing period)."""
        found = {}
        for key in ("seats", "tokens"):
            for run in self.runs(key):
                for start, end in self.periods(run, as_of):
                    amount = self.charge(run, start, end, as_of, events)
                    found[self.key, key, start] = found.get((self.key, key, start), 0) + amount
        return {key: amount for key, amount in found.items() if amount}

    def periods(self, run, as_of):
        """Whole billing periods from the start of the run on."""
        _, unit, _, anchor, begins, *_ = run
        index = -60
        start = oracle.boundary(unit, 1, anchor, self.zone, index)
        while start <= as_of:
            index += 1
            end = oracle.boundary(unit, 1, anchor, self.zone, index)
            if end > begins:
                yield start, end
            start = end

    def charge(self, run, start, end, as_of, events):
        price, _, quantity, _, opens, closes, asked = run
        begins = max(start, opens)
        advance = price["kind"] == "recurring" and price.get("bill") != "in_arrears"
        ends = end if self.ends_at is None else min(end, self.ends_at)
        if closes is not None and closes < ends:
            ends = closes
            if advance and begins <= asked and closes > as_of:
                ends = end  # whole until the change comes
        elif advance and self.ends_at is not None and begins <= self.cancelled_at:
            whole = end if closes is None else min(end, closes)
            if self.keeps_money or self.ends_at > as_of:
                ends = whole  # until the end comes, or for good
        if ends <= begins or (begins if advance else ends) > as_of:
            return 0
        share = oracle.elapsed_share((start, end), (begins, ends))
        if price["kind"] == "usage":
            share = Fraction(1)
            quantity = sum(
                (
                    Fraction(value)
                    for who, when, value in events
                    if who == self.customer and begins <= when < ends
                ),
                Fraction(0),
            )
        amount = oracle.amount_minor(price, Fraction(quantity), share, "EUR")
        return oracle.rounded(amount, "half_up")


class Play:
    """Random acts on a shop, each one told to the oracle too."""

    def __init__(self, shop, seed):
        self.shop, self.dice, self.now = shop, random.Random(seed), OPENED
        self.lives, self.events = [], []

    async def open(self, customers=3):
        await self.shop.publish(*PLANS.values())
        self.zones = {}
        for number in range(customers):
            key = f"c{number}"
            self.zones[key] = self.dice.choice(ZONES)
            await self.shop.customer(key, timezone=self.zones[key])

    def moment(self, first, last):
        """Some instant in between, to the second."""
        return first + timedelta(seconds=self.dice.randrange(int((last - first).total_seconds())))

    async def subscribe(self, first, last):
        customer = self.dice.choice(list(self.zones))
        starts_at = self.moment(first, last)
        fields, anchor = {}, starts_at
        if self.dice.random() < 0.4:
            anchor = self.moment(starts_at, starts_at + timedelta(days=40))
            fields["anchor"] = {"at": anchor.isoformat()}
        plan_key = self.dice.choice(list(PLANS))
        quantity = self.dice.choice(("1", "2.5", "7"))
        key = f"s{len(self.lives)}"
        await self.shop.subscribe(
            key,
            customer,
            now=self.now,
            plan=plan_key,
            starts_at=starts_at.isoformat(),
            quantities={"seats": quantity},
            **fields,
        )
        self.lives.append(
            Life(
                key=key,
                plan_key=plan_key,
                customer=customer,
                zone=self.zones[customer],
                starts_at=starts_at,
                anchor=anchor,
                quantity=quantity,
            )
        )

    async def use(self, first, last):
        for _ in range(self.dice.randrange(1, 5)):
            customer, when = self.dice.choice(list(self.zones)), self.moment(first, last)
            value = self.dice.choice(("1", "3.5", "60", "120", "-2"))
            await self.shop.use(customer, when, value)
            self.events.append((customer, when, value))

    async def cancel(self):
        running = [
            one
            for one in self.lives
            if one.ends_at is None and one.starts_at < self.now and one.steps[-1]["at"] <= self.now
        ]
        if not running:
            return
        life = self.dice.choice(running)
        refund = self.dice.choice(("credit", "credit", "none"))
        # Money that is kept is money that was billed, so that such an end never lies in the past.
        earliest = self.now if refund == "none" else self.now - timedelta(days=20)
        first = max(life.starts_at + timedelta(seconds=1), earliest)
        ends_at = self.moment(first, max(first, self.now) + timedelta(days=20))
        await self.shop.cancel(life.key, now=self.now, effective=ends_at.isoformat(), refund=refund)
        life.ends_at, life.cancelled_at = ends_at, self.now
        life.keeps_money = refund == "none"

    async def change(self):
        """Another plan or quantity: in the past, now or to come; never before an earlier one."""
        running = [
            one for one in self.lives if one.ends_at is None and one.steps[-1]["at"] < self.now
        ]
        if not running:
            return
        life = self.dice.choice(running)
        if self.dice.random() < 0.3:
            paused = not life.steps[-1]["paused"]
            await self.shop.turn(life.key, now=self.now, paused=paused)
            life.step(self.now, self.now, paused=paused)
            return
        earliest = max(life.steps[-1]["at"] + timedelta(seconds=1), self.now - timedelta(days=40))
        latest = self.now + timedelta(days=self.dice.choice((1, 20)))
        at_ = self.dice.choice((self.now, self.moment(earliest, latest)))
        fields = {}
        if self.dice.random() < 0.6:
            fields["plan"] = self.dice.choice(list(PLANS))
        quantity = self.dice.choice(("1", "2.5", "7"))
        sent = fields | {"quantities": {"seats": quantity}, "effective": at_.isoformat()}
        if self.dice.random() < 0.3:
            sent["invoice_now"] = True
        await self.shop.change(life.key, now=self.now, **sent)
        life.step(at_, self.now, quantity=quantity, **fields)

    async def compare(self):
        rows = await self.shop.rows(
            "SELECT s.key, l.price_key, l.charge_start_at, sum(l.amount_minor) FROM line_items l"
            " JOIN subscriptions s ON s.id = l.subscription GROUP BY 1, 2, 3"
        )
        posted = {(key, price, start): int(amount) for key, price, start, amount in rows if amount}
        owed = {}
        for life in self.lives:
            owed |= life.owed(self.now, self.events)
        assert posted == owed
        async with self.shop.database.transaction(
            seller=self.shop.seller, snapshot=True
        ) as connection:
            seller = await load_seller(connection=connection)
            again = await rederive(connection=connection, seller=seller)
        assert again.mismatches == ()


@pytest.mark.parametrize("seed", range(6))
async def test_what_is_posted_is_what_is_owed_after_every_step(
    database, database_url, make_seller, seed
):
    async with open_shop(database, await make_seller()) as shop:
        play = Play(shop, seed)
        await play.open()
        await play.subscribe(OPENED, at("2026-02-01"))
        while play.now < END:
            earlier, play.now = play.now, play.now + timedelta(days=play.dice.randrange(3, 25))
            for _ in range(play.dice.randrange(4)):
                match play.dice.randrange(7):
                    case 0:
                        await play.subscribe(
                            max(OPENED, play.now - timedelta(days=45)),
                            play.now + timedelta(days=10),
                        )
                    case 1:
                        await play.use(OPENED, play.now)
                    case 2:
                        await play.use(earlier, play.now)
                    case 3:
                        await play.cancel()
                    case _:
                        await play.change()
            await shop.bill(play.now)
            await play.compare()
        documents = await shop.one("SELECT count(*) FROM outbox")
        await shop.bill(play.now)
        assert await shop.one("SELECT count(*) FROM outbox") == documents > 0
    assert await violations(database_url) == []


async def live_through(dsn, stops):
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            for stop in stops:
                await shop.advance(stop)
        return await written(database, 1)
    finally:
        await database.close()


async def write_lives(dsn, seed):
    """Everything is known beforehand: agreements, usage to come, cancellations to come."""
    await open_books(dsn, mode="test", clock_at=OPENED.isoformat())
    database = open_database(dsn=dsn, role="usance_app", pool_size=4, waiting=PATIENT)
    try:
        async with open_shop(database, 1) as shop:
            play = Play(shop, seed)
            await play.open()
            for _ in range(5):
                await play.subscribe(OPENED, at("2026-03-01"))
            for _ in range(6):
                await play.use(OPENED, at("2026-05-01"))
            for number, day in enumerate((5, 18, 40)):
                await shop.change(
                    "s2",
                    now=OPENED,
                    quantities={"seats": str(3 + number)},
                    effective=(at("2026-03-02") + timedelta(days=day)).isoformat(),
                )
            await shop.cancel("s1", now=OPENED, effective="2026-04-11T11:11:11Z")
        return play.dice
    finally:
        await database.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_long_way_and_many_short_ones_lead_to_the_same_documents(cluster, seed):
    names = [asyncio.run(cluster.make_clone())]
    try:
        dice = asyncio.run(write_lives(cluster.dsn(names[0]), seed))
        names.append(f"{names[0]}_steps")
        asyncio.run(copy_database(cluster.admin_dsn, *names))
        at_once = asyncio.run(live_through(cluster.dsn(names[0]), [at("2026-05-20")]))
        stops, now = [], OPENED
        while (now := now + timedelta(hours=dice.randrange(1, 700))) < at("2026-05-20"):
            stops.append(now)
        step_by_step = asyncio.run(live_through(cluster.dsn(names[1]), [*stops, at("2026-05-20")]))
        assert len(at_once["invoices"]) > 10
        for table, rows in at_once.items():
            assert step_by_step[table] == rows, table
        assert asyncio.run(violations(cluster.dsn(names[0]))) == []
    finally:
        for name in names:
            asyncio.run(cluster.drop(name))
