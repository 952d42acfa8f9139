"""What billing runs post, and what they leave alone."""

import pytest
from sqlalchemy import text

from engine.errors import BillingError
from tests.billing_world import SEATS, TIERS, at, plan, shop, violations

__all__ = ["shop"]

START = at("2026-01-01")


async def numbered(shop):
    return await shop.rows(
        "SELECT d.number, c.key, to_char(d.billed_at, 'MM-DD'), d.total_minor FROM"
        " (SELECT number, customer, billed_at, total_minor FROM invoices UNION ALL"
        " SELECT number, customer, billed_at, -total_minor FROM credit_notes) AS d"
        " JOIN customers c ON c.id = d.customer ORDER BY d.number"
    )


async def test_a_second_run_posts_nothing(shop, database_url):
    await shop.subscribe("s1", "acme", starts_at=START.isoformat())
    await shop.use("acme", at("2026-01-10"), 150)
    assert (await shop.bill(at("2026-02-01"))).documents == 2
    before = await shop.written()
    for as_of in (at("2026-02-01"), at("2026-02-01"), at("2026-02-20"), at("2026-01-15")):
        run = await shop.bill(as_of)
        assert (run.documents, run.lines, run.status) == (0, 0, "finished")
    after = await shop.written()
    assert {k: v for k, v in before.items() if k != "billing_runs"} == {
        k: v for k, v in after.items() if k != "billing_runs"
    }
    assert await shop.lines("INV-000002") == [
        ("seats", 3100, "initial"),
        ("tokens", 1050, "initial"),
    ]
    assert await violations(database_url) == []


async def test_one_invoice_collects_all_subscriptions_of_a_customer(shop):
    await shop.subscribe("s2", "acme", quantities={"seats": "2"}, net_terms_days=7)
    await shop.subscribe("s1", "acme")
    await shop.bill(START)
    assert await numbered(shop) == [("INV-000001", "acme", "01-01", 9300)]
    assert await shop.lines() == [("seats", 3100, "initial"), ("seats", 6200, "initial")]
    due = await shop.one("SELECT to_char(due_at, 'YYYY-MM-DD') FROM invoices")
    assert due == "2026-01-08"


