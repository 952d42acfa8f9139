"""What documents tell beside their amounts, broken once each; and no check without its plant."""

import pytest

from engine.audit import CHECKS
from tests.database.test_audit import PLANTS, audit_after, auditing

__all__ = ["auditing"]
OF_TAX = "UPDATE line_taxes SET"
TOLD_HERE = "DELETE FROM tax_answers"  # and not by somebody else

# What is done to the books of seller 1 | the checks that tell | what they name.
TOLD = [
    (
        "DELETE FROM number_series WHERE series = 'INV-CN'",
        {"numbers_without_gap"},
        "INV-CN",
    ),
    ("UPDATE postings SET line = 'li_1' WHERE line = 'li_2'", {"entry_lines"}, "li_1"),
    ("UPDATE postings SET line = 'li_9' WHERE line = 'li_2'", {"entry_lines"}, "li_2"),
    ("UPDATE postings SET contract = 'inv_1' WHERE line = 'li_2'", {"entry_lines"}, "li_2"),
    (
        "UPDATE postings SET amount_minor = -11700 - amount_minor WHERE line IN ('li_1', 'li_2')",
        {"entry_lines"},
        "li_1",
    ),
    ("UPDATE line_items SET id = 'li_8' WHERE id = 'li_3'", {"entry_lines"}, "li_3"),
    ("UPDATE postings SET dimension = 'FR' WHERE dimension = 'DE'", {"entry_tax"}, "inv_1"),
    (f"{OF_TAX} jurisdiction = 'FR'", {"entry_tax"}, "inv_1"),
    (f"{OF_TAX} taxable_minor = 1701", {"line_part_rows"}, "li_2"),
    (f"{TOLD_HERE}; {OF_TAX} rate = 'txr', percentage = 19", set(), ""),
    (f"{OF_TAX} document = 'inv_2'", {"line_part_rows", "entry_tax"}, "li_2"),
    (f"{TOLD_HERE}; {OF_TAX} percentage = 19", {"line_part_rows"}, "li_2"),
    (f"{TOLD_HERE}; UPDATE tax_rates SET percentage = 19", {"line_part_rows"}, "li_2"),
    ("UPDATE line_discounts SET document = 'inv_2'", {"line_part_rows"}, "li_2"),
    (
        (
            "INSERT INTO line_discounts (document, line, application, amount_minor)"
            " VALUES ('inv_1', 'li_9', 'cpa_a', 1)"
        ),
        {"line_part_rows"},
        "li_9",
    ),
    ("UPDATE line_discounts SET application = 'cpa_9'", {"references"}, "line_discounts li_2"),
    ("UPDATE customers SET party = 'pty_9'", {"references"}, "customers cus_a"),
    ("UPDATE held_entries SET postings = '[]'", {"entry_held"}, "inv_1"),
    (
        "UPDATE held_entries SET ended_at = ended_at + interval '1 s'",
        {"entry_held", "entry_instant"},
        "inv_1",
    ),
    (
        "UPDATE held_entries SET postings = jsonb_set(postings, '{1,line}', '\"li_2\"')",
        {"entry_held"},
        "inv_1",
    ),
    (
        "UPDATE journal_entries SET posted_at = posted_at + interval '1 s' WHERE id = 'je_2'",
        {"entry_instant"},
        "inv_2",
    ),
    (
        "UPDATE outbox SET occurred_at = occurred_at - interval '1 s' WHERE object = 'cn_1'",
        {"outbox_versions"},
        "cn_1",
    ),
    (
        "UPDATE number_series SET last_issued_at = last_issued_at + interval '1 s'",
        {"numbers_without_gap"},
        "INV",
    ),
    (
        "UPDATE journal_entries SET accounting_month = '2026-03-01' WHERE id = 'je_1'",
        {"entry_month"},
        "je_1",
    ),
    ("UPDATE journal_entries SET entry_on = '2026-02-03' WHERE id = 'je_1'", {"entry_month"}, ""),
    ("UPDATE journal_entries SET entry_on = '2026-01-31' WHERE id = 'je_1'", {"entry_month"}, ""),
    (
        "UPDATE journal_entries SET entry_on = '2026-01-31', accounting_month = '2026-01-01'",
        set(),  # in a time zone of the west
        "",
    ),
    (
        "UPDATE postings SET customer = 'cus_9' WHERE account = 'tax_payable'",
        {"entry_customer", "references"},
        "je_1",
    ),
    (
        (
            "UPDATE line_items SET id = 'li_a1111' WHERE id = 'li_3';"
            " UPDATE postings SET line = 'li_a1111' WHERE line = 'li_3'"
        ),
        {"document_ids"},
        "li_a1111",
    ),
    (
        "UPDATE invoices SET prepaid_applied_minor = 1 WHERE id = 'inv_1'",
        {"prepaid_applied"},
        "inv_1",
    ),
    ("UPDATE billing_runs SET documents = 4", {"run_counts"}, "run_a"),
    ("UPDATE billing_runs SET lines = 3", {"run_counts"}, "run_a"),
    ("UPDATE invoices SET run = '' WHERE id = 'inv_1'", {"run_counts"}, "run_a"),
    (
        (
            "UPDATE line_items SET price_interval = NULL, subscription = NULL, contract = 's1',"
            " charge_start_at = NULL, unit_amount = '30.00', quantity = 2 WHERE id = 'li_3'"
        ),
        {"line_amount"},
        "li_3",
    ),
    (
        (
            "UPDATE line_items SET price_interval = NULL, subscription = NULL, contract = 's1',"
            " charge_start_at = NULL, unit_amount = '12.00', quantity = 2.5 WHERE id = 'li_3'"
        ),
        set(),
        "",
    ),
]


@pytest.mark.parametrize(("planted", "checks", "named"), TOLD)
async def test_what_is_told_wrong_is_told_by_its_check(auditing, planted, checks, named):
    found = await audit_after(auditing, planted)
    assert {violation.check for violation in found} == checks
    assert not checks or any(violation.object.startswith(named) for violation in found)


def test_every_check_is_broken_by_a_plant():
    told = set().union(*(checks for _, checks, _ in PLANTS + TOLD))
    assert {check.name for check in CHECKS} == told
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.sentence.endswith(".") for check in CHECKS)
