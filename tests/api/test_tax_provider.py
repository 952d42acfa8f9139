"""Routes whose documents an outside engine taxes: asked between two tries, failing as a whole."""

import pytest

from tests.tax_engine import tax_engine

HAND = {"customer": "acme", "lines": [{"key": "training", "amount": "100.00"}]}


@pytest.fixture
def engine():
    with tax_engine() as running:
        yield running


@pytest.fixture
async def taxed(world, engine):
    world.database.private_addresses = True
    terms = {"url": engine.url, "authorization": "Bearer secret", "deadline_seconds": 30}
    answer = await world.send("PATCH", "/v1/seller", json={"tax_provider": terms})
    assert answer.json()["tax_provider"] == terms | {"authorization": "***"}, answer.text
    yield world
    world.database.private_addresses = False


async def test_an_invoice_by_hand_is_taxed_within_its_request(taxed, engine) -> None:
    key = {"idempotency-key": "once"}
    answer = await taxed.send("POST", "/v1/invoices", json=HAND, headers=key)
    assert answer.status_code == 201, answer.text
    invoice = answer.json()
    assert (invoice["tax"], invoice["total"]) == ("8.25", "108.25")
    assert [tax["jurisdiction"] for tax in invoice["taxes"]] == ["US-TX", "Austin"]
    assert engine.headers[0]["Authorization"] == "Bearer secret"
    again = await taxed.send("POST", "/v1/invoices", json=HAND, headers=key)
    assert (again.json(), len(engine.asked)) == (invoice, 1)


async def test_without_an_answer_nothing_is_written(taxed, engine) -> None:
    before = (await taxed.send("GET", "/v1/invoices")).json()
    engine.moods["acme"] = "down"
    answer = await taxed.send("POST", "/v1/invoices", json=HAND)
    assert (answer.status_code, answer.json()["code"]) == (503, "tax_provider_failed")
    assert (await taxed.send("GET", "/v1/invoices")).json() == before
    engine.moods.clear()
    assert (await taxed.send("POST", "/v1/invoices", json=HAND)).status_code == 201


async def test_a_preview_and_a_draft_are_taxed(taxed, engine) -> None:
    subscription = {"key": "n1", "customer": "acme", "plan": "pro"}
    body = {"customer": "acme", "subscribe": subscription, "as_of": "2026-06-01T00:00:00Z"}
    preview = await taxed.send("POST", "/v1/invoices/preview", json=body)
    assert preview.status_code == 200, preview.text
    taxes = [one["tax"] for one in preview.json()["invoices"]]
    assert len(taxes) > 1
    assert set(taxes) == {"4.04"}  # 49.00: 3.06 and 0.98
    await taxed.send("PATCH", "/v1/seller", json={"grace_hours": 48})
    assert (await taxed.send("POST", "/v1/subscriptions", json=subscription)).is_success
    await taxed.send("POST", "/v1/test_clock/advance", json={"to": "2026-03-01T13:00:00Z"})
    listed = (await taxed.send("GET", "/v1/invoices?customer=acme")).json()["data"]
    (draft,) = [one for one in listed if one["status"] == "draft"]
    assert draft["tax"] == "4.04"
    path = f"/v1/invoices/{draft['id']}"
    edit = {"key": "extra", "amount": "100.00", "reason": "agreed"}
    line = await taxed.send("POST", f"{path}/lines", json=edit)
    asked = len(engine.asked)
    done = await taxed.send("POST", f"{path}/finalize", json={"reason": "now"})
    assert (line.status_code, done.status_code) == (200, 200), (line.text, done.text)
    assert (done.json()["status"], done.json()["tax"]) == ("open", "12.29")
    assert len(engine.asked) <= asked + 1


@pytest.mark.parametrize(
    "url",
    ["ftp://tax.example", "https://", "https://a:b@tax.example", "https://tax.example:x/",
     "https://tax.example/#a", "https://täx.example/"],
)  # fmt: skip
async def test_an_address_that_cannot_be_called_is_refused(world, url) -> None:
    answer = await world.send("PATCH", "/v1/seller", json={"tax_provider": {"url": url}})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/tax_provider/url"]


async def test_a_secret_stays_with_its_address(taxed, superuser) -> None:
    read = "SELECT tax_provider ->> 'authorization' FROM sellers WHERE seller = $1"
    shown = (await taxed.send("GET", "/v1/seller")).json()["tax_provider"]
    await taxed.send("PATCH", "/v1/seller", json={"tax_provider": {**shown, "deadline_seconds": 9}})
    assert await superuser.fetchval(read, taxed.ours.number) == "Bearer secret"
    moved = {**shown, "url": "https://elsewhere.example/"}
    answer = await taxed.send("PATCH", "/v1/seller", json={"tax_provider": moved})
    assert answer.json()["tax_provider"]["authorization"] is None
    assert await superuser.fetchval(read, taxed.ours.number) is None
