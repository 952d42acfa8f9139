"""The Python client alone: what it sends, when, again, and what it gives back."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from tests.faults.flaky_proxy import scripted
from tests.processes import ROOT, SECONDS
from usance_client import Event, QueueFull, Rejection, UsageClient, new_event_id

CLIENT = ROOT / "clients" / "python"
UNAVAILABLE = b'{"code": "unavailable", "detail": "later"}'
TOO_LARGE = b'{"code": "body_too_large", "detail": "too large"}'


def nowhere() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def sender(url: str, **options: object) -> UsageClient:
    """A client that no slow machine makes impatient."""
    patient = {"timeout_seconds": SECONDS, "exit_seconds": SECONDS}
    return UsageClient(url=url, key="k", **(patient | options))


def record(client: UsageClient, count: int = 1) -> list[str]:
    return [client.record(type="call", subject="acme", data={"n": n}) for n in range(count)]


def ids(body: bytes) -> list[str]:
    return [each["id"] for each in json.loads(body)]


def test_an_id_is_a_uuid_of_version_7_that_sorts_by_time():
    before = time.time_ns() // 1_000_000
    made = []
    for _ in range(200):
        made.append(uuid.UUID(new_event_id()))
        time.sleep(0.000_01)
    assert {(each.version, each.variant) for each in made} == {(7, uuid.RFC_4122)}
    assert before <= made[0].int >> 80 <= made[-1].int >> 80 <= time.time_ns() // 1_000_000
    assert made == sorted(made)


def test_an_event_is_what_it_was_when_it_was_recorded():
    data = {"exact": Decimal("1E+3"), "tiny": Decimal("0.000000000001"), "at": datetime.min}
    with scripted([]) as (address, bodies), sender(address) as client:
        client.record(type="call", subject="acme", data=data, source="/eu", id="mine")
        data["exact"] = 7
    (event,) = json.loads(bodies[0])
    assert datetime.fromisoformat(event.pop("time")).utcoffset() == UTC.utcoffset(None)
    assert event == {
        "id": "mine",
        "type": "call",
        "subject": "acme",
        "source": "/eu",
        "data": {"exact": "1000", "tiny": "0.000000000001", "at": "0001-01-01T00:00:00"},
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": ""},
        {"subject": ""},
        {"data": {"n": float("nan")}},
        {"data": {"n": object()}},
        {"time": datetime(2026, 1, 1)},
    ],
)
def test_what_cannot_be_an_event_is_told_to_who_records_it(wrong):
    client = UsageClient(url=nowhere(), key="k")
    with pytest.raises((TypeError, ValueError)):
        client.record(**({"type": "call", "subject": "acme"} | wrong))
    assert client.close() == []


def test_batches_go_out_by_number_by_bytes_and_by_age():
    with scripted([]) as (address, bodies):
        with sender(address, batch_events=3, batch_seconds=60) as client:
            record(client, 7)
        assert [len(ids(each)) for each in bodies] == [3, 3, 1]
        bodies.clear()
        with sender(address, batch_bytes=400, batch_seconds=60) as client:
            record(client, 6)
        assert max(map(len, bodies)) <= 410
        assert sum(len(ids(each)) for each in bodies) == 6
        bodies.clear()
        client = sender(address, batch_seconds=0.02)
        record(client)
        until = time.monotonic() + SECONDS
        while client.pending and time.monotonic() < until:
            time.sleep(0.005)
        assert len(bodies) == 1
        assert client.close() == []


def test_the_same_ids_are_sent_again_and_not_before_retry_after():
    lines = [
        (503, UNAVAILABLE, {"Retry-After": "1"}),
        (200, b"<html>", {}),
        (200, b'{"accepted": 1, "duplicates": 0, "rejected": []}', {}),
        (401, b'{"code": "revoked_key", "detail": "gone"}', {}),
        (429, UNAVAILABLE, {"Retry-After": "soon", "Connection": "close"}),
    ]
    with (
        scripted(lines) as (address, bodies),
        sender(address) as client,
    ):
        made = record(client, 3)
        before = time.monotonic()
        assert client.flush(SECONDS)
        assert time.monotonic() - before > 1
        assert client.last_problem is None
    assert len(bodies) == 6
    assert len(set(bodies)) == 1
    assert ids(bodies[0]) == made


def test_a_batch_refused_whole_is_halved_until_the_event_to_blame_is_found():
    refused: list[Rejection] = []
    lines = [(413, TOO_LARGE, {}), (413, TOO_LARGE, {}), (413, TOO_LARGE, {})]
    with (
        scripted(lines) as (address, bodies),
        sender(address, on_reject=refused.append) as client,
    ):
        made = record(client, 4)
    assert [len(ids(each)) for each in bodies] == [4, 2, 1, 1, 1, 1]
    assert [(each.event.id, each.code) for each in refused] == [(made[0], "body_too_large")]


def test_a_callback_that_fails_stops_nothing(caplog):
    answer = {"index": 0, "id": "x", "code": "conflict", "detail": "taken"}
    body = json.dumps({"accepted": 1, "duplicates": 0, "rejected": [answer]}).encode()

    def fail(rejection: Rejection) -> None:
        raise KeyError(rejection.code)

    with (
        scripted([(200, body, {})]) as (address, bodies),
        sender(address, on_reject=fail) as client,
    ):
        record(client, 2)
        assert client.flush(SECONDS)
        record(client)
    assert len(bodies) == 2
    assert "on_reject failed" in caplog.text


def test_a_full_queue_raises_or_waits_and_what_was_not_sent_is_given_back(caplog):
    raising = UsageClient(url=nowhere(), key="k", queue_events=5, when_full="raise")
    made = record(raising, 5)
    with pytest.raises(QueueFull):
        record(raising)
    assert not raising.flush(0.05)
    left = raising.close(0.05)
    assert [each.id for each in left] == made
    with pytest.raises(RuntimeError, match="closed"):
        record(raising)

    waiting = UsageClient(url=nowhere(), key="k", queue_bytes=300, exit_seconds=0.05)
    record(waiting, 2)
    with pytest.raises(QueueFull):
        waiting.record(type="call", subject="acme", timeout_seconds=0.02)
    while waiting.last_problem is None:
        waiting.flush(0.05)
    with caplog.at_level(logging.ERROR), waiting:
        pass
    assert "usage events were not sent: ConnectionRefusedError" in caplog.text

    with scripted([]) as (address, bodies), sender(address) as client:
        for event in left:
            client.record_again(Event(id=event.id, content=event.content))
    assert ids(bodies[0]) == made


async def test_async_code_goes_on_while_there_is_no_room():
    with scripted([(503, UNAVAILABLE, {})]) as (address, bodies):
        client = sender(address, queue_events=1, batch_seconds=0)
        async with client:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            for _ in range(3):
                await client.record_async(type="call", subject="acme")
            assert await client.flush_async(SECONDS)
            counting.cancel()
    assert len({each for body in bodies for each in ids(body)}) == 3
    assert turns > 1


def test_an_idle_connection_that_was_ended_is_no_failure():
    with scripted([(200, b'{"accepted": 1, "duplicates": 0, "rejected": []}', {})]) as (first, _):
        client = sender(first)
        record(client)
        assert client.flush(SECONDS)
        connection = client._transport._connection
        assert connection is not None
        connection.sock.shutdown(socket.SHUT_RDWR)
        record(client)
        assert client.flush(SECONDS)
        assert client.last_problem is None
        assert client.close() == []


@pytest.mark.parametrize("url", ["billing.example.com", "ftp://billing.example.com", "https://"])
def test_an_address_must_be_one(url):
    with pytest.raises(ValueError, match="url must look like"):
        UsageClient(url=url, key="k")


def test_it_is_a_distribution_of_its_own_that_needs_nothing_else(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet",
         "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path / "wheels", "."],
        cwd=_copy_of(CLIENT, tmp_path / "source"), capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "wheels").iterdir()
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import usance_client as c; c.Event"
    subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", code], check=True, timeout=SECONDS
    )


def _copy_of(folder: Path, place: Path) -> Path:
    """A build leaves files beside the source: it gets a copy."""
    for path in folder.rglob("*"):
        if path.is_file() and not {"__pycache__", "build"} & set(path.parts):
            target = place / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return place
