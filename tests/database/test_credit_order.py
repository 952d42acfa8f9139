"""Grants are used by priority, then by their end, then by age, whatever order they came in."""

import random
from datetime import timedelta

import msgspec
import pytest

from invoicing.credit_store import load_wallet
from invoicing.grant_credit import grant_credit
from plans.credit_grants import CreditGrantDraft
from plans.seller_store import load_seller
from plans.store import find_customer
from tests.billing_world import OPENED, at, shop

__all__ = ["shop"]


@pytest.mark.parametrize("seed", range(3))
async def test_the_order_in_which_credit_is_used(shop, seed):
    dice = random.Random(seed)
    made = []
    for number in range(24):
        body = {"key": f"g{number}", "customer": "acme", "amount": "1.00", "currency": "EUR"}
        body["kind"] = dice.choice(["promotional", "prepaid"])
        body["priority"] = dice.choice([0, 50, 100])
        body["expires_at"] = dice.choice([None, at("2026-03-01"), at("2026-02-01")])
        now = OPENED + timedelta(hours=dice.randrange(4))
        draft = msgspec.convert(body, CreditGrantDraft)
        async with shop.database.transaction(seller=shop.seller) as connection:
            seller = await load_seller(connection=connection)
            grant = await grant_credit(
                connection=connection, seller=seller, draft=draft, now=now, wall_now=now
            )
        end = body["expires_at"] or at("9999-01-01")
        rank = (body["kind"] == "prepaid", body["priority"], end, now, number)
        made.append((rank, grant.id))
    async with shop.database.transaction(seller=shop.seller) as connection:
        customer = await find_customer(connection=connection, reference="acme")
        assert customer is not None
        wallet = await load_wallet(connection=connection, customers=[customer.id])
    assert wallet is not None
    assert [grant.id for grant in wallet.grants] == [name for _, name in sorted(made)]
