"""A sweep of much usage asks up to when each customer is billed, and marks the same."""

import contextlib
import random
from datetime import timedelta

import msgspec
import pytest

from engine.errors import BillingError
from invoicing import sweep_usage as sweeping
from invoicing.sweep_usage import sweep_usage
from metering import earliest
from metering.backfill import close_backfill, open_backfill, reverse_backfill
from metering.fold_usage import FoldLimits, fold_usage
from metering.intake import read_events
from metering.model import BackfillDraft
from tests.billing_world import OPENED, at, shop
from tests.database.test_correct_event import amend, void
from tests.metering_world import event

__all__ = ["shop"]

ALL = FoldLimits(least_batches=1, least_events=1)
MARKED = "SELECT key, dirty_from_at FROM subscriptions WHERE dirty_from_at IS NOT NULL ORDER BY key"
CUSTOMERS = [f"c{number}" for number in range(8)]


class UndoneError(Exception):
    """What was swept is to be there again."""


class Sweeps:
    """Sweeps of a shop that ask each customer, or none."""

    def __init__(self, shop, monkeypatch):
        self.shop, self.patch, self.asked, self.sent = shop, monkeypatch, 0, []
        ask, touch = sweeping.derived_instants, sweeping.touch_subscriptions

        async def counted(**given):
            self.asked += 1
            return await ask(**given)

        async def noted(*, connection, customers, micros):
            self.sent.append(len(customers))
            return await touch(connection=connection, customers=customers, micros=micros)

        monkeypatch.setattr(sweeping, "derived_instants", counted)
        monkeypatch.setattr(sweeping, "touch_subscriptions", noted)

    async def marked(self, *, much, keep=False):
        """(subscription, from when on) after a sweep, which is taken back unless it is kept."""
        self.patch.setattr(sweeping, "MUCH", much)
        with contextlib.suppress(UndoneError):
            async with self.shop.database.transaction(seller=self.shop.seller) as connection:
                await sweep_usage(connection=connection)
                rows = [tuple(row) for row in await connection.exec_driver_sql(MARKED)]
                if not keep:
                    raise UndoneError
        return rows


async def backfill(shop, dice, key):
    """Old usage under a name, which is open, closed, or taken back."""
    async with shop.database.transaction(seller=shop.seller) as connection:
        draft = BackfillDraft(key=key)
        await open_backfill(connection=connection, draft=draft, now=OPENED, wall_now=OPENED)
    day = at("2026-01-01") + timedelta(days=dice.randrange(120))
    who = [dice.choice(CUSTOMERS) for _ in range(3)]
    body = [event(f"{key}-{n}", at=day, subject=each, backfill=key) for n, each in enumerate(who)]
    intake = read_events(msgspec.json.encode(body), lines=False)
    await shop.ingester.submit(seller=shop.seller, intake=intake, now=at("2026-05-01"))
    for verb in dice.choice([(), (close_backfill,), (close_backfill, reverse_backfill)]):
        async with shop.database.transaction(seller=shop.seller) as connection:
            await verb(connection=connection, reference=key, now=at("2026-05-01"))


async def open_accounts(shop, dice):
    """Customers with no, one or more subscriptions, of which some are paid for by another."""
    for customer in CUSTOMERS[:-1]:
        await shop.customer(customer, **dice.choice([{}, {"parent": "acme"}]))
        for number in range(dice.randrange(4)):
            start = at("2026-01-01") + timedelta(days=dice.randrange(150))
            await shop.subscribe(f"{customer}-{number}", customer, starts_at=start.isoformat())


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("seed", range(3))
async def test_the_marks_are_those_of_asking_nobody(shop, monkeypatch, seed, dense):
    """Late usage, corrections, backfills, strangers that become customers, folded or not."""
    if not dense:
        monkeypatch.setattr(earliest, "_DENSE", 0)
        monkeypatch.setattr(earliest, "_ROOM", 0)
    dice, sweeps, used = random.Random(seed), Sweeps(shop, monkeypatch), 0
    marked = asked = 0
    await open_accounts(shop, dice)
    for month in (2, 3, 4):
        await shop.bill(at(f"2026-0{month}-{dice.randrange(1, 28):02}"))
        if month == 4:
            await shop.customer(CUSTOMERS[-1])
            await shop.subscribe("late", CUSTOMERS[-1], now=at("2026-02-10"))
            await shop.bill(at("2026-04-28"))
        for turn in range(3):
            late = dice.choice([-60, -20, 0])
            for _ in range(dice.randrange(10, 40)):
                when = at(f"2026-0{month}-15") + timedelta(hours=24 * late + dice.randrange(900))
                await shop.use(dice.choice([*CUSTOMERS, "stranger"]), when)
                used += 1
            for number in dice.sample(range(1, used), 3):
                with contextlib.suppress(BillingError):
                    await dice.choice([void, amend])(shop, f"e{number}", now=at("2026-05-01"))
            await backfill(shop, dice, f"b{month}-{turn}")
            if dice.random() < 0.4:
                await fold_usage(database=shop.database, seller=shop.seller, limits=ALL)
            sweeps.asked = 0
            expected = await sweeps.marked(much=10**9)
            assert not sweeps.asked
            assert await sweeps.marked(much=0) == expected
            marked, asked = marked + len(expected), asked + sweeps.asked
            assert sweeps.sent[-1] <= sweeps.sent[-2]
            if dice.random() < 0.6:
                await sweeps.marked(much=dice.choice([0, 10**9]), keep=True)
    assert marked > 9 and asked > 6


async def test_nobody_is_sent_whose_usage_is_after_what_is_billed(shop, monkeypatch):
    """Neither at the furthest instant of a customer with several, nor at that of a neighbour."""
    sweeps = Sweeps(shop, monkeypatch)
    for customer, days in {"early": [1, 5], "middle": [10], "last": [20]}.items():
        await shop.customer(customer)
        for day in days:
            start = at(f"2026-01-{day:02}").isoformat()
            await shop.subscribe(f"{customer}-{day}", customer, starts_at=start)
    await shop.bill(at("2026-02-25"))
    for _ in range(5):
        await shop.use("early", at("2026-02-05"))
        await shop.use("middle", at("2026-02-10"))
    assert await sweeps.marked(much=0) == []
    await shop.use("early", at("2026-02-03"))
    assert await sweeps.marked(much=0) == [("early-5", at("2026-02-03"))]
    await shop.use("middle", at("2026-02-10") - timedelta(microseconds=1))
    marked = await sweeps.marked(much=0)
    assert marked[1:] == [("middle-10", at("2026-02-10") - timedelta(microseconds=1))]
    assert (sweeps.asked, sweeps.sent) == (3, [0, 1, 2])


async def test_few_events_ask_for_no_customer(shop, monkeypatch):
    sweeps = Sweeps(shop, monkeypatch)
    for number in range(6):
        await shop.subscribe(f"s{number}", "acme")
    await shop.bill(at("2026-02-01"))
    for _ in range(6):
        await shop.use("acme", at("2026-01-20"))
    assert len(await sweeps.marked(much=0)) == 6
    assert not sweeps.asked
    await shop.use("acme", at("2026-01-21"))
    assert len(await sweeps.marked(much=7)) == 6
    assert not sweeps.asked
    assert len(await sweeps.marked(much=6)) == 6
    assert sweeps.asked == 1
