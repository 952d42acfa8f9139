import pytest

from engine.journal import imbalance_minor
from invoicing.model import InvoiceStatus
from invoicing.payments import Part, Payable
from invoicing.refunds import RefundingNote, free_money, take_back, taken_postings


def paid(identity, minor):
    invoice = Payable(
        id=identity,
        number=identity,
        customer="cus_a",
        currency="EUR",
        status=InvoiceStatus.PAID,
        amount_due_minor=0,
        version=2,
    )
    return Part(invoice=invoice, amount_minor=minor)


@pytest.mark.parametrize(
    ("amount", "unapplied", "parts"),
    [
        (5, 5, []),
        (10, 10, []),
        (12, 10, [("b", 2)]),
        (40, 10, [("b", 30)]),
        (41, 10, [("b", 30), ("a", 1)]),
        (60, 10, [("b", 30), ("a", 20)]),
    ],
)
def test_what_waits_goes_first_then_what_was_paid_in_that_order(amount, unapplied, parts):
    found = [paid("b", 30), paid("none", 0), paid("a", 20)]
    taken = take_back(amount_minor=amount, unapplied_minor=10, paid=found)
    assert taken.amount_minor == amount
    assert taken.unapplied_minor == unapplied
    assert [(part.invoice.id, part.amount_minor) for part in taken.parts] == parts
    postings = taken_postings(
        taken=taken, payment="pay", customer="cus_a", source="ref", to_account="refunds_payable"
    )
    assert imbalance_minor(postings=postings) == 0
    assert postings[-1].amount_minor == -amount


def note(amount, *invoices):
    return RefundingNote(amount_minor=amount, invoices=invoices)


@pytest.mark.parametrize(
    ("notes", "wanted", "free"),
    [
        ([], ["a"], {"a": 100}),
        ([note(30, "a")], ["a"], {"a": 70}),
        ([note(30, "a", "b")], ["a"], {"a": 100}),
        ([note(30, "a", "b")], ["a", "b"], {"a": 70, "b": 50}),
        ([note(70, "a", "b")], ["a"], {"a": 80}),
        ([note(30, "a", "b"), note(30, "b", "a")], ["a"], {"a": 90}),
        ([note(200, "a", "b")], ["a", "b", "never paid"], {"a": 0, "b": 0, "never paid": 0}),
    ],
)
def test_a_note_about_several_invoices_keeps_back_what_it_pays_once(notes, wanted, free):
    assert free_money(paid={"a": 100, "b": 50}, notes=notes, wanted=wanted) == free
