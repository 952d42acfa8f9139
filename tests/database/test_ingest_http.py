"""`POST /v1/events` through the whole application: media types, limits, refusals, clocks."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from api.app import create_app
from api.event_body import BODY_LIMIT_BYTES
from api.in_process import Client, lifespan
from metering.body_shape import MOST_EVENTS, MOST_VALUES
from metering.ingest import PATIENT_SECONDS
from metering.intake import read_events
from plans.create_seller import create_seller
from plans.drafts import SellerDraft
from plans.model import Mode
from tests.processes import SECONDS

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVENT = {"id": "a", "type": "call", "subject": "acme", "data": {"tokens": 1}}
CLOUD = EVENT | {
    "specversion": "1.0",
    "source": "/gateway",
    "datacontenttype": "application/json",
    "traceparent": "00-ab",
}


@contextlib.asynccontextmanager
async def served(
    database, *, mode: Mode = Mode.LIVE, clock=lambda: NOW, **fields
) -> AsyncIterator[Client]:
    draft = SellerDraft(legal_name="Nordwind", currency="EUR", mode=mode, **fields)
    made = await create_seller(database=database, draft=draft, now=NOW)
    application = create_app(database=database, clock=clock, commit_seconds=PATIENT_SECONDS)
    async with lifespan(application=application):
        yield Client(application=application, key=made.secret)


async def send(client: Client, content: bytes, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.send("POST", "/v1/events", content=content, headers=named)


def numbered(count: int) -> list[dict]:
    return [EVENT | {"id": str(number)} for number in range(count)]


@pytest.mark.parametrize(
    ("content", "headers", "accepted"),
    [
        (json.dumps(EVENT), {"content_type": "application/json"}, 1),
        (json.dumps(EVENT), {}, 1),
        (json.dumps(numbered(3)), {"content_type": "application/json; charset=utf-8"}, 3),
        (json.dumps(CLOUD), {"content_type": "application/cloudevents+json"}, 1),
        (
            json.dumps([CLOUD, CLOUD | {"id": "b", "source": "", "time": None, "data": None}]),
            {"content_type": "application/cloudevents-batch+json; charset=utf-8"},
            2,
        ),
        ("\n".join(map(json.dumps, numbered(3))), {"content_type": "application/x-ndjson"}, 3),
        (
            "\r\n\n".join(map(json.dumps, numbered(3))) + "\n",
            {"content_type": "application/jsonl"},
            3,
        ),
        ("\n".join(map(json.dumps, numbered(3))), {"content_type": "application/json"}, 3),
        (json.dumps(numbered(3), indent=2), {"content_type": "application/json"}, 3),
        ("[]", {"content_type": "application/json"}, 0),
    ],
)
async def test_events_come_in_several_forms(database, content, headers, accepted):
    async with served(database) as client:
        plain = await send(client, content.encode(), **headers)
        assert (plain.status, plain.json()) == (
            200,
            {"accepted": accepted, "duplicates": 0, "rejected": []},
        )
        packed = await send(
            client, gzip.compress(content.encode()), content_encoding="gzip", **headers
        )
        assert (packed.status, packed.json()["duplicates"]) == (200, accepted)


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"{", {}, 400, "malformed_json"),
        (b"[" * 100_000, {}, 400, "nested_too_deep"),
        (b"[]", {"content_type": "text/plain"}, 415, "unsupported_media_type"),
        (b"[]", {"content_encoding": "br"}, 415, "unsupported_media_type"),
        (b"[]", {"content_encoding": "gzip"}, 400, "malformed_gzip"),
        (gzip.compress(b"[]", mtime=0)[:-4], {"content_encoding": "gzip"}, 400, "malformed_gzip"),
        (gzip.compress(b"[]", mtime=0) + b"x", {"content_encoding": "gzip"}, 400, "malformed_gzip"),
        (b" " * (BODY_LIMIT_BYTES + 1), {}, 413, "body_too_large"),
        (json.dumps(numbered(MOST_EVENTS + 1)).encode(), {}, 413, "too_many_events"),
        (b"[" + b"7," * MOST_EVENTS + b"7]", {}, 413, "too_many_events"),
        (b"\n" * 600_000, {"content_type": "application/x-ndjson"}, 413, "too_many_events"),
        (b"[" + b"[]," * MOST_VALUES + b"7]", {}, 413, "too_many_values"),
        (
            gzip.compress(bytes(BODY_LIMIT_BYTES * 20), compresslevel=1),
            {"content_encoding": "gzip"},
            413,
            "body_too_large",
        ),
    ],
)
async def test_what_is_refused_whole(database, content, headers, status, code):
    async with served(database) as client:
        answer = await send(client, content, **headers)
        assert (answer.status, answer.json()["code"]) == (status, code)
        assert answer.json()["type"] == f"urn:usance:problem:{code}"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"specversion": "0.3"}, "invalid"),
        ({"specversion": 1.0}, "invalid"),
        ({"specversion": None}, "required"),
        ({"data_base64": "e30="}, "invalid"),
    ],
)
@pytest.mark.parametrize("by_lines", [False, True])
async def test_a_cloudevent_says_its_version_and_has_json(change, code, by_lines):
    content = [CLOUD, CLOUD | {"id": "b"} | change, CLOUD | {"id": "c"}]
    lines = b"\n".join(json.dumps(each).encode() for each in content)
    body = lines if by_lines else json.dumps(content).encode()
    intake = read_events(body, lines=by_lines, cloudevents=True)
    assert [each.id for each in intake.events] == ["a", "c"]
    assert [(each.index, each.id, each.code) for each in intake.rejected] == [(1, "b", code)]
    plain = read_events(body, lines=by_lines)
    assert (len(plain.events), plain.rejected) == (3, [])


async def test_a_key_that_is_too_fast_is_told_when_to_come_again(database):
    async with served(database) as client:
        body = {"name": "meter", "scopes": ["ingest"], "events_per_second": 1}
        made = (await client.post("/v1/api_keys", body)).json()
        assert made["events_per_second"] == 1
        slow = Client(application=client._application, key=made["secret"])
        first = await send(slow, json.dumps(numbered(1_000)).encode())
        assert first.status == 200
        second = await send(slow, json.dumps(EVENT | {"id": "late"}).encode())
        assert (second.status, second.json()["code"]) == (429, "rate_limited")
        assert 1 <= int(second.headers["retry-after"]) <= 999
        other = await send(client, json.dumps(EVENT | {"id": "late"}).encode())
        assert other.json()["accepted"] == 1


async def test_another_rate_of_a_key_holds_without_a_restart(database):
    now = NOW
    async with served(database, clock=lambda: now) as client:
        body = {"name": "meter", "scopes": ["ingest"], "events_per_second": 1}
        made = (await client.post("/v1/api_keys", body)).json()
        sender = Client(application=client._application, key=made["secret"])
        assert (await send(sender, json.dumps(numbered(1_000)).encode())).status == 200
        late = json.dumps(EVENT | {"id": "late"}).encode()
        assert (await send(sender, late)).status == 429
        path = f"/v1/api_keys/{made['id']}"
        changed = (await client.patch(path, {"events_per_second": 1_000_000})).json()
        kept = {name: value for name, value in made.items() if name != "secret"}
        assert changed == kept | {"events_per_second": 1_000_000}
        # By the old rate it would wait for a quarter of an hour.
        async with asyncio.timeout(SECONDS):
            while (answer := await send(sender, late)).status == 429:
                now += timedelta(seconds=1)
                await asyncio.sleep(0.05)
        assert answer.json()["accepted"] == 1
        await client.patch(path, {"events_per_second": None, "name": "unbound"})
        (kept,) = (
            each
            for each in (await client.get("/v1/api_keys")).json()["data"]
            if each["id"] == made["id"]
        )
        assert (kept["name"], kept["events_per_second"]) == ("unbound", None)


async def test_a_key_is_needed(database):
    async with served(database) as client:
        stranger = Client(application=client._application, key="usk_live_" + "x" * 43)
        answer = await send(stranger, json.dumps(EVENT).encode())
        assert (answer.status, answer.json()["code"]) == (401, "invalid_key")


async def test_a_test_sellers_own_clock_opens_the_window(database):
    past = datetime(2025, 1, 1, tzinfo=UTC)
    async with served(database, mode=Mode.TEST, clock_at=past) as client:
        stamped = [EVENT, EVENT | {"id": "b", "time": NOW.isoformat()}]
        answer = (await send(client, msgspec.json.encode(stamped))).json()
        assert answer["accepted"] == 1
        assert answer["rejected"][0] | {"detail": ""} == {
            "index": 1,
            "id": "b",
            "code": "too_far_ahead",
            "detail": "",
        }


async def test_a_body_that_does_not_come_is_given_up(database, monkeypatch):
    monkeypatch.setattr("api.ingest.BODY_SECONDS", 0.05)
    async with served(database) as client:
        sent: list[dict] = []

        async def never() -> dict:
            await asyncio.Event().wait()
            return {}

        async def collect(message: dict) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/v1/events",
            "raw_path": b"/v1/events",
            "query_string": b"",
            "root_path": "",
            "headers": client._headers,
            "client": None,
            "server": None,
            "state": {},
            "extensions": {},
        }
        await client._application(scope, never, collect)
        assert sent[0]["status"] == 408


async def test_the_description_names_the_route(database):
    async with served(database) as client:
        document = (await client.get("/openapi.json")).json()
        assert document["paths"]["/v1/events"]["post"]["operationId"] == "ingestEvents"