async def test_a_second_document_of_an_instant_has_an_id_and_number_of_its_own(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(START)
    await shop.subscribe("s2", "acme", quantities={"seats": "2"})
    await shop.bill(START)
    await shop.subscribe("s3", "acme", quantities={"seats": "3"})
    await shop.bill(START)
    assert await numbered(shop) == [
        ("INV-000001", "acme", "01-01", 3100),
        ("INV-000002", "acme", "01-01", 6200),
        ("INV-000003", "acme", "01-01", 9300),
    ]
    assert await shop.one("SELECT count(DISTINCT id) FROM line_items") == 3
    assert await violations(database_url) == []


async def test_numbers_follow_due_instant_then_customer_key(shop):
    for key in ("zoe", "Bob", "amy"):
        await shop.customer(key)
    await shop.subscribe("z", "zoe", starts_at="2026-01-02T00:00:00Z")
    await shop.subscribe("b", "Bob", starts_at="2026-01-15T00:00:00Z")
    await shop.subscribe("a", "amy", starts_at="2026-01-15T00:00:00Z")
    await shop.bill(at("2026-02-15"))
    assert [(key, day) for _, key, day, _ in await numbered(shop)] == [
        ("zoe", "01-02"),
        ("Bob", "01-15"),
        ("amy", "01-15"),
        ("zoe", "02-02"),
        ("Bob", "02-15"),
        ("amy", "02-15"),
    ]


async def test_a_backdated_subscription_is_billed_instant_by_instant(shop):
    await shop.use("acme", at("2026-02-10"), 100)
    await shop.subscribe("s1", "acme", now=at("2026-04-10"), starts_at="2026-01-01T00:00:00Z")
    run = await shop.bill(at("2026-04-10"))
    assert run.documents == 4
    assert await numbered(shop) == [
        ("INV-000001", "acme", "01-01", 3100),
        ("INV-000002", "acme", "02-01", 3100),
        ("INV-000003", "acme", "03-01", 4100),
        ("INV-000004", "acme", "04-01", 3100),
    ]
    issued = await shop.rows("SELECT DISTINCT issued_at FROM invoices")
    assert issued == [(at("2026-04-10"),)]


async def test_a_credit_note_reduces_what_is_open_then_becomes_balance(shop, database_url):
    await shop.subscribe("s1", "acme", quantities={"seats": "10"})
    await shop.subscribe("s2", "acme", starts_at="2026-02-05T00:00:00Z")
    await shop.use("acme", at("2026-01-03"), 100)
    await shop.bill(START)
    await shop.bill(at("2026-02-01"))
    async with shop.database.transaction(seller=shop.seller) as connection:
        # 200.00 of the February invoice were paid by other means.
        await connection.execute(
            text(
                "UPDATE invoices SET amount_due_minor = 11000, version = version + 1"
                " WHERE number = 'INV-000002'"
            )
        )
    await shop.cancel("s1", now=at("2026-02-01"), effective="2026-02-01T00:00:00Z")
    await shop.bill(at("2026-02-01"))
    assert await numbered(shop) == [
        ("INV-000001", "acme", "01-01", 31000),
        ("INV-000002", "acme", "02-01", 32000),
        ("INV-CN-000001", "acme", "02-01", -31000),
    ]
    assert await shop.rows("SELECT applied_minor, credited_minor FROM credit_notes") == [
        (11000, 20000)
    ]
    assert await shop.rows("SELECT status, amount_due_minor FROM invoices ORDER BY sequence") == [
        ("open", 31000),
        ("paid", 0),
    ]
    assert await shop.rows("SELECT currency, amount_minor FROM customer_balances") == [
        ("EUR", 20000)
    ]
    await shop.bill(at("2026-02-05"))
    assert await shop.rows(
        "SELECT status, total_minor, balance_applied_minor, amount_due_minor, paid_at = issued_at"
        " FROM invoices WHERE number = 'INV-000003'"
    ) == [("paid", 3100, 3100, 0, True)]
    assert await shop.rows(
        "SELECT e.kind, p.account, p.amount_minor FROM journal_entries e JOIN postings p"
        " ON p.entry = e.id WHERE e.source = (SELECT id FROM invoices WHERE number = 'INV-000003')"
        " ORDER BY e.kind DESC, p.ordinal"
    ) == [
        ("issued", "accounts_receivable", 3100),
        ("issued", "contract_balance", -3100),
        ("balance_applied", "customer_balance", 3100),
        ("balance_applied", "accounts_receivable", -3100),
    ]
    told = [v.check for v in await violations(database_url)]
    # What was paid from outside the books is all that does not add up.
    assert set(told) == {"amount_due", "receivable_control", "outbox_versions"}


async def test_credit_goes_to_the_oldest_open_invoice_that_holds_the_charge(shop, database_url):
    yearly = SEATS | {"key": "yearly", "interval": {"unit": "year"}}
    await shop.publish_plan(plan(yearly, SEATS, key="mixed"))
    await shop.subscribe("s1", "acme", plan="mixed")
    for month in ("2026-01-01", "2026-02-01", "2026-03-01"):
        await shop.bill(at(month))
    await shop.cancel("s1", now=at("2026-03-01"))
    await shop.bill(at("2026-03-01"))
    credited = 31_00 + round(31_00 * 306 / 365)
    assert await shop.rows(
        "SELECT number, total_minor, amount_due_minor FROM invoices ORDER BY sequence"
    ) == [
        ("INV-000001", 6200, 6200 - credited),
        ("INV-000002", 3100, 3100),
        ("INV-000003", 3100, 3100),
    ]
    assert await violations(database_url) == []


async def test_late_usage_is_rated_through_the_tiers_of_its_period(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.use("acme", at("2026-01-10"), 90)
    await shop.bill(at("2026-02-01"))
    await shop.use("acme", at("2026-01-31T23:59"), 20)
    await shop.use("acme", at("2026-02-01"), 5)
    await shop.bill(at("2026-02-01"), pending=False)
    assert len(await shop.lines()) == 3
    await shop.bill(at("2026-02-02"))
    assert await shop.rows(
        "SELECT amount_minor, quantity, reason, sequence, period_start_at, period_end_at,"
        " adjusts IS NOT NULL FROM line_items WHERE price_key = 'tokens' ORDER BY sequence"
    ) == [
        (900, 90, "initial", 1, at("2026-01-01"), at("2026-02-01"), False),
        (110, 20, "late_usage", 2, at("2026-01-01"), at("2026-02-01"), True),
    ]
    await shop.bill(at("2026-03-01"))
    assert await shop.lines("INV-000004") == [("seats", 3100, "initial"), ("tokens", 50, "initial")]
    assert await violations(database_url) == []


async def test_late_usage_waits_for_the_next_due_instant(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-02-01"), pending=False)
    await shop.use("acme", at("2026-01-10"), 1)
    await shop.bill(at("2026-02-20"), pending=False)
    assert len(await numbered(shop)) == 2
    await shop.bill(at("2026-03-01"), pending=False)
    assert await shop.lines("INV-000003") == [("seats", 3100, "initial"), ("tokens", 10, "initial")]


async def test_late_usage_survives_an_older_document_of_the_same_customer(shop, database_url):
    await shop.subscribe("s1", "acme", starts_at="2026-01-05T00:00:00Z")
    await shop.bill(at("2026-02-05"))
    await shop.use("acme", at("2026-01-20"), 100)
    await shop.subscribe("s2", "acme", starts_at="2026-01-01T00:00:00Z")
    await shop.bill(at("2026-02-10"))
    assert (await shop.lines("INV-000003"))[0] == ("tokens", 1000, "initial")
    assert await violations(database_url) == []


async def test_late_usage_survives_a_run_for_an_earlier_instant(shop):
    await shop.subscribe("s1", "acme")
    await shop.bill(at("2026-02-01"))
    await shop.use("acme", at("2026-01-20"), 100)
    await shop.bill(at("2026-01-25"))
    await shop.bill(at("2026-02-10"))
    assert (await shop.lines())[-1] == ("tokens", 1000, "initial")


async def test_a_past_cancellation_bills_the_usage_of_a_period_still_open(shop, database_url):
    weekly = SEATS | {"interval": {"unit": "week"}}
    await shop.publish_plan(plan(weekly, TIERS, key="weekly"))
    await shop.subscribe("s1", "acme", plan="weekly")
    await shop.use("acme", at("2026-01-10"), 100)
    await shop.use("acme", at("2026-01-21"), 100)
    await shop.bill(at("2026-01-22"))
    await shop.cancel("s1", now=at("2026-01-25"), effective="2026-01-20T00:00:00Z")
    await shop.bill(at("2026-01-25"))
    # The fourth week goes, two of the third week's seven days, and the tokens of 19 days are due.
    assert await shop.rows(
        "SELECT price_key, amount_minor, period_start_at, period_end_at FROM line_items"
        " WHERE document = (SELECT id FROM credit_notes) ORDER BY ordinal"
    ) == [
        ("seats", -886, at("2026-01-20"), at("2026-01-22")),
        ("seats", -3100, at("2026-01-22"), at("2026-01-29")),
        ("tokens", 1000, at("2026-01-01"), at("2026-01-20")),
    ]
    await shop.bill(at("2026-03-01"))
    assert len(await numbered(shop)) == 5
    assert await violations(database_url) == []


async def test_documents_are_made_per_currency(shop, database_url):
    await shop.publish_plan(plan(SEATS | {"unit_amount": "500"}, key="yen", currency="JPY"))
    await shop.subscribe("s1", "acme")
    await shop.subscribe("s2", "acme", plan="yen")
    await shop.bill(START)
    assert await shop.rows(
        "SELECT number, currency, total_minor FROM invoices ORDER BY sequence"
    ) == [("INV-000001", "EUR", 3100), ("INV-000002", "JPY", 500)]
    await shop.cancel("s1", now=START)
    await shop.bill(START)
    assert await shop.rows("SELECT currency, applied_minor FROM credit_notes") == [("EUR", 3100)]
    assert await violations(database_url) == []


async def test_a_customers_own_currency_is_only_a_default(shop):
    await shop.customer("bob", currency="USD")
    await shop.subscribe("s1", "bob")
    await shop.bill(START)
    assert await shop.rows("SELECT currency FROM invoices") == [("EUR",)]
    for field, code in (("customer", "unknown_customer"), ("plan", "unknown_plan")):
        with pytest.raises(BillingError) as refused:
            await shop.subscribe("s1", **({"customer": "acme"} | {field: "nobody"}))
        assert refused.value.errors[0].code == code


async def test_lines_that_sum_to_zero_make_an_invoice_of_nothing(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(START)
    await shop.subscribe("s2", "acme")
    await shop.cancel("s1", now=START)
    await shop.bill(START)
    assert await shop.rows(
        "SELECT status, total_minor, amount_due_minor, version FROM invoices ORDER BY sequence"
    ) == [("open", 3100, 3100, 1), ("paid", 0, 0, 2)]
    assert await violations(database_url) == []


async def test_usage_of_twelve_digits_is_billed_exactly(shop, database_url):
    fine = TIERS | {"tiers": [{"unit_amount": "1000000000"}], "key": "fine"}
    await shop.publish_plan(plan(fine, key="fine"))
    await shop.subscribe("s1", "acme", plan="fine")
    await shop.use("acme", at("2026-01-02"), "0.000000012345")
    await shop.use("acme", at("2026-01-03"), "0.000000002649")
    await shop.bill(at("2026-02-01"))
    assert await shop.lines() == [("fine", 1499, "initial")]  # 0.000000014994 × 1,000,000,000
    assert await violations(database_url) == []


async def test_what_is_left_of_a_refund_is_owed_and_is_no_balance(shop, database_url):
    await shop.subscribe("s1", "acme", quantities={"seats": "10"})
    await shop.subscribe("s2", "acme")
    await shop.bill(START)
    async with shop.database.transaction(seller=shop.seller) as connection:
        # 300.00 of 341.00 were paid by other means.
        await connection.execute(
            text("UPDATE invoices SET amount_due_minor = 4100, version = version + 1")
        )
    await shop.cancel("s1", now=START, refund="refund")
    await shop.cancel("s2", now=START)
    await shop.bill(START)
    assert await shop.rows(
        "SELECT total_minor, applied_minor, refunded_minor, credited_minor FROM credit_notes"
    ) == [(34100, 4100, 30000, 0)]
    assert await shop.rows(
        "SELECT account, currency, amount_minor FROM postings p JOIN journal_entries e"
        " ON e.id = p.entry WHERE e.source LIKE 'cn_%' AND account <> 'contract_balance'"
        " ORDER BY account"
    ) == [("accounts_receivable", "EUR", -4100), ("refunds_payable", "EUR", -30000)]
    assert await shop.rows("SELECT amount_minor FROM customer_balances") == []
    told = {found.check for found in await violations(database_url)}
    assert told == {"amount_due", "receivable_control", "outbox_versions"}


@pytest.mark.parametrize("refund", ["credit", "refund", "none"])
async def test_a_cancellation_charges_nothing_beyond_the_agreed_end(shop, database_url, refund):
    await shop.subscribe("s1", "acme", ends_at="2026-01-11T00:00:00Z")
    await shop.bill(START)
    await shop.cancel("s1", now=at("2026-01-05"), effective="2026-01-06T00:00:00Z", refund=refund)
    for day in ("2026-01-05", "2026-01-06", "2026-02-01"):
        await shop.use("acme", at("2026-01-01T01:00"), 10)
        await shop.bill(at(day))
    seats = await shop.rows("SELECT amount_minor FROM line_items WHERE price_key = 'seats'")
    assert seats == ([(1000,), (-500,)] if refund != "none" else [(1000,)])
    assert await violations(database_url) == []


async def test_a_cancellation_may_come_earlier_but_not_again(shop, database_url):
    await shop.subscribe("s1", "acme")
    await shop.bill(START)
    await shop.cancel("s1", now=START, effective="2026-01-21T00:00:00Z")
    for effective in ("2026-01-21T00:00:00Z", "period_end"):
        with pytest.raises(BillingError) as refused:
            await shop.cancel("s1", now=at("2026-01-05"), effective=effective, refund="none")
        assert refused.value.code == "already_cancelled"
    await shop.cancel("s1", now=at("2026-01-05"), effective="2026-01-11T00:00:00Z")
    await shop.bill(at("2026-01-21"))
    assert await shop.lines() == [("seats", 3100, "initial"), ("seats", -2100, "proration")]
    assert await violations(database_url) == []
