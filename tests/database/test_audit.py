"""Each invariant is broken once, behind the guards' back, and exactly its check tells."""

import asyncpg
import pytest

from engine.audit import audit
from engine.db import PATIENT, open_database
from tests.books import write_books
from tests.database.breaking import WALLS

# The credit note as one by hand, on the first line of the first invoice.
BY_HAND = (
    "UPDATE credit_notes SET invoice = 'inv_1', reason = 'goodwill';"
    " UPDATE line_items SET price_interval = NULL, charge_start_at = NULL, sequence = 1"
    " WHERE id = 'li_4'"
)

# What is done to the books of seller 1 | the checks that tell | what they name.
PLANTS = [
    ("UPDATE invoices SET subtotal_minor = 3001 WHERE id = 'inv_2'", {"invoice_total"}, "inv_2"),
    (
        "UPDATE line_items SET amount_minor = -801 WHERE id = 'li_4'",
        {"credit_note_total", "entry_amount", "entry_lines"},
        "cn_1",
    ),
    (
        "UPDATE line_items SET amount_minor = 1 WHERE id = 'li_1'",
        {"invoice_total", "entry_amount", "entry_lines", "entry_held"},
        "inv_1",
    ),
    ("UPDATE line_taxes SET amount_minor = 201", {"line_parts", "entry_tax"}, "li_2"),
    ("UPDATE line_discounts SET amount_minor = 99", {"line_parts"}, "li_2"),
    ("UPDATE credit_draws SET amount_minor = 201", {"line_parts", "credit_left"}, "li_2"),
    (
        "UPDATE invoices SET amount_due_minor = 2799 WHERE id = 'inv_2'",
        {"amount_due", "receivable_control"},
        "inv_2",
    ),
    (
        "UPDATE invoices SET balance_applied_minor = 199 WHERE id = 'inv_2'",
        {"balance_applied"},
        "inv_2",
    ),
    (
        "UPDATE credit_notes SET applied_minor = 501, credited_minor = 299",
        {"credit_note_applied"},
        "cn_1",
    ),
    (
        (
            "ALTER TABLE invoices DROP CONSTRAINT invoices_check2;"
            " UPDATE invoices SET status = 'paid', paid_at = issued_at WHERE id = 'inv_2'"
        ),
        {"invoice_status", "receivable_control"},
        "inv_2",
    ),
    ("UPDATE line_items SET ordinal = 3 WHERE id = 'li_2'", {"document_lines"}, "inv_1"),
    (
        "UPDATE number_series SET next_sequence = 4 WHERE series = 'INV'",
        {"numbers_without_gap"},
        "INV",
    ),
    (
        (
            "UPDATE invoices SET sequence = 3, number = 'INV-000003' WHERE id = 'inv_2';"
            " UPDATE number_series SET next_sequence = 4 WHERE series = 'INV'"
        ),
        {"numbers_without_gap"},
        "INV",
    ),
    (
        "UPDATE invoices SET issued_at = issued_at - interval '1 second' WHERE id = 'inv_2'",
        {"numbers_in_order", "outbox_versions", "entry_instant"},
        "inv_2",
    ),
    ("UPDATE invoices SET number = 'INV-000001' WHERE id = 'inv_2'", {"number_text"}, "inv_2"),
    (
        "UPDATE line_items SET sequence = 3 WHERE id = 'li_4'",
        {"line_sequence"},
        "pri_a",
    ),
    ("UPDATE line_items SET adjusts = 'li_2' WHERE id = 'li_4'", {"line_adjusts"}, "li_4"),
    ("UPDATE line_items SET adjusts = 'li_9' WHERE id = 'li_4'", {"line_adjusts"}, "li_4"),
    ("UPDATE line_items SET price_key = 'fee' WHERE id = 'li_1'", {"line_interval"}, "li_1"),
    (
        "UPDATE postings SET amount_minor = 0 WHERE entry = 'je_2' AND ordinal = 3",
        {"entry_balanced", "customer_balance_control"},
        "je_2",
    ),
    (
        (
            "INSERT INTO journal_entries (id, kind, source, entry_on, accounting_month, posted_at)"
            " SELECT 'je_9', 'paid', source, entry_on, accounting_month, posted_at"
            " FROM journal_entries WHERE seller = 1 AND id = 'je_1'"
        ),
        {"entry_whole"},
        "je_9",
    ),
    (
        "UPDATE postings SET ordinal = 9 WHERE entry = 'je_1' AND ordinal = 2",
        {"entry_whole"},
        "je_1",
    ),
    (
        "UPDATE journal_entries SET entry_on = '2026-03-01' WHERE id = 'je_1'",
        {"entry_month"},
        "je_1",
    ),
    (
        "UPDATE journal_entries SET kind = 'x' WHERE id = 'je_1'",
        {"document_entry", "losses_left", "entry_lines", "entry_tax", "entry_held"},
        "inv_1",
    ),
    (
        "UPDATE held_entries SET is_entered = false",
        {"document_entry", "void_entry", "entry_held"},
        "inv_1",
    ),
    (
        "UPDATE held_entries SET ended_at = NULL, is_entered = false",
        {"document_entry", "receivable_control"},
        "inv_1",
    ),
    (
        "UPDATE journal_entries SET source = 'inv_9' WHERE id = 'je_1'",
        {"document_entry", "entry_held"},
        "inv_9",
    ),
    (
        (
            "UPDATE postings SET account = 'accounts_receivable' WHERE entry = 'je_1';"
            " UPDATE postings SET amount_minor = 11400 + 500 WHERE entry = 'je_1' AND ordinal = 1"
        ),
        {"entry_amount", "receivable_control", "entry_tax"},
        "inv_1",
    ),
    (
        (
            "INSERT INTO journal_entries (id, kind, source, entry_on, accounting_month, posted_at)"
            " SELECT 'je_9', 'voided', source, entry_on, accounting_month, posted_at"
            " FROM journal_entries WHERE seller = 1 AND id = 'je_3'"
        ),
        {"void_entry", "void_amount", "entry_whole"},
        "cn_1",
    ),
    (
        (
            "UPDATE invoices SET status = 'void', voided_at = issued_at, amount_due_minor = 1"
            " WHERE id = 'inv_2'"
        ),
        {"invoice_status", "void_entry", "receivable_control", "outbox_versions"},
        "inv_2",
    ),
    (
        "UPDATE customer_balances SET amount_minor = 101",
        {"customer_balance_control"},
        "cus_a EUR",
    ),
    (
        "UPDATE credit_grants SET amount_minor = 901 WHERE id = 'grt_b'",
        {"prepaid_credits_control"},
        "cus_a EUR",
    ),
    ("UPDATE credit_moves SET amount_minor = 501", {"credit_left"}, "grt_a"),
    ("UPDATE credit_reservations SET amount_minor = 51", {"credit_left"}, "grt_a"),
    (
        "UPDATE credit_draws SET credit_grant = 'grt_b'",
        {"credit_draws", "prepaid_credits_control"},
        "li_2",
    ),
    ("UPDATE credit_grants SET currency = 'USD' WHERE id = 'grt_a'", {"credit_draws"}, "li_2"),
    (
        "UPDATE credit_notes SET refunded_minor = 100, credited_minor = 200",
        {"refund_of_credit_note"},
        "cn_1",
    ),
    (
        (
            "UPDATE invoices SET status = 'uncollectible', written_off_at = issued_at"
            " WHERE id = 'inv_2'"
        ),
        {"losses_left", "receivable_control"},
        "inv_2",
    ),
    (
        "UPDATE credit_notes SET invoice = 'inv_2', reason = 'goodwill'",
        {"credits_by_hand"},
        "cn_1",
    ),
    (f"{BY_HAND}; UPDATE credit_notes SET invoice = 'inv_2'", {"credits_by_hand"}, "li_4"),
    (
        (
            f"{BY_HAND}; UPDATE invoices SET amount_due_minor = 0, status = 'void',"
            " voided_at = issued_at WHERE id = 'inv_1'"
        ),
        {
            "credits_by_hand",
            "credited_at_most",
            "void_entry",
            "receivable_control",
            "outbox_versions",
        },
        "li_4",
    ),
    (
        f"{BY_HAND}; UPDATE line_items SET amount_minor = -10001 WHERE id = 'li_4'",
        {"credited_at_most", "credit_note_total", "entry_amount", "entry_lines"},
        "li_1",
    ),
    (
        f"{BY_HAND}; UPDATE line_items SET tax_minor = -1 WHERE id = 'li_4'",
        {"credited_at_most", "credit_note_total", "entry_amount", "line_parts"},
        "pri_a",
    ),
    (
        "UPDATE refunds SET amount_minor = 101",
        {"refunds_payable_control", "refund_of_payment", "refund_entry"},
        "cus_a EUR",
    ),
    (
        "UPDATE refunds SET status = 'succeeded', confirmed_at = created_at",
        {"refunds_payable_control", "cash_control", "refund_entry"},
        "cus_a EUR",
    ),
    (
        "UPDATE payments SET refunded_minor = 99",
        {"payment_used", "refund_of_payment"},
        "pay_a",
    ),
    (
        "UPDATE payments SET unapplied_minor = 299, refunded_minor = 101",
        {"unapplied_control", "refund_of_payment"},
        "cus_a EUR",
    ),
    ("UPDATE journal_entries SET kind = 'held' WHERE id = 'je_4'", {"payment_entry"}, "pay_a"),
    (
        "UPDATE journal_entries SET kind = 'returned' WHERE id = 'je_4'",
        {"payment_entry", "payment_returned"},
        "pay_a",
    ),
    ("UPDATE journal_entries SET kind = 'x' WHERE id = 'je_5'", {"refund_entry"}, "ref_a"),
    ("UPDATE outbox SET version = 2 WHERE object = 'inv_1'", {"outbox_versions"}, "inv_1"),
    ("DELETE FROM outbox WHERE object = 'cn_1'", {"outbox_versions"}, "cn_1"),
    (
        "UPDATE invoices SET run = 'run_9' WHERE id = 'inv_1'",
        {"references", "run_counts"},
        "invoices inv_1",
    ),
    (
        "UPDATE line_items SET price_interval = 'pri_9' WHERE id = 'li_3'",
        {"references"},
        "line_items li_3",
    ),
    (
        "UPDATE postings SET document = 'inv_9' WHERE entry = 'je_1' AND ordinal = 1",
        {"references", "receivable_control"},
        "postings je_1 1",
    ),
    (
        (
            "INSERT INTO parties (seller, id, body) VALUES (2, 'party_2', '{}');"
            " UPDATE invoices SET billed_to = 'party_2' WHERE seller = 1 AND id = 'inv_1'"
        ),
        {"references"},
        "invoices inv_1",
    ),
    ("UPDATE event_inbox SET batch = 9", {"references"}, "event_inbox 9"),
    (
        (
            "INSERT INTO outbox (seller, id, type, object, version, occurred_at)"
            " VALUES (9, 'evt_9', 'x', 'cus_9', 1, now())"
        ),
        {"sellers"},
        "outbox",
    ),
    ("UPDATE backfill_batches SET batch = 9", {"references"}, "backfill_batches 9"),
    ("UPDATE backfill_batches SET backfill = 'bkf_9'", {"references"}, "backfill_batches 1"),
    ("DELETE FROM backfills", {"references"}, "backfill_batches 1"),
    (
        (
            "DELETE FROM backfills WHERE seller = 1;"
            " UPDATE backfills SET id = 'bkf_b' WHERE seller = 2;"
            " UPDATE backfill_batches SET backfill = 'bkf_b' WHERE seller = 1"
        ),
        {"references"},
        "backfill_batches 1",
    ),
    ("DELETE FROM event_keys WHERE ordinal = 0", {"event_batches"}, "1"),
    ("UPDATE event_keys SET ordinal = 5 WHERE ordinal = 1", {"event_batches"}, "1"),
    (
        "UPDATE event_measures SET events = 1",
        {"event_measures", "event_void_positions"},
        "1 ",
    ),
    ("UPDATE event_batches SET meters = '{}'", {"event_measures"}, "1 "),
    ("UPDATE event_chunks SET positions = ''", {"event_chunks"}, ""),
    ("UPDATE event_chunks SET last_customer = 0", {"event_chunks"}, ""),
    ("UPDATE event_chunks SET meter = 99", {"references"}, "event_chunks"),
    (
        "INSERT INTO event_voids (seller, batch, ordinal, voided_at) VALUES (1, 1, 2, now())",
        {"event_voids"},
        "1 2",
    ),
    (
        (
            "INSERT INTO event_void_positions (seller, meter, batch, ordinal, position)"
            " SELECT seller, meter, batch, 0, 0 FROM event_measures WHERE seller = 1"
        ),
        {"event_void_positions"},
        "1 ",
    ),
    ("DELETE FROM outbox WHERE object = 'uat_a'", {"usage_alert_triggers"}, "uat_a"),
    ("UPDATE outbox SET object = 'uat_b' WHERE id = 'evt_u'", {"usage_alert_triggers"}, "uat_a"),
    (
        "UPDATE customers SET parent = 'cus_b', payer = 'cus_c' WHERE seller = 1",
        {"payers"},
        "cus_a",
    ),
    (
        "UPDATE subscriptions SET payer = 'cus_b' WHERE seller = 1",
        {"payers", "due_instants"},
        "sub_a",
    ),
    ("DELETE FROM due_instants WHERE seller = 1", {"due_instants"}, "sub_a"),
    *(
        (f"UPDATE due_instants SET {wrong} WHERE seller = 1", {"due_instants"}, "sub_a")
        for wrong in (
            "bill_to = 'cus_b'",
            "key = 'beta'",
            "number = 0",
            "derived_through_at = now()",
        )
    ),
    *(
        (
            f"DROP TRIGGER same_bill_key ON subscriptions; UPDATE subscriptions SET {wrong}",
            {"due_instants", "guards"},
            "sub_a",
        )
        for wrong in ("bill_key = ''", "customer_number = 0")
    ),
    ("INSERT INTO due_instants VALUES (1, now(), 'x', 'a', 'a', 1, now())", {"due_instants"}, "x"),
    *WALLS,
]


