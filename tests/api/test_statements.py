"""Receipts and statements of account: on paper, in the customer's language, tied to the journal."""

from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from pypdf import PdfReader

from tests.api.world import World


async def post(world: World, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await world.send("POST", path, json=body)
    assert answer.is_success, answer.text
    return answer.json()


async def read(world: World, path: str) -> dict[str, Any]:
    answer = await world.send("GET", path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def paper(world: World, path: str) -> tuple[str, int]:
    """The text of a document and how many pages it has."""
    answer = await world.send("GET", path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/pdf"
    pages = PdfReader(BytesIO(answer.content)).pages
    return "\n".join(page.extract_text() for page in pages), len(pages)


def by_hand(amount: str, **fields: Any) -> dict[str, Any]:
    return {"customer": "acme", "lines": [{"key": "fee", "amount": amount}], **fields}


def money(amount: str, **fields: Any) -> dict[str, Any]:
    sent = {"customer": "acme", "amount": amount, "currency": "USD", "method": "bank"}
    return sent | fields


async def test_a_receipt_says_what_was_paid_and_what_is_kept(world) -> None:
    await world.send("PATCH", "/v1/customers/acme", json={"locale": "de"})
    first = await post(world, "/v1/invoices", by_hand("80.00"))
    paid = await post(world, "/v1/payments", money("100.00", reference="RF18 5390"))
    text, _ = await paper(world, f"/v1/payments/{paid['id']}.pdf")
    for shown in ("Zahlungsbeleg", paid["id"], first["number"], "Überweisung", "RF18 5390"):
        assert shown in text, shown
    assert "80,00" in text and "20,00" in text and "100,00" in text
    refused = await world.send("GET", f"/v1/payments/{paid['id']}.xml")
    assert refused.status_code == 404


async def test_a_receipt_is_its_sellers_alone(world) -> None:
    paid = await post(world, "/v1/payments", money("5.00"))
    theirs = world.theirs.keys["admin"]
    answer = await world.send("GET", f"/v1/payments/{paid['id']}.pdf", key=theirs)
    assert answer.status_code == 404


async def test_all_statements_are_the_receivables_and_the_paper_says_the_same(
    billed_world,
) -> None:
    world = billed_world
    await post(world, "/v1/invoices", by_hand("70.00"))
    await post(world, "/v1/invoices", by_hand("30.00", customer="beta"))
    await post(world, "/v1/payments", money("60.00"))
    closing = Decimal(0)
    for customer in ("acme", "beta"):
        answer = await read(world, f"/v1/customers/{customer}/statement")
        (account,) = answer["accounts"]
        closing += Decimal(account["closing"])
        assert sum(Decimal(age["amount"]) for age in account["ageing"]) == Decimal(
            account["closing"]
        )
    accounts = (await read(world, "/v1/accounts"))["data"]
    books = next(each for each in accounts if each["code"] == "accounts_receivable")
    assert closing == Decimal(books["balances"]["USD"])
    text, _ = await paper(world, "/v1/customers/acme/statement.pdf")
    (account,) = (await read(world, "/v1/customers/acme/statement"))["accounts"]
    assert {"invoice", "credit_note", "payment"} <= {row["kind"] for row in account["rows"]}
    for row in account["rows"]:
        assert (row["number"] or "Payment") in text
    assert f"${account['closing']}" in text


async def test_a_long_statement_runs_over_many_pages(world) -> None:
    for index in range(60):
        await post(world, "/v1/invoices", by_hand("1.00", due_at="2026-03-20T00:00:00Z"))
        if index % 3 == 2:
            await post(world, "/v1/payments", money("2.00", reference=f"R-{index}"))
    await world.send("PATCH", "/v1/customers/acme", json={"locale": "ar"})
    text, pages = await paper(world, "/v1/customers/acme/statement.pdf")
    assert pages >= 3 and "R-59" in text


@pytest.mark.parametrize(
    ("query", "status", "pointer"),
    [
        ("?from=2026-03-05&to=2026-03-01", 422, "/to"),
        ("?from=yesterday", 422, "/from"),
        ("?from=2027-01-01", 422, "/from"),
        ("?currency=XXQ", 422, "/currency"),
    ],
)
async def test_what_is_no_stretch_of_days_is_refused(world, query, status, pointer) -> None:
    answer = await world.send("GET", f"/v1/customers/acme/statement{query}")
    assert answer.status_code == status, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_sheet_has_one_currency(world) -> None:
    await post(world, "/v1/invoices", by_hand("1.00"))
    await post(world, "/v1/invoices", by_hand("1.00", currency="EUR"))
    refused = await world.send("GET", "/v1/customers/acme/statement.pdf")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/currency"
    text, _ = await paper(world, "/v1/customers/acme/statement.pdf?currency=EUR")
    assert "€1.00" in text
    theirs = world.theirs.keys["admin"]
    other = await world.send("GET", "/v1/customers/acme/statement", key=theirs)
    assert other.json()["accounts"][0]["rows"] == []
