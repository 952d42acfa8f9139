"""What documents copy of customers and the seller is what holds when they are posted."""

import msgspec
import pytest
from sqlalchemy import text

from plans.change_seller import change_seller
from plans.model import SellerPatch
from tests.billing_world import shop, violations
from tests.database.test_derive_ahead import CUSTOMERS, FEBRUARY, bill

__all__ = ["shop"]

COPIED = """
SELECT c.key, coalesce({column} = {wanted}, false)
FROM invoices i JOIN customers c ON c.id = i.customer JOIN journal_entries e ON e.source = i.id
WHERE i.billed_at = :at
"""
TERMS = ("i.due_at", "timestamptz '2026-02-05 00:00Z'")
ACME = "(SELECT o.party FROM customers o WHERE o.key = 'acme')"
COPIED_OF_CUSTOMERS = {
    f"party = {ACME}": ("i.billed_to", ACME),
    "net_terms_days = 4": TERMS,
    "po_number = 'PO 9'": ("i.po_number", "'PO 9'"),
    "invoice_group = 'apart'": ("i.invoice_group", "'apart'"),
}
COPIED_OF_SELLERS = {
    "legal_name": ("Renamed", "i.billed_from", "(SELECT party FROM sellers)"),
    "net_terms_days": (4, *TERMS),
    "series": ("OTHER", "i.series", "'OTHER'"),
    "timezone": ("America/New_York", "e.entry_on", "date '2026-01-31'"),
}


async def posted(connection):
    """The customers whose February is posted."""
    rows = await connection.execute(
        text(
            "SELECT c.key FROM invoices i JOIN customers c ON c.id = i.customer"
            " WHERE i.billed_at = :at"
        ),
        {"at": FEBRUARY},
    )
    return set(rows.scalars())


@pytest.mark.parametrize("fact", COPIED_OF_CUSTOMERS)
async def test_a_document_copies_of_its_customer_what_holds_when_it_is_posted(
    shop, superuser, database_url, fact
):
    """Of customers who are alike and of some with two subscriptions."""
    before, (column, wanted) = set(), COPIED_OF_CUSTOMERS[fact]

    async def change(shop, connection, run):
        del shop, run
        before.update(await posted(connection))
        await connection.execute(text(f"UPDATE customers SET {fact} WHERE key LIKE 'c%'"))

    run, _ = await bill(shop, superuser, change, twice=["c04", "c09", "c15"])
    assert run.documents == CUSTOMERS
    told = dict(await shop.rows(COPIED.format(column=column, wanted=wanted), at=FEBRUARY))
    assert {key for key, is_wanted in told.items() if not is_wanted} == before
    assert "c17" not in before
    assert await violations(database_url) == []


@pytest.mark.parametrize("name", COPIED_OF_SELLERS)
async def test_a_document_copies_of_its_seller_what_holds_when_it_is_posted(
    shop, superuser, database_url, name
):
    before, (value, column, wanted) = set(), COPIED_OF_SELLERS[name]

    async def change(shop, connection, run):
        del shop, run
        before.update(await posted(connection))
        patch = msgspec.convert({name: value}, SellerPatch)
        await change_seller(connection=connection, patch=patch)

    run, _ = await bill(shop, superuser, change)
    assert run.documents == CUSTOMERS
    told = dict(await shop.rows(COPIED.format(column=column, wanted=wanted), at=FEBRUARY))
    assert {key for key, is_wanted in told.items() if not is_wanted} == before
    assert "c17" not in before
    assert await violations(database_url) == []
