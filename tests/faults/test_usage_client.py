"""The Python client against a real server, through a proxy that loses answers after the commit."""

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import msgspec
import pytest

from tests.api.command_line import create_live_seller
from tests.api.test_readme import serving
from tests.api.test_serve import ask
from tests.faults.flaky_proxy import flaky_proxy
from tests.processes import ROOT, SECONDS
from usance_client import Rejection, UsageClient

THREADS, EVENTS = 4, 400
SCRIPT = """
import os, sys
from usance_client import UsageClient
client = UsageClient(url=sys.argv[1], key=sys.argv[2], batch_seconds=600, exit_seconds=60)
client.record(type="call", subject="acme", data={"tokens": 100})
child = os.fork()
client.record(type="call", subject="acme", data={"tokens": 10 if child else 1})
if child:
    os.waitpid(child, 0)
"""


class Server:
    """A server with a meter that sums and a customer."""

    def __init__(self, address: str, key: str) -> None:
        self.address, self.key = address, key
        meter = {"key": "tokens", "event_type": "call", "aggregation": "sum", "value": "tokens"}
        assert ask(address, key, "POST", "/v1/meters", meter)[0] == 201
        assert ask(address, key, "POST", "/v1/customers", {"key": "acme", "name": "A"})[0] == 201

    def total(self) -> str:
        now = datetime.now(UTC)
        start, end = (quote((now + timedelta(days=days)).isoformat()) for days in (-40, 1))
        path = f"/v1/usage?customer=acme&meter=tokens&from={start}&to={end}&window=month"
        status, body = ask(self.address, self.key, "GET", path)
        assert status == 200, body
        return str(sum(int(row["quantity"]) for row in msgspec.json.decode(body)["data"]))

    def outcome(self, name: str) -> int:
        with urlopen(f"{self.address}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        (line,) = (
            one for one in lines if one.startswith(f'usance_events_total{{outcome="{name}"}}')
        )
        return int(float(line.split()[-1]))


@pytest.fixture
def server(database_url: str, tmp_path: Path):
    key = create_live_seller(database_url=database_url, home=tmp_path)
    with serving(database_url=database_url, home=tmp_path) as (address, _):
        yield Server(address, key)


def test_no_event_is_lost_and_none_counts_twice_behind_a_proxy_that_loses_answers(
    server, monkeypatch
):
    monkeypatch.setattr("usance_client.client._LONGEST_PAUSE_SECONDS", 0.01)
    refused: list[Rejection] = []
    with flaky_proxy(server.address, seed=7) as (address, done):
        client = UsageClient(
            url=address, key=server.key, batch_events=20, batch_seconds=0.01, queue_events=200,
            on_reject=refused.append, timeout_seconds=SECONDS,
        )  # fmt: skip

        def record() -> None:
            for value in range(EVENTS):
                client.record(type="call", subject="acme", data={"tokens": value})

        threads = [threading.Thread(target=record) for _ in range(THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert client.flush(SECONDS)
        assert client.close(SECONDS) == []
    assert done["lost after"] > 3
    assert server.outcome("duplicate") > 0
    assert server.outcome("accepted") == THREADS * EVENTS
    assert server.total() == str(THREADS * sum(range(EVENTS)))
    assert refused == []


def test_a_refused_event_is_told_and_harms_no_other(server):
    refused: list[Rejection] = []
    old = datetime.now(UTC) - timedelta(days=100)
    with UsageClient(
        url=server.address, key=server.key, on_reject=refused.append, exit_seconds=SECONDS
    ) as client:
        client.record(type="call", subject="acme", data={"tokens": 1}, id="same")
        client.record(type="call", subject="acme", data={"tokens": 2}, time=old)
        client.record(type="call", subject="acme", data={"tokens": 3}, id="same")
        client.record(type="call", subject="acme", data={"tokens": 4})
    assert [(each.event.body()["data"]["tokens"], each.code) for each in refused] == [
        (2, "too_old"),
        (3, "conflict"),
    ]
    assert server.total() == "5"


def test_what_is_recorded_is_sent_at_the_end_of_a_process_and_once_after_a_fork(server):
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, server.address, server.key],
        env={"PYTHONPATH": str(ROOT / "clients" / "python")},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert server.total() == "111"
