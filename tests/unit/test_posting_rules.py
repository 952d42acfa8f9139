import pytest

from engine.journal import imbalance_minor
from invoicing.assembly import assemble
from invoicing.posting_rules import (
    balance_postings,
    credit_note_postings,
    invoice_postings,
    void_postings,
)
from tests.agreements import ACME, at, line


def draft(*lines):
    (made,) = assemble(
        seller_id="sel_1",
        customer=ACME,
        billed_at=at("2026-01-01"),
        issued_at=at("2026-01-01"),
        default_terms_days=30,
        ordinal=0,
        differences=lines,
    )
    return made


def told(postings):
    assert imbalance_minor(postings=postings) == 0
    assert {(each.customer, each.document) for each in postings} == {("cus_a", "doc")}
    return [(each.account, each.amount_minor, each.contract, each.line) for each in postings]


def test_an_invoice_debits_receivables_and_credits_each_contract():
    made = draft(line(7000, key="a"), line(3000, key="b"), line(-1000, key="c"))
    assert told(invoice_postings(draft=made, document="doc", lines=["l1", "l2", "l3"])) == [
        ("accounts_receivable", 9000, "", ""),
        ("contract_balance", -7000, "a", "l1"),
        ("contract_balance", -3000, "b", "l2"),
        ("contract_balance", 1000, "c", "l3"),
    ]


@pytest.mark.parametrize(
    ("applied", "sides"),
    [
        (0, [("customer_balance", -1000)]),
        (400, [("accounts_receivable", -400), ("customer_balance", -600)]),
        (1000, [("accounts_receivable", -1000)]),
    ],
)
def test_a_credit_note_credits_what_is_open_then_the_balance(applied, sides):
    postings = credit_note_postings(
        draft=draft(line(-1200), line(200)),
        document="doc",
        lines=["l1", "l2"],
        applied_minor=applied,
    )
    assert told(postings) == [
        ("contract_balance", 1200, "s1", "l1"),
        ("contract_balance", -200, "s1", "l2"),
        *((account, amount, "", "") for account, amount in sides),
    ]


def test_what_is_owed_as_a_refund_is_no_balance():
    postings = credit_note_postings(
        draft=draft(line(-1000)),
        document="doc",
        lines=["l1"],
        applied_minor=400,
        refunded_minor=500,
    )
    assert told(postings)[1:] == [
        ("accounts_receivable", -400, "", ""),
        ("refunds_payable", -500, "", ""),
        ("customer_balance", -100, "", ""),
    ]


def test_a_balance_that_is_used_pays_receivables():
    postings = balance_postings(draft=draft(line(3100)), document="doc", amount_minor=1100)
    assert told(postings) == [
        ("customer_balance", 1100, "", ""),
        ("accounts_receivable", -1100, "", ""),
    ]


def test_every_line_has_its_posting():
    with pytest.raises(ValueError, match="zip"):
        invoice_postings(draft=draft(line(1), line(2)), document="doc", lines=["l1"])


@pytest.mark.parametrize(
    ("due", "sides"),
    [
        (9000, [("accounts_receivable", -9000, "", "")]),
        (2000, [("accounts_receivable", -2000, "", ""), ("customer_balance", -7000, "", "")]),
    ],
)
def test_a_void_turns_the_issue_round_and_makes_balance_of_what_was_settled(due, sides):
    made = draft(line(7000, key="a"), line(3000, key="b"), line(-1000, key="c"))
    issued = invoice_postings(draft=made, document="doc", lines=["l1", "l2", "l3"])
    assert told(void_postings(issued=issued, due_minor=due, prepaid={})) == [
        *sides,
        ("contract_balance", 7000, "a", "l1"),
        ("contract_balance", 3000, "b", "l2"),
        ("contract_balance", -1000, "c", "l3"),
    ]


def test_a_void_gives_grants_back_what_they_paid():
    made = draft(line(9000, key="a"))
    issued = invoice_postings(draft=made, document="doc", lines=["l1"])
    assert told(void_postings(issued=issued, due_minor=2000, prepaid={"crg_1": 4000})) == [
        ("accounts_receivable", -2000, "", ""),
        ("customer_balance", -3000, "", ""),
        ("contract_balance", 9000, "a", "l1"),
        ("prepaid_credits", -4000, "crg_1", ""),
    ]
