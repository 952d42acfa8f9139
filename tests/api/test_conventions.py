"""What holds for every resource: problems, bodies, pages, keys."""

import asyncio
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from api.app import create_app
from engine.db import open_database
from metering.ingest import PATIENT_SECONDS
from plans.api_keys import Scope
from tests.api.world import CUSTOMER, PLAN, WallClock, World, make_key

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}


async def test_an_error_is_a_problem(world: World) -> None:
    answer = await world.send("GET", "/v1/customers/nobody")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:usance:problem:not_found",
        "title": "Not Found",
        "status": 404,
        "detail": "no customer 'nobody'",
        "code": "not_found",
        "errors": [],
    }


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/customers/a%00b", 404, "not_found"),
        ("GET", "/v1/plans?key=%00", 400, "invalid_parameter"),
        ("GET", "/v1/customers?limit=0", 400, "invalid_parameter"),
        ("GET", "/v1/customers?limit=201", 400, "invalid_parameter"),
        ("GET", "/v1/customers?limit=many", 400, "invalid_parameter"),
        ("GET", "/v1/customers?cursor=%21", 400, "invalid_cursor"),
        ("GET", "/v1/customers?cursor=YQ", 400, "invalid_cursor"),
        ("GET", "/v1/plans/pro?version=0", 400, "invalid_parameter"),
        ("GET", "/v1/plans/pro?version=99999999999", 400, "invalid_parameter"),
        ("DELETE", "/v1/customers", 405, "method_not_allowed"),
    ],
)
async def test_addresses_that_cannot_stand(
    world: World, method: str, path: str, status: int, code: str
) -> None:
    answer = await world.send(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", JSON, 400, "malformed_json"),
        (b"{", JSON, 400, "malformed_json"),
        (b'{"key": "a", "name": "\xff"}', JSON, 400, "malformed_json"),
        (b'{"key": "a", "name": "\\ud800"}', JSON, 400, "malformed_json"),
        (b"[" * 400_000, JSON, 400, "too_deep"),
        (b'{"key": ' + b"[" * 400_000, JSON, 400, "too_deep"),
        (b" " * 1_000_001, JSON, 413, "body_too_large"),
        (b'{"key": "a", "name": "A"}', {"content-type": "text/plain"}, 415, None),
        (b'{"key": "a", "name": "A"}', {}, 415, None),
        (b"[]", JSON, 422, "invalid_body"),
        (b"null", JSON, 422, "invalid_body"),
        (b'{"key": "a", "name": "A\\u0000"}', JSON, 422, "invalid_body"),
    ],
)
async def test_bodies_that_cannot_stand(
    world: World, content: bytes, headers: dict[str, str], status: int, code: str | None
) -> None:
    answer = await world.send("POST", "/v1/customers", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"] == (code or "unsupported_media_type")


async def test_an_escaped_backslash_before_u0000_is_plain_text(world: World) -> None:
    body = b'{"key": "a", "name": "A\\\\u0000"}'
    answer = await world.send("POST", "/v1/customers", content=body, headers=JSON)
    assert answer.status_code == 201
    assert answer.json()["name"] == "A\\u0000"


async def test_all_errors_of_a_body_at_once(world: World) -> None:
    body = json.loads(json.dumps(PLAN))
    del body["currency"]
    body["surprise"] = 1
    body["a/b~c"] = 1
    body["interval"] = {"unit": "fortnight", "count": "1"}
    body["prices"][0] |= {"flat_amount": 49, "bill": "sometimes"}
    body["prices"][1]["tiers"][0] |= {"up_to": "many"}
    body["prices"] += [{"key": "x", "kind": "usage", "model": "guess"}, {"key": "y"}, "z"]
    answer = await world.send("POST", "/v1/plans", json=body)
    assert answer.status_code == 422
    found = {(error["pointer"], error["code"]) for error in answer.json()["errors"]}
    assert found == {
        ("/currency", "required"),
        ("/surprise", "unknown_field"),
        ("/a~1b~0c", "unknown_field"),
        ("/interval/unit", "invalid"),
        ("/interval/count", "wrong_type"),
        ("/prices/0/flat_amount", "wrong_type"),
        ("/prices/0/bill", "invalid"),
        ("/prices/1/tiers/0/up_to", "invalid"),
        ("/prices/2/model", "invalid"),
        ("/prices/3/model", "required"),
        ("/prices/4", "wrong_type"),
    }


async def test_instants_need_an_offset_and_a_usual_year(world: World) -> None:
    for text in ("2026-01-01T00:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"):
        body = {"name": "k", "scopes": ["read"], "expires_at": text}
        answer = await world.send("POST", "/v1/api_keys", json=body)
        assert answer.status_code == 422, text
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/expires_at"]


async def test_what_is_finer_than_a_microsecond_is_cut(world: World) -> None:
    agreed = {"customer": CUSTOMER["key"], "plan": PLAN["key"]}
    for number, (sent, kept) in enumerate(
        (
            ("2030-01-31T23:59:59.9999999Z", "2030-01-31T23:59:59.999999Z"),
            ("2030-02-01T00:59:59.9999995001+01:00", "2030-01-31T23:59:59.999999Z"),
        )
    ):
        body = agreed | {"key": f"fine-{number}", "starts_at": sent}
        made = await world.send("POST", "/v1/subscriptions", json=body)
        assert made.json()["starts_at"] == kept
    name = "at 2030-01-31T23:59:59.9999999Z"
    made = await world.send("POST", "/v1/customers", json=CUSTOMER | {"key": "fine", "name": name})
    assert made.json()["name"] == name


async def test_fields_that_only_answers_have_are_refused(world: World) -> None:
    for field in ("id", "balance", "created_at", "number", "party", "seller"):
        body = CUSTOMER | {"key": "new", field: "1"}
        answer = await world.send("POST", "/v1/customers", json=body)
        assert answer.status_code == 422, field
        assert answer.json()["errors"] == [
            {
                "pointer": f"/{field}",
                "code": "unknown_field",
                "detail": f"there is no field '{field}'",
            }
        ]


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/meters", "/v1/plans", "/v1/api_keys"])
async def test_pages_walk_through_everything_once(world: World, path: str) -> None:
    whole = (await world.send("GET", path)).json()
    assert whole["next_cursor"] is None
    walked: list[Any] = []
    cursor = None
    while True:
        query = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        answer = await world.send("GET", path, params=query)
        page = answer.json()
        assert len(page["data"]) == 1
        walked += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert walked == whole["data"]
    assert [one["id"] for one in walked] == sorted(one["id"] for one in walked)


async def test_a_key_is_refused_from_its_revocation_and_from_its_expiry_on(world: World) -> None:
    for field in ("revoked", "expired"):
        body = {"name": "k", "scopes": ["read"]}
        if field == "expired":
            body["expires_at"] = (world.clock.now + timedelta(hours=1)).isoformat()
        made = (await world.send("POST", "/v1/api_keys", json=body)).json()
        key = made["secret"]
        assert (await world.send("GET", "/v1/seller", key=key)).status_code == 200
        if field == "revoked":
            gone = await world.send("DELETE", f"/v1/api_keys/{made['id']}")
            assert gone.json()["revoked_at"] is not None
        else:
            world.clock.move(timedelta(hours=1))
        answer = await world.send("GET", "/v1/seller", key=key)
        assert (answer.status_code, answer.json()["code"]) == (401, f"{field}_key")


async def test_a_secret_is_stored_nowhere(world: World, superuser: Any) -> None:
    headers = {"idempotency-key": "once"}
    body = {"name": "canary", "scopes": ["read"]}
    made = (await world.send("POST", "/v1/api_keys", json=body, headers=headers)).json()
    secret = made["secret"]
    again = (await world.send("POST", "/v1/api_keys", json=body, headers=headers)).json()
    assert again == made | {"secret": None}
    for row in await superuser.fetch("SELECT relname FROM pg_class WHERE relkind = 'r'"):
        if row["relname"].startswith(("pg_", "sql_")):
            continue
        for stored in await superuser.fetch(f'SELECT t::text FROM "{row["relname"]}" t'):
            text = stored["t"]
            assert secret not in text
            assert secret[12:].encode().hex() not in text


async def test_ingest_may_lag_a_second_behind_a_revocation_and_no_more(world: World) -> None:
    authenticator = world.app.state.authenticator
    key = await make_key(world.database, seller=world.ours.number, scopes=(Scope.INGEST,))
    ask = {
        "authorization": f"Bearer {key}",
        "scope": Scope.INGEST,
        "max_age": timedelta(seconds=1),
    }
    assert (await authenticator.authenticate(**ask)).seller == world.ours.number
    listed = (await world.send("GET", "/v1/api_keys")).json()["data"]
    for made in listed:
        if made["scopes"] == ["ingest"]:
            await world.send("DELETE", f"/v1/api_keys/{made['id']}")
    assert (await authenticator.authenticate(**ask)).seller == world.ours.number
    world.clock.move(timedelta(seconds=1))
    with pytest.raises(Exception, match="revoked_key"):
        await authenticator.authenticate(**ask)


async def test_an_absent_database_is_503_and_names_nothing_inside() -> None:
    away = open_database(dsn="postgresql://nobody@/none?host=/nonexistent-usance")
    app = create_app(database=away, clock=WallClock())
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://usance") as client:
        ready = await client.get("/readyz")
        alive = await client.get("/healthz")
        headers = {"authorization": f"Bearer usk_test_{'a' * 43}"}
        work = await client.get("/v1/seller", headers=headers)
    await away.close()
    assert (alive.status_code, ready.status_code, work.status_code) == (200, 503, 503)
    assert work.json()["code"] == "unavailable"
    assert work.headers["retry-after"] == "1"
    assert "nonexistent" not in work.text + ready.text


async def test_a_failure_of_ours_is_logged_and_told_without_its_insides(
    world: World, superuser: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await superuser.execute("ALTER TABLE customers RENAME COLUMN po_number TO gone")
    answer = await world.send("GET", "/v1/customers")
    assert answer.status_code == 500
    problem = answer.json()
    assert problem["code"] == "internal_error"
    assert "po_number" not in answer.text
    assert "SELECT" not in answer.text
    reference = problem["detail"].rpartition(" ")[2]
    assert reference in caplog.text


async def test_a_body_that_does_not_arrive_is_given_up(world: World) -> None:
    app = create_app(
        database=world.database,
        clock=world.clock,
        body_timeout_seconds=0,
        commit_seconds=PATIENT_SECONDS,
    )

    async def trickle() -> Any:
        yield b'{"key": '
        await asyncio.sleep(30)
        yield b'"a"}'

    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://usance") as client:
        headers = JSON | {"authorization": f"Bearer {world.ours.keys['admin']}"}
        answer = await client.post("/v1/customers", content=trickle(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (408, "body_too_slow")


@pytest.mark.parametrize(
    ("path", "pointer"),
    [
        ("/v1/events?from=0001-01-01T00:00:00%2B14:00", "/from"),
        ("/v1/events?to=9999-12-31T23:59:59-14:00", "/to"),
        (
            "/v1/usage?customer=acme&meter=tokens&to=2026-01-01T00:00:00Z&from=0001-01-01T00:00:00Z",
            "/from",
        ),
    ],
)
async def test_an_instant_of_a_query_lies_in_the_years_we_know(
    world: World, path: str, pointer: str
) -> None:
    answer = await world.send("GET", path)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_misspelt_filter_does_not_answer_with_everything(world: World) -> None:
    for path in ("/v1/invoices?custommer=acme", "/v1/events?State=unmatched", "/v1/seller?x=1"):
        answer = await world.send("GET", path)
        assert answer.status_code == 400, path
        problem = answer.json()
        assert problem["code"] == "invalid_parameter"
        assert problem["errors"][0]["code"] == "unknown_parameter"
