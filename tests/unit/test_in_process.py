"""Requests without a socket, sent again while they cannot be taken."""

import pytest

from api.in_process import Client, PatientClient


class Door:
    """An application that says its lines, one a request, and then that all is well."""

    def __init__(self, *lines):
        self.lines, self.asked = list(lines), []

    async def __call__(self, scope, receive, send):
        body = (await receive())["body"]
        self.asked.append((dict(scope["headers"]).get(b"idempotency-key"), body))
        status, headers = self.lines.pop(0) if self.lines else (200, [])
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})


AT_ONCE = [(b"retry-after", b"0")]
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [429, 503])
async def test_what_cannot_be_taken_now_is_sent_again_as_it_was(status):
    door = Door((status, AT_ONCE), (status, AT_ONCE))
    answer = await PatientClient(application=door, key="k").create("/v1/customers", {"key": "a"})
    assert answer.status == 200
    assert len(door.asked) == 3
    ((key, body),) = set(door.asked)
    assert len(key) == 32 and body == b'{"key":"a"}'


@pytest.mark.parametrize("status", [200, 400, 409, 422, 500])
async def test_any_other_answer_is_given_as_it_is(status):
    door = Door((status, []))
    answer = await PatientClient(application=door, key="k").post("/v1/events", [])
    assert (answer.status, len(door.asked)) == (status, 1)


async def test_patience_ends():
    door = Door((503, AT_ONCE))
    client = PatientClient(application=door, key="k", patience_seconds=0)
    assert (await client.get("/v1/invoices")).status == 503


async def test_each_thing_made_is_a_thing_of_its_own():
    door = Door((503, AT_ONCE))
    client = Client(application=door, key="k")
    assert (await client.create("/v1/customers", {})).status == 503
    assert (await client.create("/v1/customers", {})).ok
    assert len({key for key, _ in door.asked}) == 2
