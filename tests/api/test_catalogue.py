"""Sellers, customers, meters and plans, as they are made, read and changed."""

import json
from datetime import timedelta
from typing import Any

import pytest

from plans.model import Mode
from tests.api.world import CUSTOMER, METER, PLAN, START, World, make_seller

pytestmark = pytest.mark.anyio


async def test_the_seller_and_its_defaults(world: World) -> None:
    seller = (await world.send("GET", "/v1/seller")).json()
    assert seller == {
        "id": world.ours.id,
        "legal_name": "Ours",
        "mode": "test",
        "country": None,
        "currency": "USD",
        "timezone": "UTC",
        "address": None,
        "tax_ids": [],
        "series": "INV",
        "rounding": "half_up",
        "proration": "second",
        "last_day": "exclude",
        "net_terms_days": 30,
        "tax_rounding": "line",
        "branding": None,
        "payment_details": None,
        "default_locale": None,
        "tax_provider": None,
        "emails": None,
        "grace_hours": 0,
        "run_approval": False,
        "created_at": "2026-03-01T12:00:00Z",
        "clock_at": "2026-03-01T12:00:00Z",
    }


async def test_a_patch_changes_what_it_names(world: World) -> None:
    before = (await world.send("GET", "/v1/seller")).json()
    patch = {"timezone": "Europe/Berlin", "country": "DE", "proration": "day", "currency": "EUR"}
    answer = await world.send("PATCH", "/v1/seller", json=patch)
    assert answer.json() == before | patch
    assert (await world.send("GET", "/v1/seller")).json() == before | patch


async def test_terms_are_settled_by_the_first_posted_document(world: World, superuser: Any) -> None:
    await superuser.execute(
        """
        INSERT INTO journal_entries
          (seller, id, kind, source, entry_on, accounting_month, posted_at)
        VALUES ($1, 'je_1', 'invoice', 'inv_1', '2026-03-01', '2026-03-01', now())
        """,
        world.ours.number,
    )
    answer = await world.send("PATCH", "/v1/seller", json={"rounding": "half_even"})
    assert (answer.status_code, answer.json()["code"]) == (409, "settled_terms")
    same = await world.send("PATCH", "/v1/seller", json={"rounding": "half_up", "series": "B"})
    assert same.status_code == 200
    free = await world.send(
        "PATCH", "/v1/seller", json={"rounding": "half_even"}, key=world.theirs.keys["admin"]
    )
    assert free.status_code == 200


async def test_objects_are_dated_by_the_sellers_own_clock(world: World) -> None:
    live = await make_seller(world.database, name="Live", mode=Mode.LIVE)
    world.clock.move(timedelta(days=10))
    body = {"key": "new", "name": "New"}
    ours = (await world.send("POST", "/v1/customers", json=body)).json()
    theirs = (await world.send("POST", "/v1/customers", json=body, key=live.keys["admin"])).json()
    assert ours["created_at"] == START.isoformat().replace("+00:00", "Z")
    assert theirs["created_at"] == "2026-03-11T12:00:00Z"


async def test_a_customer_is_found_by_key_and_by_id(world: World) -> None:
    by_key = (await world.send("GET", "/v1/customers/acme")).json()
    by_id = (await world.send("GET", f"/v1/customers/{by_key['id']}")).json()
    assert by_key == by_id
    assert by_key["balance"] == "0.00"
    assert "number" not in by_key


async def test_a_customer_patch_leaves_printed_parties_alone(world: World, superuser: Any) -> None:
    query = "SELECT body->>'name' FROM parties WHERE seller = $1 ORDER BY 1"
    number = world.ours.number
    patch = {"name": "Acme Two", "po_number": "77", "currency": "JPY", "emails": []}
    changed = (await world.send("PATCH", "/v1/customers/acme", json=patch)).json()
    assert {name: changed[name] for name in patch} == patch
    assert changed["balance"] == "0"
    names = [row[0] for row in await superuser.fetch(query, number)]
    assert names == ["Acme", "Acme Two", "Ours"]
    cleared = await world.send("PATCH", "/v1/customers/acme", json={"po_number": None})
    assert cleared.json() == changed | {"po_number": None}
    back = await world.send("PATCH", "/v1/customers/acme", json={"name": "Acme"})
    assert back.json()["name"] == "Acme"
    party = await superuser.fetchval(
        "SELECT body->>'name' FROM customers JOIN parties USING (seller) "
        "WHERE seller = $1 AND parties.id = customers.party",
        number,
    )
    assert party == "Acme"


