"""A customer's charges come on documents of whoever is at the top of its parents."""

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.rehearse_run import rehearse_run
from plans.drafts import CustomerPatch
from plans.register_customer import change_customer
from tests.billing_world import at, shop, violations

__all__ = ["shop"]

DOCUMENTS = """
SELECT c.key, d.total FROM (
  SELECT customer, billed_at, number, total_minor AS total FROM invoices
  UNION ALL SELECT customer, billed_at, number, -total_minor FROM credit_notes
) d JOIN customers c ON c.id = d.customer ORDER BY d.billed_at, c.key, d.number
"""


async def move(shop, key, **fields):
    async with shop.database.transaction(seller=shop.seller) as connection:
        patch = msgspec.convert(fields, CustomerPatch)
        return await change_customer(connection=connection, reference=key, patch=patch)


async def family(shop):
    """acme above north above depot, each with a subscription from January."""
    await shop.customer("north", parent="acme")
    await shop.customer("depot", parent="north")
    for number, customer in enumerate(("acme", "north", "depot"), start=1):
        await shop.subscribe(f"s{number}", customer, quantities={"seats": str(number)})


async def test_usage_below_is_billed_above_and_late_usage_too(shop, database_url):
    await family(shop)
    await shop.use("depot", at("2026-01-05"), 10)
    await shop.bill(at("2026-02-01"))
    assert await shop.rows(DOCUMENTS) == [("acme", 6 * 31_00), ("acme", 6 * 31_00 + 1_00)]
    await shop.use("depot", at("2026-01-31"), 20)
    told = await rehearse_run(
        database=shop.database, seller=shop.seller, as_of=at("2026-02-03"), portion=1
    )
    assert [(one.customer, one.total) for one in told.first] == [("acme", "2.00")]
    run = await shop.bill(at("2026-02-03"))
    assert (run.documents, run.lines) == (1, 1)
    assert (await shop.rows(DOCUMENTS))[-1] == ("acme", 2_00)
    assert await violations(database_url) == []


async def test_another_parent_holds_for_documents_from_then_on(shop, database_url):
    await family(shop)
    await shop.bill(at("2026-01-01"))
    moved = await move(shop, "north", parent=None)
    assert (moved.parent, moved.bill_to) == (None, moved.id)
    await shop.cancel("s3", now=at("2026-01-16T12:00"))
    await shop.bill(at("2026-02-01"))
    # Half of 3 x 31.00 comes back to who pays now; it reduces nothing of the other's open invoice.
    assert await shop.rows(DOCUMENTS) == [
        ("acme", 6 * 31_00),
        ("north", -46_50),
        ("acme", 31_00),
        ("north", 2 * 31_00),
    ]
    due = await shop.rows("SELECT total_minor, amount_due_minor FROM invoices ORDER BY number")
    assert due == [(186_00, 186_00), (31_00, 31_00), (62_00, 15_50)]
    assert await violations(database_url) == []
    await move(shop, "north", parent="acme")
    await shop.bill(at("2026-03-01"))
    assert (await shop.rows(DOCUMENTS))[-1] == ("acme", 3 * 31_00)


async def test_nobody_is_below_itself(shop):
    await family(shop)
    for key, parent in (("acme", "depot"), ("acme", "acme"), ("north", "depot")):
        with pytest.raises(BillingError) as refused:
            await move(shop, key, parent=parent)
        assert [(each.pointer, each.code) for each in refused.value.errors] == [
            ("/parent", "cycle")
        ]
