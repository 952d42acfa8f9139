"""Documents written by hand print, explain themselves and are written once."""

from typing import Any

import pytest

from tests.api.world import World

TRAINING = {"key": "training", "name": "Training in Köln", "quantity": "2", "unit_amount": "45.5"}


@pytest.fixture
async def invoice(world: World) -> dict[str, Any]:
    body = {
        "customer": "acme",
        "currency": "USD",
        "lines": [TRAINING, {"key": "fee", "amount": "9"}],
    }
    answer = await world.send(
        "POST", "/v1/invoices", json=body, headers={"idempotency-key": "by-hand"}
    )
    again = await world.send(
        "POST", "/v1/invoices", json=body, headers={"idempotency-key": "by-hand"}
    )
    assert answer.status_code == again.status_code == 201, answer.text
    assert answer.json() == again.json()
    return answer.json()


async def test_a_line_by_hand_prints_and_explains_itself(world, invoice) -> None:
    assert (invoice["total"], invoice["status"]) == ("100.00", "open")
    pdf = await world.send("GET", f"/v1/invoices/{invoice['id']}.pdf")
    assert pdf.status_code == 200 and pdf.content.startswith(b"%PDF-")
    line = next(line for line in invoice["lines"] if line["key"] == "training")
    told = (await world.send("GET", f"/v1/invoices/lines/{line['id']}/explain")).json()
    assert told["text"] == "training: 2 x 45.5 = 91.00, written by hand\n"
    assert [each["account"] for each in told["journal"]] == ["contract_balance"]
    assert (told["price"], told["events"], told["posted_total"]) == (None, None, "91.00")


async def test_what_accounting_does_not_know_yet_is_refused_by_name(world) -> None:
    body = {"customer": "acme", "cancellable": True, "lines": [{"key": "fee", "amount": "9"}]}
    answer = await world.send("POST", "/v1/invoices", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/cancellable"
