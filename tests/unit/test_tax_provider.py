"""What an outside tax engine is asked, and what of its answers is believed."""

import msgspec
import pytest

from engine.errors import BillingError
from invoicing.tax_provider import (
    AnsweredLine,
    AnsweredTax,
    AskedLine,
    TaxAnswer,
    TaxPlace,
    TaxQuestion,
    given_taxes,
    question_hash,
)
from plans.model import Address
from plans.tax_providers import (
    TaxProviderTerms,
    is_public,
    kept,
    shown,
    tax_provider_errors,
)

TEXAS = TaxPlace(country="US", address=Address(region="TX"), tax_ids=())
LINES = (
    AskedLine(index=0, product="seats", meter=None, quantity="2", amount="31.00"),
    AskedLine(index=3, product="calls", meter="calls", quantity=None, amount="-10.00"),
)
QUESTION = TaxQuestion(
    date="2026-01-31", currency="USD", seller=TEXAS, customer=TEXAS, customer_key="a", lines=LINES
)
URL = "https://tax.example/v1"


def answer(*first: dict, rest: tuple[dict, ...] = ()) -> TaxAnswer:
    """Those taxes on the first line, and those on the other."""
    lines = [(0, first), (3, rest)]
    return TaxAnswer(
        lines=tuple(
            AnsweredLine(index=index, taxes=msgspec.convert(taxes, tuple[AnsweredTax, ...]))
            for index, taxes in lines
        )
    )


def tax(percentage: str, amount: str, **fields: str) -> dict[str, str]:
    return {"jurisdiction": "US-TX", "percentage": percentage, "amount": amount} | fields


def test_amounts_are_those_of_the_answer_to_the_minor_unit() -> None:
    found = given_taxes(
        question=QUESTION,
        answer=answer(
            tax("6.25", "1.94"), tax("2", "0.61", name="Austin"), rest=(tax("6.25", "-0.63"),)
        ),
    )
    assert [(one.percentage, one.amount_minor) for one in found[0]] == [("6.25", 194), ("2", 61)]
    assert [one.amount_minor for one in found[3]] == [-63]
    assert [one.rate for one in found[0]] == ["", "Austin"]


@pytest.mark.parametrize(
    ("given", "category"),
    [
        (tax("0", "0.00"), "zero"),
        (tax("0", "0.00", category="exempt", reason="resale"), "exempt"),
        (tax("0", "0", category="reverse_charge"), "reverse_charge"),
    ],
)
def test_why_nothing_is_taxed(given, category) -> None:
    found = given_taxes(question=QUESTION, answer=answer(given))
    assert [(one.category, one.amount_minor) for one in found[0]] == [(category, 0)]


@pytest.mark.parametrize(
    "wrong",
    [
        answer(tax("6.25", "1.96")),
        answer(tax("6.25", "-1.94")),
        answer(tax("6.25", "1.945")),
        answer(tax("101", "31.31")),
        answer(tax("999999999999999999", "1.94")),
        answer(tax("5", "1.55", category="exempt")),
        answer(tax("0", "31.00")),
        TaxAnswer(lines=()),
        TaxAnswer(lines=(*answer().lines, *answer().lines)),
        TaxAnswer(lines=(AnsweredLine(index=0, taxes=()), AnsweredLine(index=1, taxes=()))),
    ],
)
def test_what_cannot_be_believed_is_refused(wrong) -> None:
    with pytest.raises(BillingError) as refused:
        given_taxes(question=QUESTION, answer=wrong)
    assert refused.value.code == "tax_answer_invalid"


def test_one_question_has_one_hash_and_another_has_another() -> None:
    name = question_hash(question=QUESTION, url=URL)
    assert name == question_hash(question=msgspec.structs.replace(QUESTION), url=URL)
    others = [
        question_hash(question=QUESTION, url=f"{URL}2"),
        question_hash(question=msgspec.structs.replace(QUESTION, date="2026-02-01"), url=URL),
        question_hash(question=msgspec.structs.replace(QUESTION, lines=LINES[:1]), url=URL),
    ]
    assert len({name, *others}) == 4


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("fd00::1", False),
        ("fe80::1", False),
    ],
)
def test_which_addresses_are_of_the_open_internet(address, public) -> None:
    assert is_public(address) is public


def test_a_secret_is_not_shown_and_does_not_move() -> None:
    terms = TaxProviderTerms(url=URL, authorization="Bearer x")
    hidden = shown(terms)
    assert hidden is not None
    assert hidden.authorization == "***"
    assert kept(hidden, present=terms) == terms
    moved = msgspec.structs.replace(hidden, url="https://other.example")
    found = kept(moved, present=terms)
    assert found is not None
    assert found.authorization is None
    assert kept(None, present=terms) is shown(None) is None
    assert tax_provider_errors(terms) == tax_provider_errors(None) == []
