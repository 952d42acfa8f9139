"""Changes that are undone, stacked and settled, seen through the verbs that bill."""

import pytest

from engine.errors import BillingError
from invoicing.rederive import rederive
from plans.change import undo_change
from plans.life_store import scheduled_changes
from plans.seller_store import load_seller
from plans.subscription_store import lock_agreement
from tests.billing_world import at, shop

__all__ = ["shop"]


async def listed(shop, now):
    async with shop.database.transaction(seller=shop.seller) as connection:
        found = await lock_agreement(connection=connection, reference="s1")
        assert found is not None
        return await scheduled_changes(
            connection=connection, subscription=found.id, now=now, limit=10
        )


async def undo(shop, change_id, now):
    async with shop.database.transaction(seller=shop.seller) as connection:
        await undo_change(
            connection=connection, reference="s1", change_id=change_id, now=now, wall_now=now
        )


async def wrong(shop):
    async with shop.database.transaction(seller=shop.seller, snapshot=True) as connection:
        seller = await load_seller(connection=connection)
        return (await rederive(connection=connection, seller=seller)).mismatches


async def test_an_undone_change_moves_nothing(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    now = at("2026-01-05")
    await shop.change("s1", now=now, quantities={"seats": "5"}, effective="2026-01-20T00:00:00Z")
    (booked,) = await listed(shop, now)
    assert (booked.kind, booked.quantities) == ("change", {"seats": "5"})
    await undo(shop, booked.id, now)
    assert await listed(shop, now) == []
    await shop.bill(at("2026-02-01"))
    assert await shop.lines() == [("seats", 3100, "initial"), ("seats", 3100, "initial")]
    assert await wrong(shop) == ()


async def test_a_change_known_when_its_period_was_charged_is_undone_to_the_whole(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    now = at("2026-01-05")
    await shop.change("s1", now=now, quantities={"seats": "5"}, effective="2026-02-15T00:00:00Z")
    await shop.bill(at("2026-02-01"))
    assert (await shop.lines())[-1] == ("seats", 1550, "initial")
    (booked,) = await listed(shop, at("2026-02-02"))
    await undo(shop, booked.id, at("2026-02-02"))
    assert await wrong(shop) == ()
    await shop.bill(at("2026-03-01"))
    assert sorted(await shop.lines())[-4:] == sorted(
        [
            ("seats", 3100, "initial"),
            ("seats", 1550, "initial"),
            ("seats", 1550, "proration"),
            ("seats", 3100, "initial"),
        ]
    )
    assert await wrong(shop) == ()


async def test_what_is_in_effect_cannot_be_undone(shop):
    await shop.subscribe("s1", "acme")
    await shop.change("s1", now=at("2026-01-05"), quantities={"seats": "5"})
    (((change_id),),) = await shop.rows("SELECT id FROM subscription_changes")
    with pytest.raises(BillingError) as refused:
        await undo(shop, change_id, at("2026-01-05"))
    assert refused.value.code == "change_in_effect"


async def test_an_explicit_run_settles_a_change_once(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await shop.change(
        "s1", now=at("2026-01-05"), quantities={"seats": "2"}, effective="2026-01-16T00:00:00Z"
    )
    for day in ("2026-01-10", "2026-01-17", "2026-01-18"):
        await shop.bill(at(day))
        assert await wrong(shop) == ()
    assert await shop.lines() == [
        ("seats", 3100, "initial"),
        ("seats", -1600, "proration"),
        ("seats", 3200, "initial"),
    ]
    await shop.bill(at("2026-02-01"))
    assert (await shop.lines())[3:] == [("seats", 6200, "initial")]


async def test_two_changes_booked_and_an_earlier_one_between(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    for now, effective, seats in (
        ("2026-01-02", "2026-01-25", "3"),
        ("2026-01-03", "2026-01-20", "2"),
        ("2026-01-21", "2026-01-11", "4"),
    ):
        await shop.change(
            "s1",
            now=at(now),
            quantities={"seats": seats},
            effective=at(effective).isoformat(),
        )
        await shop.use("acme", at(now), 1)
        await shop.bill(at(now))
        assert await wrong(shop) == ()
    await shop.bill(at("2026-02-01"))
    total = await shop.one(
        "SELECT sum(amount_minor) FROM line_items WHERE price_key = 'seats'"
        " AND charge_start_at = '2026-01-01'"
    )
    assert total == 31 * 10 * 100 // 31 + 9 * 400 + 5 * 200 + 7 * 300
    assert await wrong(shop) == ()


async def test_an_undone_pause_was_none_and_its_resume_turns_nothing(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    now = at("2026-01-05")
    await shop.turn("s1", now=now, paused=True, effective="2026-02-15T00:00:00Z")
    await shop.turn("s1", now=now, paused=False, effective="2026-02-22T00:00:00Z")
    await shop.bill(at("2026-02-01"))
    assert (await shop.lines())[-1] == ("seats", 1550, "initial")
    booked, resumed = sorted(
        await listed(shop, at("2026-02-02")), key=lambda each: each.effective_at
    )
    assert (booked.kind, resumed.kind) == ("pause", "resume")
    await undo(shop, booked.id, at("2026-02-02"))
    assert await wrong(shop) == ()
    await shop.bill(at("2026-03-01"))
    assert sorted(await shop.lines())[-3:] == sorted(
        [
            ("seats", 1550, "proration"),
            ("seats", 3100, "initial"),
            ("seats", 3100, "initial"),
        ]
    )
    assert await wrong(shop) == ()


async def test_a_pause_of_the_past_gives_back_what_was_charged_and_twice_is_refused(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await shop.use("acme", at("2026-01-12"), 100)
    now = at("2026-01-21")
    await shop.turn("s1", now=now, paused=True, effective="2026-01-11T00:00:00Z")
    for paused, effective, code in (
        (True, "now", "already_paused"),
        (False, "2026-01-10T00:00:00Z", "not_paused"),
        (False, "2025-12-31T00:00:00Z", "not_active"),
    ):
        with pytest.raises(BillingError) as refused:
            await shop.turn("s1", now=now, paused=paused, effective=effective)
        assert refused.value.code == code
    await shop.turn("s1", now=now, paused=False, effective="now")
    await shop.bill(at("2026-02-01"))
    assert sorted(await shop.lines()) == sorted(
        [
            ("seats", 3100, "initial"),
            ("seats", -2100, "proration"),
            ("seats", 1100, "initial"),
            ("seats", 3100, "initial"),
        ]
    )
    assert await wrong(shop) == ()
