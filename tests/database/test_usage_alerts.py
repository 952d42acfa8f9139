"""A usage alert is told once, whoever looks and whenever they die; nobody else pays for it."""

import asyncio
from datetime import timedelta

import msgspec
import pytest

from api.worker import tick, watch
from engine.errors import BillingError
from invoicing.sweep_usage import sweep_usage, sweep_waiting
from invoicing.watch_usage import watch_usage
from metering import alert_store
from metering.alerts import UsageAlertDraft, UsageAlertPatch
from metering.compare_alerts import compare_alerts
from metering.intake import read_events
from metering.set_alert import add_alert, change_alert, remove_alert
from tests.billing_world import TIERS, at, plan, shop, violations

__all__ = ["shop"]
NOW = at("2026-01-10T12:00")
TOLD = """SELECT t.alert_key, c.key, t.threshold, t.quantity FROM outbox o
  JOIN usage_alert_triggers t ON t.id = o.object JOIN customers c ON c.id = t.customer
  ORDER BY o.position"""


async def alert(shop, key, *thresholds, now=NOW, **fields):
    body = {"key": key, "meter": "tokens", "thresholds": list(thresholds), "window": "month"}
    async with shop.database.transaction(seller=shop.seller) as connection:
        await add_alert(
            connection=connection,
            draft=msgspec.convert(body | fields, UsageAlertDraft),
            now=now,
            wall_now=now,
        )


async def sweeps(shop):
    return await shop.rows("SELECT sweeps FROM billing_state")


async def test_the_worker_tells_each_threshold_once(shop, database_url):
    await alert(shop, "much", "100", "200")
    assert await watch(database=shop.database, now=NOW) == 0
    await shop.use("acme", NOW, 99)
    assert await watch(database=shop.database, now=NOW) == 0
    await shop.use("acme", NOW, 1)
    assert await watch(database=shop.database, now=NOW) == 1
    assert await watch(database=shop.database, now=NOW) == 0
    await shop.use("acme", NOW, 500)
    assert await watch(database=shop.database, now=NOW + timedelta(seconds=1)) == 1
    assert await shop.rows(TOLD) == [("much", "acme", "100", "100"), ("much", "acme", "200", "600")]
    assert await violations(database_url) == []


async def test_many_who_compare_at_once_tell_nothing_twice(shop):
    await shop.customer("bolt")
    await alert(shop, "much", "100", "200", "300")
    for customer in ("acme", "bolt"):
        await shop.use(customer, NOW, 300)
    looks = (watch_usage(database=shop.database, seller=shop.seller, now=NOW) for _ in range(6))
    assert sum(await asyncio.gather(*looks)) == 6
    assert len(await shop.rows(TOLD)) == 6


async def test_usage_that_comes_while_it_is_compared_is_compared_again(shop, monkeypatch):
    await alert(shop, "much", "100")
    await shop.use("acme", NOW, 60)
    await sweep_waiting(database=shop.database, seller=shop.seller)
    unmark = alert_store.unmark

    async def swept_meanwhile(**given):
        await shop.use("acme", NOW, 60)
        await sweep_waiting(database=shop.database, seller=shop.seller)
        await unmark(**given)

    with monkeypatch.context() as patch:
        patch.setattr(alert_store, "unmark", swept_meanwhile)
        assert await compare_alerts(database=shop.database, seller=shop.seller, now=NOW) == 0
    assert await compare_alerts(database=shop.database, seller=shop.seller, now=NOW) == 1


async def test_a_comparison_that_dies_is_made_again(shop, monkeypatch):
    await alert(shop, "much", "100")
    await shop.use("acme", NOW, 100)

    async def die(**given):
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(alert_store, "tell_triggers", die)
        assert await watch(database=shop.database, now=NOW) == 0
    assert await shop.rows(TOLD) == []
    assert await watch(database=shop.database, now=NOW) == 1


