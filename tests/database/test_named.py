"""A document is found by its id and by its number, and by index."""

from sqlalchemy import text

from invoicing import document_store, payment_store, void_store
from invoicing.credit_note_store import lock_note
from invoicing.document_store import list_credit_notes, list_invoices
from invoicing.mail_facts_store import find_facts
from invoicing.numbers import named
from invoicing.payment_store import lock_named
from invoicing.void_store import lock_invoice
from plans.mailing import EmailKind
from tests.billing_world import at, shop
from tests.database.test_payments import bill

__all__ = ["shop"]

NUMBERS = "INSERT INTO number_series (series, next_sequence) VALUES ('BIG', 3001)"
INVOICES = """
INSERT INTO invoices (id, series, sequence, number, customer, currency, status, billed_at,
  issued_at, due_at, subtotal_minor, total_minor, balance_applied_minor, amount_due_minor,
  billed_from, billed_to, run)
SELECT 'inv_' || n, 'BIG', n, 'BIG-' || lpad(n::text, 6, '0'), 'cus_a', 'EUR', 'open', t, t, t, 5,
  5, 0, 5, 'party', 'party', 'run_a'
FROM generate_series(1, 3000) n, (SELECT timestamptz '2026-01-01' AS t)"""


async def test_by_id_and_by_number(shop):
    first, second = [await bill(shop, amount) for amount in ("10.00", "20.00")]
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-01-01"))
    await shop.cancel("s1", now=at("2026-01-05"), effective="2026-01-08T12:00:00Z")
    await shop.bill(at("2026-01-10"))
    ((note, number),) = await shop.rows("SELECT id, number FROM credit_notes")
    async with shop.database.transaction(seller=shop.seller) as connection:
        for reference in (second, "INV-000002"):
            (listed,) = await list_invoices(connection=connection, limit=1, reference=reference)
            locked = await lock_invoice(connection=connection, reference=reference)
            facts = await find_facts(
                connection=connection, kind=EmailKind.INVOICE, reference=reference
            )
            assert (listed.id, locked.id, facts.document) == (second, second, second)
        for reference in (note, number):
            (listed,) = await list_credit_notes(connection=connection, limit=1, reference=reference)
            locked = await lock_note(connection=connection, reference=reference)
            facts = await find_facts(
                connection=connection, kind=EmailKind.CREDIT_NOTE, reference=reference
            )
            assert (listed.id, locked.id, facts.document) == (note, note, note)
        asked = [first, "INV-000002", "INV-2", "INV-000009", number]
        found = await lock_named(connection=connection, references=asked)
    assert {name: payable.id for name, payable in found.items() if name in asked} == {
        first: first,
        "INV-000002": second,
    }


async def test_nothing_is_found_by_what_is_no_number(shop):
    await bill(shop, "10.00")
    async with shop.database.transaction(seller=shop.seller) as connection:
        for reference in ("INV-1", "INV", "INV-000001 ", "INV-99999999999999999999"):
            assert await lock_invoice(connection=connection, reference=reference) is None
            assert await list_invoices(connection=connection, limit=1, reference=reference) == []


async def test_they_are_found_by_index(shop):
    one = named(reference="BIG-000007")
    many = {"references": ["inv_8"], "series": [one["series"]], "sequences": [one["sequence"]]}
    lookups = [
        (document_store._ONE.format(table="invoices"), one),
        (void_store._LOCK.text, one),
        (payment_store._NAMED.text, many),
    ]
    plans = []
    async with shop.database.transaction(seller=shop.seller) as connection:
        for statement in (NUMBERS, INVOICES, "SELECT refresh_statistics()"):
            await connection.execute(text(statement))
        for query, values in lookups:
            rows = await connection.execute(text(f"EXPLAIN {query}"), values)
            plans.append("\n".join(row[0] for row in rows))
    for plan in plans:
        assert "Seq Scan on invoices" not in plan
        assert "sequence = " in plan
