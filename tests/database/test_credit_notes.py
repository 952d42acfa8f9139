"""Credits by hand among runs, voids and each other: never too much, and the books stay sound."""

import asyncio

import msgspec
import pytest

from engine.db import AUDITOR_ROLE, PATIENT, open_database
from engine.errors import BillingError
from invoicing.credit_notes import CreditNoteDraft, CreditNoteVoid
from invoicing.issue_credit_note import issue_credit_note
from invoicing.rederive import rederive
from invoicing.void_credit_note import void_credit_note
from invoicing.void_invoice import void_invoice
from invoicing.write_off import WriteOffDraft, write_off
from plans.seller_store import load_seller
from tests.billing_world import at, shop, violations
from tests.database.test_payments import pay

__all__ = ["shop"]

FIRST = "INV-000001"
CREDITED, VOIDED = at("2026-01-05"), at("2026-01-20")
LINE = "SELECT l.id FROM line_items l JOIN invoices i ON i.id = l.document WHERE i.number = :number"


async def act(shop, verb, now, **fields):
    async with shop.database.transaction(seller=shop.seller) as connection:
        seller = await load_seller(connection=connection)
        return await verb(connection=connection, seller=seller, now=now, **fields)


async def credit(shop, amount, *, now=CREDITED, number=FIRST, **fields):
    (line,) = await shop.rows(LINE, number=number)
    body = {"invoice": number, "lines": [{"line": line[0], "amount": amount}], "reason": "goodwill"}
    draft = msgspec.convert(body | fields, CreditNoteDraft)
    return await act(shop, issue_credit_note, now, draft=draft, actor="key", wall_now=now)


async def void(shop, note, *, now=VOIDED):
    fields = {"reference": note, "draft": CreditNoteVoid(), "actor": "key", "wall_now": now}
    return await act(shop, void_credit_note, now, **fields)


async def mismatches(shop, database_url):
    auditor = open_database(dsn=database_url, role=AUDITOR_ROLE, pool_size=1, waiting=PATIENT)
    try:
        async with auditor.transaction(seller=shop.seller, snapshot=True) as connection:
            seller = await load_seller(connection=connection)
            found = await rederive(connection=connection, seller=seller)
    finally:
        await auditor.close()
    return found.mismatches


DUE = "SELECT status, amount_due_minor FROM invoices ORDER BY number"


async def test_credits_at_once_give_back_the_line_once(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    outcomes = await asyncio.gather(
        *(credit(shop, "10.00") for _ in range(5)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, BillingError)]
    assert [each.errors[0].code for each in refused] == ["overcredited"] * 2
    assert await shop.rows(DUE) == [("open", 100)]
    assert await violations(database_url) == []
    assert await mismatches(shop, database_url) == ()


async def test_a_credit_and_a_run_that_gives_back_at_once_stay_within_the_charge(
    shop, database_url
):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await shop.cancel("s1", now=at("2026-01-11"), effective="now")
    outcomes = await asyncio.gather(
        credit(shop, "25.00", now=at("2026-01-11")),
        shop.bill(at("2026-01-11")),
        return_exceptions=True,
    )
    given = await shop.one("SELECT sum(total_minor)::bigint FROM credit_notes")
    assert given == (2100 if isinstance(outcomes[0], BillingError) else 3100)
    assert (await shop.bill(at("2026-01-12"))).documents == 0
    assert await violations(database_url) == []
    assert await mismatches(shop, database_url) == ()


async def test_a_void_note_gives_room_to_the_run_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    note = await credit(shop, "31.00")
    await shop.cancel("s1", now=at("2026-01-11"), effective="now")
    assert (await shop.bill(at("2026-01-11"))).documents == 0
    assert await shop.rows(DUE) == [("paid", 0)]
    await void(shop, note)
    assert await shop.rows(DUE) == [("open", 3100)]
    await shop.bill(at("2026-01-21"))
    assert await shop.rows(DUE) == [("open", 1000)]
    assert await violations(database_url) == []
    assert await mismatches(shop, database_url) == ()
    told = await shop.rows(
        "SELECT type, version FROM outbox WHERE object = :note ORDER BY version", note=note
    )
    assert told == [("credit_note.issued", 1), ("credit_note.voided", 2)]


async def test_an_invoice_is_void_only_after_its_notes(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    note = await credit(shop, "10.00")
    before = await shop.written()
    with pytest.raises(BillingError) as refused:
        await act(shop, void_invoice, at("2026-01-06"), reference=FIRST)
    assert refused.value.code == "invoice_credited"
    assert await shop.written() == before
    await void(shop, note)
    await act(shop, void_invoice, at("2026-01-21"), reference=FIRST)
    with pytest.raises(BillingError) as refused:
        await credit(shop, "1.00", now=at("2026-01-22"))
    assert refused.value.code == "invoice_void"
    await shop.bill(at("2026-01-22"))
    await credit(shop, "31.00", now=at("2026-01-23"), number="INV-000002")
    assert await shop.rows(DUE) == [("void", 0), ("paid", 0)]
    assert await violations(database_url) == []
    assert await mismatches(shop, database_url) == ()


async def test_what_was_used_of_a_note_is_not_taken_back(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await pay(shop, "31.00")
    note = await credit(shop, "10.00", now=at("2026-01-11"))
    money = await credit(shop, "5.00", now=at("2026-01-11"), settle="refund")
    await shop.bill(at("2026-02-01"))
    before = await shop.written()
    with pytest.raises(BillingError) as refused:
        await void(shop, note, now=at("2026-02-02"))
    assert refused.value.code == "balance_used"
    assert await shop.written() == before
    await void(shop, money, now=at("2026-02-02"))
    assert await shop.rows("SELECT status, amount_minor FROM refunds") == [("void", 500)]
    assert await violations(database_url) == []


async def test_an_invoice_written_off_keeps_its_notes(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    note = await credit(shop, "11.00")
    fields = {"draft": WriteOffDraft(), "actor": "key", "wall_now": at("2026-01-11")}
    await act(shop, write_off, at("2026-01-11"), reference=FIRST, **fields)
    assert await violations(database_url) == []
    with pytest.raises(BillingError) as refused:
        await credit(shop, "1.00", now=VOIDED)
    assert refused.value.code == "invoice_uncollectible"
    for paid in ("0.01", "19.99"):
        with pytest.raises(BillingError) as refused:
            await void(shop, note)
        assert refused.value.code == "invoice_uncollectible"
        await pay(shop, paid, allocations=[{"invoice": FIRST, "amount": paid}])
    assert await shop.rows(DUE) == [("paid", 0)]
    await credit(shop, "20.00", now=VOIDED, settle="refund")
    assert await violations(database_url) == []
