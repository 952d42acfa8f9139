"""The server process: it drains, it works alone, it says why it cannot start."""

import contextlib
import signal
import socket
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

from tests.api.command_line import create_seller, usance
from tests.api.test_readme import serving
from tests.processes import SECONDS

pytestmark = pytest.mark.anyio


def ask(address: str, key: str, method: str, path: str, body: object = None) -> tuple[int, bytes]:
    connection = HTTPConnection(urlsplit(address).netloc, timeout=SECONDS)
    try:
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request(method, path, body=msgspec.json.encode(body), headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_request_under_way_is_answered_before_the_process_ends(
    database_url: str, tmp_path: Path
) -> None:
    _, key = create_seller(database_url=database_url, home=tmp_path)
    answers: list[tuple[int, bytes]] = []
    with contextlib.ExitStack() as stack:
        address, server = stack.enter_context(serving(database_url=database_url, home=tmp_path))
        raw = await asyncpg.connect(database_url, timeout=60)
        stack.callback(raw.terminate)
        held = raw.transaction()
        await held.start()
        await raw.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        body = {"key": "acme", "name": "Acme"}
        request = threading.Thread(
            target=lambda: answers.append(ask(address, key, "POST", "/v1/customers", body))
        )
        request.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while not await raw.fetchval(waiting):
            assert request.is_alive()
        server.send_signal(signal.SIGTERM)
        place = urlsplit(address)
        # No new connection is taken, the one under way is still there.
        while refused(place.hostname, place.port) is False:
            assert server.poll() is None
        assert request.is_alive()
        await held.rollback()
        request.join(SECONDS)
        assert server.wait() == 0, server.told()
    assert [status for status, _ in answers] == [201]


def refused(host: str | None, port: int | None) -> bool:
    try:
        socket.create_connection((host or "", port or 0), timeout=1).close()
    except OSError:
        return True
    return False


def test_a_taken_port_is_a_sentence(database_url: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = usance("serve", "--port", str(port), database_url=database_url, home=tmp_path)
    assert ended.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr
