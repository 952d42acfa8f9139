"""An invoice that is written off while other things happen to it, and the books stay sound."""

import asyncio

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.losses import WriteOffDraft
from invoicing.void_invoice import void_invoice
from invoicing.write_off import write_off
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations
from tests.database.test_payments import bill, pay

__all__ = ["shop"]

NOW = at("2026-01-10")


async def give_up(shop, invoice, now=NOW, reason=None):
    async with shop.database.transaction(seller=shop.seller) as connection:
        return await write_off(
            connection=connection,
            seller=await load_seller(connection=connection),
            reference=invoice,
            draft=msgspec.convert({"reason": reason}, WriteOffDraft),
            actor="key_a",
            now=now,
            wall_now=now,
        )


async def void(shop, invoice):
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        await void_invoice(connection=connection, seller=seller, reference=invoice, now=NOW)


DUE = "SELECT status, amount_due_minor, version FROM invoices"
LOST = "SELECT coalesce(sum(amount_minor), 0)::bigint FROM postings WHERE account = 'credit_loss'"


async def test_money_and_a_write_off_at_once_leave_one_truth(shop, database_url):
    invoice = await bill(shop, "10.00")
    named = {"allocations": [{"invoice": invoice, "amount": "4.00"}]}
    await asyncio.gather(give_up(shop, invoice), *(pay(shop, "4.00", **named) for _ in range(2)))
    assert await shop.rows(DUE) == [("uncollectible", 200, 4)]
    assert await shop.rows(LOST) == [(0,)]  # issued at that instant: nothing of it was earned
    assert await violations(database_url) == []


async def test_it_is_written_off_once(shop, database_url):
    invoice = await bill(shop, "10.00")
    outcomes = await asyncio.gather(
        *(give_up(shop, invoice, at("2026-02-01")) for _ in range(4)), return_exceptions=True
    )
    codes = [each.code for each in outcomes if isinstance(each, BillingError)]
    assert codes == ["already_written_off"] * 3
    assert await shop.rows(LOST) == [(1000,)]
    assert await violations(database_url) == []


async def test_a_void_and_a_write_off_at_once_are_one_of_them(shop, database_url):
    invoice = await bill(shop, "10.00")
    outcomes = await asyncio.gather(
        give_up(shop, invoice), void(shop, invoice), return_exceptions=True
    )
    codes = [each.code for each in outcomes if isinstance(each, BillingError)]
    assert codes == ["invoice_not_open"]
    assert await violations(database_url) == []


async def test_the_audit_log_keeps_who_and_why(shop, database_url):
    await give_up(shop, await bill(shop, "10.00"), reason="insolvent")
    (row,) = await shop.rows("SELECT actor, action, reason, detail FROM audit_log")
    assert row == (
        "key_a",
        "invoice.written_off",
        "insolvent",
        {"amount": "10.00", "currency": "EUR"},
    )


@pytest.mark.parametrize("days", [0, 13, 31])
async def test_a_run_that_credits_what_was_written_off_leaves_no_balance(shop, database_url, days):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    invoices = await shop.rows("SELECT id FROM invoices")
    when = at(f"2026-01-{1 + days:02}") if days < 31 else at("2026-02-01")
    for (invoice,) in invoices:
        await give_up(shop, invoice, when)
    await shop.cancel("s1", now=when, effective="2026-01-08T12:00:00Z")
    await shop.bill(at("2026-02-01"))
    assert await shop.rows("SELECT sum(amount_minor)::bigint FROM customer_balances") in (
        [(None,)],
        [(0,)],
    )
    assert await violations(database_url) == []
