"""What a void leaves behind: sound books, charges that are owed again, and no second void."""

import asyncio

import pytest
from sqlalchemy.exc import DBAPIError

from engine.db import AUDITOR_ROLE, PATIENT, open_database
from engine.errors import BillingError
from invoicing.rederive import rederive
from invoicing.void_invoice import void_invoice
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

FIRST = "INV-000001"


async def void(shop, reference, now):
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        return await void_invoice(
            connection=connection, seller=seller, reference=reference, now=now
        )


async def derived_again(shop, database_url):
    auditor = open_database(dsn=database_url, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=shop.seller, snapshot=True) as connection:
            seller = await load_seller(connection=connection)
            return await rederive(connection=connection, seller=seller)
    finally:
        await auditor.close()


async def test_the_books_stay_sound_and_the_next_run_bills_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await void(shop, FIRST, at("2026-01-05"))
    assert await violations(database_url) == []
    waiting = await derived_again(shop, database_url)
    assert (waiting.pending, waiting.mismatches) == (1, ())
    assert await shop.rows(
        "SELECT e.kind, p.account, p.amount_minor FROM journal_entries e JOIN postings p"
        " ON p.entry = e.id WHERE e.kind = 'voided' ORDER BY p.ordinal"
    ) == [("voided", "accounts_receivable", -3100), ("voided", "contract_balance", 3100)]
    assert await shop.rows("SELECT type, version FROM outbox ORDER BY version") == [
        ("invoice.issued", 1),
        ("invoice.voided", 2),
    ]
    run = await shop.bill(at("2026-01-06"))
    assert (run.documents, run.lines) == (1, 1)
    assert await shop.lines("INV-000002") == [("seats", 3100, "correction")]
    assert (await shop.bill(at("2026-01-06"))).documents == 0
    assert await violations(database_url) == []
    settled = await derived_again(shop, database_url)
    assert (settled.pending, settled.mismatches) == (0, ())


@pytest.mark.parametrize("again", ["void", "paid"])
async def test_an_invoice_that_is_not_open_is_refused(shop, again):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    if again == "void":
        await void(shop, FIRST, at("2026-01-05"))
        reference, code = FIRST, "already_void"
    else:
        await shop.cancel("s1", now=at("2026-01-01"), effective="now")
        await shop.bill(at("2026-01-02"))
        reference, code = FIRST, "invoice_paid"
    before = await shop.written()
    with pytest.raises(BillingError) as refused:
        await void(shop, reference, at("2026-01-06"))
    assert refused.value.code == code
    assert await shop.written() == before


async def test_two_voids_at_once_leave_one(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    outcomes = await asyncio.gather(
        *(void(shop, FIRST, at("2026-01-05")) for _ in range(4)), return_exceptions=True
    )
    codes = [each.code for each in outcomes if isinstance(each, BillingError)]
    assert codes == ["already_void"] * 3
    assert await violations(database_url) == []


async def test_a_run_between_deriving_and_posting_takes_the_void_up(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    voiding = asyncio.create_task(void(shop, FIRST, at("2026-01-31")))
    await shop.bill(at("2026-02-01"))
    await voiding
    await shop.bill(at("2026-02-01"))
    assert await violations(database_url) == []
    again = await derived_again(shop, database_url)
    assert (again.pending, again.mismatches) == (0, ())
    counted = await shop.one(
        "SELECT sum(l.amount_minor) FROM line_items l JOIN invoices i ON i.id = l.document"
        " WHERE i.status <> 'void'"
    )
    assert counted == 2 * 3100


async def test_the_database_lets_no_void_invoice_come_back(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await void(shop, FIRST, at("2026-01-05"))
    with pytest.raises(DBAPIError, match="void cannot become open"):
        await shop.rows(
            "UPDATE invoices SET status = 'open', voided_at = NULL, version = version + 1"
            " RETURNING id"
        )