@pytest.fixture(scope="module")
async def auditing(books_url):
    """A superuser's pool: it plants, becomes the auditor, and rolls everything back."""
    raw = await asyncpg.connect(books_url, timeout=60)
    try:
        await write_books(raw, id="sel_a")
        await write_books(raw, id="sel_b")
    finally:
        await raw.close()
    database = open_database(dsn=books_url, waiting=PATIENT)
    try:
        yield database
    finally:
        await database.close()


async def audit_after(database, planted=""):
    """What the auditor finds after statements that no trigger saw; undone at the end."""
    async with database.engine.connect() as connection:
        await connection.begin()
        for statement in (
            "SET LOCAL session_replication_role = replica",
            "SELECT set_config('app.seller', '1', true)",
            *filter(None, planted.split("; ")),
            "SET LOCAL session_replication_role = origin",
            "SELECT set_config('app.seller', '', true)",
            "SET LOCAL ROLE usance_auditor",
        ):
            await connection.exec_driver_sql(statement.strip())
        found = await audit(connection=connection)
        await connection.rollback()
    return found


async def test_sound_books_have_no_violation(auditing):
    assert await audit_after(auditing) == []


@pytest.mark.parametrize(("planted", "checks", "named"), PLANTS)
async def test_what_is_broken_is_told_by_its_check(auditing, planted, checks, named):
    found = await audit_after(auditing, planted)
    assert {violation.check for violation in found} == checks
    assert any(violation.object.startswith(named) for violation in found)


async def test_the_auditor_names_the_seller(auditing):
    planted = "UPDATE invoices SET number = 'X' WHERE seller = 2 AND id = 'inv_2'"
    assert [(v.check, v.seller, v.object) for v in await audit_after(auditing, planted)] == [
        ("number_text", 2, "inv_2")
    ]