async def test_an_alert_of_one_customer_is_no_work_for_the_others(shop):
    await shop.customer("bolt")
    await alert(shop, "much", "100", customer="acme")
    assert await watch(database=shop.database, now=NOW) == 0
    await shop.use("bolt", NOW, 100)
    await sweep_waiting(database=shop.database, seller=shop.seller)
    assert await shop.rows("SELECT customer FROM usage_alert_marks") == []
    await shop.use("acme", NOW, 100)
    assert await watch(database=shop.database, now=NOW) == 1


async def test_without_alerts_nobody_is_marked_and_nobody_looks(shop):
    await shop.use("acme", NOW, 100)
    assert await watch(database=shop.database, now=NOW) == 0
    assert await sweeps(shop) == []
    await sweep_waiting(database=shop.database, seller=shop.seller)
    assert await shop.rows("SELECT customer FROM usage_alert_marks") == []


async def test_a_billing_run_marks_for_the_alerts_and_is_not_swept_between(shop):
    await alert(shop, "much", "100")
    await watch(database=shop.database, now=NOW)
    await shop.use("acme", NOW, 100)
    async with shop.database.transaction(seller=shop.seller) as connection:
        await sweep_usage(connection=connection)
    before = await sweeps(shop)
    assert await watch(database=shop.database, now=NOW) == 1
    assert await sweeps(shop) == before


async def test_a_tick_does_not_sweep_where_nothing_waits(shop):
    await shop.publish_plan(plan(TIERS, key="watched"))
    await shop.subscribe("s1", "acme", plan="watched", spend_thresholds=["1.00"])
    await tick(database=shop.database, now=NOW)
    await shop.use("acme", NOW, 1)
    await tick(database=shop.database, now=NOW)
    before = await sweeps(shop)
    runs = await shop.one("SELECT count(*) FROM billing_runs")
    for seconds in range(5, 30, 5):
        await tick(database=shop.database, now=NOW + timedelta(seconds=seconds))
    assert await sweeps(shop) == before
    assert await shop.one("SELECT count(*) FROM billing_runs") == runs
    await shop.use("acme", NOW, 10)
    assert await tick(database=shop.database, now=NOW + timedelta(minutes=1)) == 1
    told = await shop.rows("SELECT type, version FROM outbox WHERE type LIKE 'spend%'")
    assert told == [("spend_threshold.reached", 1)]


async def test_other_steps_are_told_and_those_told_are_not_told_again(shop):
    await alert(shop, "much", "100")
    await shop.use("acme", NOW, 150)
    assert await watch(database=shop.database, now=NOW) == 1
    async with shop.database.transaction(seller=shop.seller) as connection:
        patch = UsageAlertPatch(thresholds=("150", "100.00"))
        changed = await change_alert(
            connection=connection, reference="much", patch=patch, now=NOW + timedelta(hours=1)
        )
    assert changed.thresholds == ("100", "150")
    assert await watch(database=shop.database, now=NOW + timedelta(hours=1)) == 1
    async with shop.database.transaction(seller=shop.seller) as connection:
        await remove_alert(connection=connection, reference=changed.id)
        with pytest.raises(BillingError, match="usage alert"):
            await remove_alert(connection=connection, reference="much")
    await shop.use("acme", NOW, 1000)
    assert await watch(database=shop.database, now=NOW + timedelta(hours=2)) == 0
    assert [row[2] for row in await shop.rows(TOLD)] == ["100", "150"]


async def test_windows_that_ended_before_the_alert_was_made_are_not_told(shop):
    await alert(shop, "day", "100", window="day")
    await shop.use("acme", NOW, 1)
    assert await watch(database=shop.database, now=NOW) == 0
    body = [
        {
            "id": f"late-{day}",
            "type": "call",
            "subject": "acme",
            "time": f"2026-01-{day:02}T10:00:00Z",
            "data": {"tokens": 100},
        }
        for day in (8, 9, 10)
    ]
    intake = read_events(msgspec.json.encode(body), lines=False)
    await shop.ingester.submit(seller=shop.seller, intake=intake, now=NOW + timedelta(days=2))
    assert await watch(database=shop.database, now=NOW + timedelta(days=2)) == 1
    assert await shop.rows(TOLD) == [("day", "acme", "100", "101")]
