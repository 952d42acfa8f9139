"""Money that goes back at once with other money, and the books stay sound."""

import asyncio

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.refund import cancel_refund, confirm_refund, refund
from invoicing.refunds import RefundDraft, RefundStep, ReturnDraft
from invoicing.take_back import return_payment
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations
from tests.database.test_payments import bill, pay
from tests.database.test_write_off import give_up

__all__ = ["shop"]

NOW = at("2026-01-12")


async def acting(shop, verb, **fields):
    async with shop.database.transaction(seller=shop.seller) as connection:
        return await verb(
            connection=connection,
            seller=await load_seller(connection=connection),
            actor="key_a",
            now=NOW,
            wall_now=NOW,
            **fields,
        )


async def give_back(shop, **body):
    return await acting(shop, refund, draft=msgspec.convert(body, RefundDraft))


async def take(shop, payment):
    return await acting(shop, return_payment, payment=payment, draft=ReturnDraft(code="R01"))


async def end(shop, verb, identity):
    return await acting(shop, verb, refund=identity, step=RefundStep())


def codes(outcomes):
    return [each.code for each in outcomes if isinstance(each, BillingError)]


REFUNDED = "SELECT coalesce(sum(amount_minor), 0)::bigint FROM refunds WHERE status <> 'void'"
DUE = "SELECT status, amount_due_minor FROM invoices ORDER BY number"


async def test_no_more_goes_back_than_came(shop, database_url):
    await bill(shop, "10.00")
    payment = await pay(shop, "10.00")
    outcomes = await asyncio.gather(
        *(give_back(shop, payment=payment, amount="3.00") for _ in range(6)),
        return_exceptions=True,
    )
    assert codes(outcomes) == ["invalid_body"] * 3
    assert await shop.rows(REFUNDED) == [(900,)]
    assert await shop.rows(DUE) == [("open", 900)]
    assert await violations(database_url) == []


async def test_a_balance_goes_back_once(shop, database_url):
    await bill(shop, "10.00")
    await pay(shop, "15.00")
    outcomes = await asyncio.gather(
        *(give_back(shop, customer="acme", currency="EUR") for _ in range(4)),
        bill(shop, "2.00"),
        return_exceptions=True,
    )
    assert codes(outcomes) == ["nothing_to_refund"] * 3
    assert await violations(database_url) == []


@pytest.mark.parametrize("again", ["4.00", "10.00"])
async def test_money_in_and_money_back_at_once(shop, database_url, again):
    await bill(shop, "10.00")
    payment = await pay(shop, "10.00")
    await asyncio.gather(give_back(shop, payment=payment), pay(shop, again))
    assert await violations(database_url) == []


async def test_a_refund_ends_once(shop, database_url):
    payment = await pay(shop, "10.00", allocations=[])
    made = await give_back(shop, payment=payment)
    outcomes = await asyncio.gather(
        *(end(shop, verb, made) for verb in (confirm_refund, cancel_refund) * 2),
        return_exceptions=True,
    )
    assert codes(outcomes) == ["refund_not_pending"] * 3
    assert await violations(database_url) == []


async def test_a_payment_returned_and_refunded_at_once_is_one_of_them(shop, database_url):
    await bill(shop, "10.00")
    payment = await pay(shop, "10.00")
    outcomes = await asyncio.gather(
        take(shop, payment), give_back(shop, payment=payment), return_exceptions=True
    )
    assert codes(outcomes) in (["payment_returned"], ["payment_refunded"])
    assert await shop.rows(DUE) == [("open", 1000)]
    assert await violations(database_url) == []


async def test_what_is_returned_of_a_written_off_invoice_opens_it(shop, database_url):
    invoice = await bill(shop, "10.00")
    payment = await pay(shop, "4.00")
    await give_up(shop, invoice, NOW)
    await take(shop, payment)
    assert await shop.rows(DUE) == [("open", 1000)]
    await give_up(shop, invoice, NOW)
    assert await shop.rows(DUE) == [("uncollectible", 1000)]
    assert await violations(database_url) == []


async def test_a_cancelled_refund_recovers_what_was_written_off_meanwhile(shop, database_url):
    invoice = await bill(shop, "10.00")
    payment = await pay(shop, "10.00")
    made = await give_back(shop, payment=payment, amount="6.00")
    await give_up(shop, invoice, NOW)
    await end(shop, cancel_refund, made)
    assert await shop.rows(DUE) == [("paid", 0)]
    lost = "SELECT sum(amount_minor)::bigint FROM postings WHERE account = 'credit_loss'"
    assert await shop.rows(lost) == [(0,)]
    assert await violations(database_url) == []


async def test_what_a_credit_note_pays_back_is_not_paid_back_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    payment = await pay(shop, "31.00")
    await shop.cancel("s1", now=at("2026-01-11"), effective="now", refund="refund")
    await shop.bill(at("2026-01-11"))
    ((given,),) = await shop.rows("SELECT refunded_minor FROM credit_notes")
    assert given > 0
    await give_back(shop, payment=payment)
    assert await shop.rows(REFUNDED) == [(3100,)]
    (made,) = await shop.rows("SELECT id FROM refunds WHERE source = 'credit_note'")
    with pytest.raises(BillingError, match="void that") as refused:
        await end(shop, cancel_refund, made[0])
    assert refused.value.code == "refund_of_credit_note"
    assert await violations(database_url) == []
