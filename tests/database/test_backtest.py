"""A backtest with the present prices is what was billed; with others, what others would bill."""

import pytest

from engine.db import AUDITOR_ROLE, PATIENT, is_free, open_database
from engine.errors import BillingError
from tests.backtest_world import (
    ARREARS,
    CELLS,
    FLAT,
    OTHERS,
    PLANS,
    PRICE_LISTS,
    add_other_lists,
    billed,
    simulate,
    tell,
)
from tests.billing_world import at, open_shop, shop

__all__ = ["shop"]

SAME = [{"plan": key, "prices": body["prices"]} for key, body in PLANS.items() if key != "pledge"]
SAME += [{"plan": "pledge", "minimum_commitment": "100.00"}]


@pytest.fixture
async def present(database, make_seller):
    """A shop that tells the story with the present prices."""
    async with open_shop(database, await make_seller()) as shop:
        await tell(shop, PLANS)
        yield shop


@pytest.fixture
async def other(database, make_seller):
    """Another shop, which tells the same story with the other prices."""
    async with open_shop(database, await make_seller()) as shop:
        await tell(shop, OTHERS)
        yield shop


def sums(effects, side):
    found = {name: sum(getattr(effect, side)) for name, effect in effects.items()}
    return {name: amount for name, amount in found.items() if amount}


@pytest.mark.parametrize("stretch", [{}, {"start": "2026-02-01", "end": "2026-04-12"}])
async def test_the_same_prices_give_what_is_billed(present, stretch) -> None:
    answer, effects = await simulate(present.database, present.seller, SAME, **stretch)
    assert answer.not_simulated == ()
    wanted = await billed(present, **stretch)
    assert sums(effects, "present") == wanted
    assert sums(effects, "simulated") == wanted
    for effect in effects.values():
        assert effect.billed_minor == sum(effect.present), effect
    assert {one.difference.strip("0.") for one in answer.totals} == {""}
    assert {one.waiting.strip("0.") for one in answer.totals} == {""}


async def test_a_period_that_is_owed_whole_counts_by_its_own_end(shop) -> None:
    """Ended on 10 February and nothing given back: its last month ends on 4 March."""
    await shop.subscribe("acme", "acme", starts_at="2026-01-04T00:00:00Z")
    await shop.bill(at("2026-02-05"))
    await shop.cancel("acme", now=at("2026-02-10"), effective="now", refund="none")
    await shop.bill(at("2026-03-05"))
    lists = [{"plan": "team", "overrides": {"seats": {"unit_amount": "40.00"}}}]
    for stretch, wanted in (
        ({"end": "2026-02-12"}, {3100}),
        ({"start": "2026-02-05", "end": "2026-02-12"}, set()),
        ({"start": "2026-02-12", "end": "2026-03-20"}, {3100}),
        ({"end": "2026-03-20"}, {6200}),
    ):
        answer, effects = await simulate(shop.database, shop.seller, lists, **stretch)
        assert {sum(effect.present) for effect in effects.values()} - {0} == wanted
        assert {effect.billed_minor for effect in effects.values()} - {0} == wanted
        assert {one.waiting for one in answer.totals} <= {"0.00"}


async def test_other_prices_give_what_a_seller_with_them_bills(present, other) -> None:
    await add_other_lists(present)
    answer, effects = await simulate(present.database, present.seller, PRICE_LISTS)
    assert answer.not_simulated == ()
    assert sums(effects, "present") == await billed(present)
    assert sums(effects, "simulated") == await billed(other)
    assert len([one for one in effects.values() if one.difference_minor]) > 15
    paged, again = await simulate(present.database, present.seller, PRICE_LISTS, page=3)
    assert (paged, again) == (answer, effects)
    part = {"start": "2026-02-01", "end": "2026-04-12"}
    _, effects = await simulate(present.database, present.seller, PRICE_LISTS, **part)
    assert sums(effects, "simulated") == await billed(other, **part)


