"""A customer's balance is added to and taken from, and never falls below zero."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from invoicing.store import add_balances
from tests.books import write_books

KEY = ("cus_a", "EUR")


async def balance_after(database, seller, *changes):
    async with database.transaction(seller=seller) as connection:
        for change in changes:
            await add_balances(connection=connection, changes=change)
        found = await connection.execute(
            text("SELECT currency, amount_minor FROM customer_balances")
        )
        return {row.currency: row.amount_minor for row in found}


async def test_a_balance_moves_both_ways(database, superuser):
    seller = await write_books(superuser)  # leaves acme 1.00
    assert await balance_after(database, seller, {KEY: 300}, {KEY: -400}) == {"EUR": 0}
    dollars = {("cus_a", "USD"): 50}
    assert await balance_after(database, seller, dollars) == {"EUR": 0, "USD": 50}


async def test_a_balance_is_not_overdrawn(database, superuser):
    seller = await write_books(superuser)
    with pytest.raises(IntegrityError):
        await balance_after(database, seller, {KEY: -101})
