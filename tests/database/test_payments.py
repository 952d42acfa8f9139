"""Money that comes in at once with other money pays everything once, and the books stay sound."""

import asyncio

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.issue_invoice import issue_invoice
from invoicing.one_off import OneOffDraft
from invoicing.payments import AllocateDraft, PaymentDraft
from invoicing.receive_payment import allocate_payment, receive_payment
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

NOW = at("2026-01-10")


async def bill(shop, amount, customer="acme"):
    body = {"customer": customer, "currency": "EUR", "lines": [{"key": "fee", "amount": amount}]}
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        draft = msgspec.convert(body, OneOffDraft)
        return await issue_invoice(connection=connection, seller=seller, draft=draft, now=NOW)


async def pay(shop, amount, **fields):
    body = {"customer": "acme", "amount": amount, "currency": "EUR", "method": "bank"} | fields
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        draft = msgspec.convert(body, PaymentDraft)
        return await receive_payment(
            connection=connection, seller=seller, draft=draft, now=NOW, wall_now=NOW
        )


async def allocate(shop, payment):
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        await allocate_payment(
            connection=connection, seller=seller, payment=payment, draft=AllocateDraft(), now=NOW
        )


DUE = "SELECT number, status, amount_due_minor FROM invoices ORDER BY number"


async def test_eight_payments_at_once_pay_every_invoice_once(shop, database_url):
    for amount in ("10.00", "20.00", "30.00"):
        await bill(shop, amount)
    await asyncio.gather(*(pay(shop, "9.00") for _ in range(8)))
    assert await shop.rows(DUE) == [(f"INV-00000{n}", "paid", 0) for n in (1, 2, 3)]
    assert await shop.rows("SELECT sum(amount_minor)::bigint FROM settlements") == [(6000,)]
    assert await shop.rows("SELECT amount_minor FROM customer_balances") == [(300,)]
    waits = "SELECT sum(unapplied_minor)::bigint FROM payments"
    assert await shop.rows(waits) == [(900,)]
    assert await violations(database_url) == []


async def test_an_invoice_named_by_two_payments_at_once_is_paid_by_one(shop, database_url):
    invoice = await bill(shop, "10.00")
    named = {"allocations": [{"invoice": invoice, "amount": "10.00"}]}
    outcomes = await asyncio.gather(
        *(pay(shop, "10.00", **named) for _ in range(4)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, BillingError)]
    assert [each.errors[0].code for each in refused] == ["invoice_not_open"] * 3
    assert await violations(database_url) == []


async def test_waiting_money_is_matched_once(shop, database_url):
    payment = await pay(shop, "15.00", allocations=[])
    await bill(shop, "10.00")
    outcomes = await asyncio.gather(
        *(allocate(shop, payment) for _ in range(4)), return_exceptions=True
    )
    codes = [each.code for each in outcomes if isinstance(each, BillingError)]
    assert codes == ["nothing_to_allocate"] * 3
    assert await shop.rows("SELECT unapplied_minor, version FROM payments") == [(500, 2)]
    assert await violations(database_url) == []


@pytest.mark.parametrize("part", ["4.00", "10.00"])
async def test_money_by_hand_and_a_run_at_once_agree(shop, database_url, part):
    await shop.subscribe("s1", "acme")
    await asyncio.gather(bill(shop, "10.00"), shop.bill(at("2026-01-10")), pay(shop, part))
    assert await violations(database_url) == []