async def test_the_auditor_may_run_it_and_nothing_is_written(present, database_url) -> None:
    before = await present.written()
    auditor = open_database(dsn=database_url, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        answer, _ = await simulate(auditor, present.seller, PRICE_LISTS[:1])
    finally:
        await auditor.close()
    assert [one.currency for one in answer.totals] == ["EUR", "JPY"]
    assert await present.written() == before


async def test_late_usage_is_told_apart(present) -> None:
    await present.use("c09", at("2026-02-20"), 1)
    await present.use("c00", at("2026-02-03"), 500, region="eu")
    answer, effects = await simulate(present.database, present.seller, PRICE_LISTS[:1])
    # A call at 0.10 in two subscriptions; of 500 tokens, 99 at 0.10 and 401 at 0.01.
    assert [one.waiting for one in answer.totals if one.currency == "EUR"] == ["14.11"]
    late = effects["c00", "EUR"]
    assert sum(late.present) - late.billed_minor == 1391
    await present.bill(at("2026-05-02"))
    after, again = await simulate(present.database, present.seller, PRICE_LISTS[:1])
    assert [one.waiting.strip("0.") for one in after.totals] == ["", ""]
    assert sums(again, "present") == sums(effects, "present") == await billed(present)
    assert sums(again, "simulated") == sums(effects, "simulated")


async def test_prices_of_their_own_hold_unless_it_is_asked_otherwise(present) -> None:
    lists = [{"plan": "team", "overrides": {"seats": {"unit_amount": "40.00"}}}]
    lists += [{"plan": "yearly", "overrides": {"base": {"flat_amount": "120.00"}}}]
    _, held = await simulate(present.database, present.seller, lists)
    _, replaced = await simulate(present.database, present.seller, lists, replace_overrides=True)
    # c17 has had a price of its own from the start: 0.005 a seat, on the same plan.
    assert held["c17", "EUR"].difference_minor == 0
    assert replaced["c17", "EUR"].difference_minor > 3 * 3990
    changed = {name for name in held if held[name] != replaced[name]}
    assert changed == {("c17", "EUR"), ("c02", "EUR"), ("c05", "EUR")}


async def test_one_that_cannot_be_rated_is_left_out_and_named(present) -> None:
    lists = [{"plan": "team", "overrides": {"seats": {"unit_amount": "999999999999999999"}}}]
    answer, effects = await simulate(
        present.database, present.seller, lists, customers=["c01", "c09"]
    )
    assert [one.customer for one in answer.not_simulated] == ["c01"]
    assert answer.not_simulated[0].code == "amount_out_of_range"
    assert "price 'seats' of subscription 'c01'" in answer.not_simulated[0].detail
    assert list(effects) == [("c09", "EUR")]


FAULTS = [
    ({"plan": "none", "prices": []}, "/price_lists/0/plan"),
    ({"plan": "team", "plan_version": 7, "prices": []}, "/price_lists/0/plan_version"),
    ({"plan": "team"}, "/price_lists/0/prices"),
    ({"plan": "team", "with_plan": "none"}, "/price_lists/0/with_plan"),
    ({"plan": "team", "with_version": 9}, "/price_lists/0/with_version"),
    ({"plan": "team", "with_plan": "arrears"}, "/price_lists/0/with_plan"),
    ({"plan": "team", "prices": [], "with_plan": "same"}, "/price_lists/0/prices"),
    ({"plan": "team", "overrides": {"gone": {}}}, "/price_lists/0/overrides/gone"),
    ({"plan": "team", "overrides": {"seats": {"nope": 1}}}, "/price_lists/0/overrides/seats/nope"),
    (
        {"plan": "team", "overrides": {"seats": {"unit_amount": "x"}}},
        "/price_lists/0/overrides/seats/unit_amount",
    ),
    (
        {"plan": "team", "prices": [CELLS]},
        "/price_lists/0/prices/0/matrix",
    ),
    ({"plan": "team", "prices": [CELLS | {"meter": "no"}]}, "/price_lists/0/prices/0/meter"),
    (
        {"plan": "team", "overrides": {"tokens": {"meter": "no"}}},
        "/price_lists/0/overrides/tokens/meter",
    ),
    ({"plan": "team", "minimum_commitment": "0.001"}, "/price_lists/0/minimum_commitment"),
]


async def test_what_is_wrong_is_told_at_its_field(shop) -> None:
    await shop.publish_plan(PLANS["same"] | {"prices": [FLAT]})
    await shop.publish_plan(PLANS["arrears"] | {"prices": [ARREARS]})
    for price_list, pointer in FAULTS:
        with pytest.raises(BillingError) as caught:
            await simulate(shop.database, shop.seller, [price_list])
        assert caught.value.code == "invalid_body"
        assert pointer in [error.pointer for error in caught.value.errors], price_list
    good = {"plan": "team", "prices": []}
    for more, pointer in (
        ({"end": "2026-06-01"}, "/to"),
        ({"start": "2026-05-01"}, "/to"),
        ({"start": "yesterday"}, "/from"),
        ({"customers": ["acme", "nobody"]}, "/customers/1"),
    ):
        with pytest.raises(BillingError) as caught:
            await simulate(shop.database, shop.seller, [good], **more)
        assert [error.pointer for error in caught.value.errors] == [pointer]
    with pytest.raises(BillingError) as caught:
        await simulate(shop.database, shop.seller, [good, good | {"plan_version": 1}])
    assert [error.pointer for error in caught.value.errors] == ["/price_lists/1/plan"]


async def test_a_seller_has_one_simulation_at_a_time(shop) -> None:
    lists = [{"plan": "team", "prices": []}]
    async with shop.database.transaction(seller=shop.seller) as connection:
        assert await is_free(connection=connection, name=f"simulation {shop.seller}")
        with pytest.raises(BillingError) as caught:
            await simulate(shop.database, shop.seller, lists)
        assert caught.value.code == "simulation_running"
    answer, effects = await simulate(shop.database, shop.seller, lists)
    assert (answer.totals, effects) == ((), {})