async def test_customers_must_make_sense(world: World) -> None:
    body = {
        "key": "new",
        "name": "New",
        "currency": "XXX",
        "timezone": "europe/berlin",
        "emails": ["ok@example.com", "nobody"],
    }
    answer = await world.send("POST", "/v1/customers", json=body)
    assert answer.status_code == 422
    assert {(error["pointer"], error["code"]) for error in answer.json()["errors"]} == {
        ("/currency", "unknown_currency"),
        ("/timezone", "unknown_timezone"),
        ("/emails/1", "invalid"),
    }


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"aggregation": "sum", "value": None}, "required"),
        ({"aggregation": "count", "value": "tokens"}, "invalid"),
    ],
)
async def test_a_meter_measures_a_property_unless_it_counts(
    world: World, change: dict[str, Any], code: str
) -> None:
    answer = await world.send("POST", "/v1/meters", json=METER | {"key": "new"} | change)
    assert answer.status_code == 422
    errors = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert errors == [("/value", code)]


async def test_a_version_never_changes_and_the_next_one_starts_from_the_latest(
    world: World,
) -> None:
    first = (await world.send("GET", "/v1/plans/pro")).json()
    price = {"key": "base", "kind": "recurring", "model": "flat", "flat_amount": "59.00"}
    path = "/v1/plans/pro/versions"
    world.clock.move(timedelta(seconds=1))
    second = (await world.send("POST", path, json={"prices": [price], "name": "Pro"})).json()
    assert (second["version"], second["name"], second["currency"]) == (2, "Pro", "USD")
    assert second["prices"][0]["flat_amount"] == "59.00"
    assert (await world.send("GET", "/v1/plans/pro")).json() == second
    assert (await world.send("GET", "/v1/plans/pro?version=1")).json() == first
    assert (await world.send("GET", f"/v1/plans/{first['id']}")).json() == first
    assert (await world.send("GET", "/v1/plans/pro?version=3")).status_code == 404
    listed = (await world.send("GET", "/v1/plans?key=pro")).json()["data"]
    assert listed == [first, second]
    refused = await world.send(
        "POST", path, json={"prices": [price], "key": "other", "currency": "EUR"}
    )
    pointers = {error["pointer"] for error in refused.json()["errors"]}
    assert (refused.status_code, pointers) == (422, {"/key", "/currency"})
    again = await world.send("POST", "/v1/plans", json=PLAN)
    assert (again.status_code, again.json()["code"]) == (409, "key_taken")


async def test_a_plan_names_meters_that_exist(world: World) -> None:
    body = json.loads(json.dumps(PLAN | {"key": "new"}))
    body["prices"][1]["meter"] = "unheard-of"
    answer = await world.send("POST", "/v1/plans", json=body)
    assert answer.status_code == 422
    errors = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert errors == [("/prices/1/meter", "unknown_meter")]


async def test_no_key_looks_like_an_id(world: World) -> None:
    acme = (await world.send("GET", "/v1/customers/acme")).json()
    answer = await world.send("POST", "/v1/customers", json={"key": acme["id"], "name": "Other"})
    errors = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert (answer.status_code, errors) == (422, [("/key", "invalid")])
    assert (await world.send("GET", f"/v1/customers/{acme['id']}")).json() == acme


@pytest.mark.parametrize("series", ["", "-A", "INV-CN"])
async def test_the_series_of_invoices_is_never_that_of_credit_notes(
    world: World, series: str
) -> None:
    answer = await world.send("PATCH", "/v1/seller", json={"series": series})
    errors = [(error["pointer"], error["code"]) for error in answer.json()["errors"]]
    assert (answer.status_code, errors) == (422, [("/series", "invalid")])


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        (
            "/v1/subscriptions",
            {"key": "new", "customer": "acme", "plan": "pro", "plan_version": 10**12},
            "/plan_version",
        ),
        (
            "/v1/subscriptions/s1/cancel",
            {"effective": "9999-12-31T23:59:59-10:00"},
            "/effective",
        ),
    ],
)
async def test_what_no_column_holds_is_refused(
    world: World, path: str, body: dict[str, Any], pointer: str
) -> None:
    for made, draft in (
        ("/v1/customers", CUSTOMER),
        ("/v1/meters", METER),
        ("/v1/plans", PLAN),
        ("/v1/subscriptions", {"key": "s1", "customer": "acme", "plan": "pro"}),
    ):
        assert (await world.send("POST", made, json=draft)).status_code in {201, 409}
    answer = await world.send("POST", path, json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
