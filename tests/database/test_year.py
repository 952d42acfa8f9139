"""A year of a seller: at every month end receivables are one number, however they are asked for.

The account in the journal, what is due of open invoices, the open items by age, the statements
of all customers and a ledger kept by plain arithmetic agree to the cent, by customer and currency;
what a statement said of a day it says for ever.
"""

from collections import Counter
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from engine.period import local_midnight
from tests.billing_world import audited
from tests.year_ledger import Owner
from tests.year_money import MoneyActs
from tests.year_seller import CUSTOMERS, ZONE, Seller, minor, open_seller

pytestmark = pytest.mark.slow
WEIGHTS = {
    "use": 14,
    "subscribe": 5,
    "change": 5,
    "cancel": 3,
    "coupon": 2,
    "promote": 2,
    "prepay": 3,
    "void_grant": 1,
    "one_off": 6,
    "edit_draft": 3,
    "finalize": 2,
    "credit": 6,
    "void_note": 3,
    "void_invoice": 3,
    "write_off": 3,
    "pay": 9,
    "pay_named": 4,
    "recover": 3,
    "deposit": 2,
    "allocate": 3,
    "give_back": 3,
    "refund_payment": 3,
    "refund_balance": 2,
    "confirm_refund": 3,
    "cancel_refund": 3,
}
DAYS_A_MONTH = 5
ACTS_A_DAY = 4
MONTHS = [date(2026, month, 1) for month in range(1, 13)]
_ACCOUNT = text("""
SELECT c.key, p.currency, sum(p.amount_minor)::bigint AS amount FROM postings p
  JOIN customers c ON c.id = p.customer
WHERE p.account = 'accounts_receivable' GROUP BY c.key, p.currency
HAVING sum(p.amount_minor) <> 0
""")
_DUE = text("""
SELECT c.key, i.currency, sum(i.amount_due_minor)::bigint AS amount FROM invoices i
  JOIN customers c ON c.id = i.customer WHERE i.status = 'open' AND i.id NOT IN (
    SELECT invoice FROM held_entries WHERE ended_at IS NULL)
GROUP BY c.key, i.currency
""")


def following(month: date) -> date:
    """The first day of the next month."""
    return (month + timedelta(days=31)).replace(day=1)


async def accounts(seller: Seller, start: date, end: date) -> dict[Owner, dict[str, Any]]:
    """What statements say of the days [start, end), by customer and currency."""
    found: dict[Owner, dict[str, Any]] = {}
    for customer in CUSTOMERS:
        path = f"/v1/customers/{customer}/statement?from={start}&to={end}"
        for account in (await seller.get(path))["accounts"]:
            found[customer, account["currency"]] = account
    return found


def closings(stated: dict[Owner, dict[str, Any]]) -> dict[Owner, int]:
    """The closing balances, where there is one."""
    told = {owner: minor(account["closing"], owner) for owner, account in stated.items()}
    return {owner: amount for owner, amount in told.items() if amount}


def ages(account: dict[str, Any], owner: Owner) -> dict[str, int]:
    """The open items of a statement by age."""
    return {each["age"]: minor(each["amount"], owner) for each in account["ageing"]}


async def sums(seller: Seller, statement: Any) -> dict[Owner, int]:
    """Minor units by customer and currency."""
    rows = await seller.rows(statement)
    return {(row.key, row.currency): row.amount for row in rows if row.amount}


def movements(account: dict[str, Any], owner: Owner) -> Counter[str]:
    """What moved the account, by kind."""
    found: Counter[str] = Counter()
    for row in account["rows"]:
        found[row["kind"]] += minor(row["amount"], owner)
    return Counter({kind: amount for kind, amount in found.items() if amount})


async def is_sound(dsn: str) -> None:
    """The audit finds nothing."""
    assert (await audited(dsn)).broken == []


async def check_month(seller: Seller, month: date) -> dict[Owner, dict[str, Any]]:
    """Five ways to the same receivables on the last day of the month; gives the statements."""
    ledger, ends_on = seller.ledger, following(month)
    stated = await accounts(seller, month, ends_on)
    expected = dict(ledger.receivables())
    assert await sums(seller, _ACCOUNT) == expected
    assert await sums(seller, _DUE) == expected
    assert closings(stated) == expected
    for owner, account in stated.items():
        aged = ages(account, owner)
        assert aged == ledger.ageing(owner, on=ends_on - timedelta(days=1)), owner
        moved = {kind: amount for kind, amount in ledger.moved[owner].items() if amount}
        assert movements(account, owner) == moved, owner
        opening = minor(account["opening"], owner)
        assert opening + sum(moved.values()) == minor(account["closing"], owner)
        kept = {name: minor(account[name]["closing"], owner) for name in KEPT}
        assert kept == dict(
            zip(KEPT, (ledger.balance[owner], ledger.unapplied(owner)), strict=True)
        )
    ledger.moved.clear()
    return stated


KEPT = ("customer_balance", "unapplied_cash")


async def play_month(seller: Seller, acts: MoneyActs, month: date) -> None:
    """A month of acts, up to its last second."""
    last = local_midnight(on=following(month), timezone=ZONE) - timedelta(seconds=1)
    minutes = int((last - seller.now).total_seconds()) // 60
    moments = sorted(seller.random.sample(range(1, minutes), DAYS_A_MONTH))
    start = seller.now
    for moment in moments:
        await seller.advance(start + timedelta(minutes=moment))
        for _ in range(ACTS_A_DAY):
            await acts.some(WEIGHTS)
    await seller.advance(last)


async def recheck(seller: Seller, told: dict[date, dict[Owner, dict[str, Any]]]) -> None:
    """What statements said of months gone by they say still."""
    for month, stated in told.items():
        again = await accounts(seller, month, following(month))
        for owner, account in stated.items():
            assert again[owner] == account, (month, owner)


@pytest.mark.parametrize("seed", [1, 5])
async def test_receivables_tie_at_every_month_end_of_a_year(database, database_url, seed):
    told: dict[date, dict[Owner, dict[str, Any]]] = {}
    async with open_seller(database=database, seed=seed) as seller:
        acts = MoneyActs(seller)
        for month in MONTHS:
            await play_month(seller, acts, month)
            told[month] = await check_month(seller, month)
            await is_sound(database_url)
            await recheck(seller, {month: told[month] for month in list(told)[-3:-1]})
        await recheck(seller, told)
    assert len(acts.done) >= len(WEIGHTS) - 2, set(WEIGHTS) - set(acts.done)
